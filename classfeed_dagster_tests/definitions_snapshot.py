"""The recorded shape of what Dagster sees; running this module records it anew."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

SNAPSHOT = Path(__file__).parent / "data" / "definitions.txt"


def describe(definitions: dg.Definitions) -> str:
    """Assets with what they are made from, checks with whether they block, jobs, schedules and sensors; sorted."""
    graph = definitions.resolve_asset_graph()
    lines: list[str] = []
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        parents = " ".join(sorted(parent.to_user_string() for parent in node.parent_keys))
        lines.append(f"asset {node.group_name} {key.to_user_string()} <- {parents}".rstrip(" <-"))
    for check in sorted(graph.asset_check_keys):
        blocking = " blocking" if graph.get(check).blocking else ""
        lines.append(f"check {check.asset_key.to_user_string()}:{check.name}{blocking}")
    repository = definitions.get_repository_def()
    lines += [f"job {name}" for name in sorted(repository.job_names) if not name.startswith("__")]
    lines += sorted(f"schedule {one.name} {one.cron_schedule}" for one in repository.schedule_defs)
    lines += sorted(f"sensor {one.name}" for one in repository.sensor_defs)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from classfeed_dagster.definitions import build_definitions
    from classfeed_dagster.runtime import Runtime
    from classfeed_dagster.settings import Settings

    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(describe(build_definitions(Runtime(Settings()))))
