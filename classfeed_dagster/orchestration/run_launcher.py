"""Run launchers: Dagster's own, without the tags by which a run could change its own task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import ResumeRunContext, RunLauncher
from dagster_aws.ecs import EcsRunLauncher

from classfeed_dagster.errors import SafeguardError

# A person who may launch a run may set its tags. These would give a run its own command, role, network or queue, and
# so the worker's permissions for another purpose.
REFUSED_TAGS = frozenset({"ecs/container_overrides", "ecs/task_overrides", "ecs/run_task_kwargs"})
REFUSED_PREFIXES = ("dagster-k8s/", "dagster-celery/", "dagster-docker/")
# The order in which waiting steps start. It gives no permission.
ALLOWED_TAGS = frozenset({"dagster-celery/run_priority"})


class RunTagsRefusedError(SafeguardError):
    """A run carries tags that would change the command, role, network or queue of its task."""

    def __init__(self, tags: Iterable[str]) -> None:
        names = ", ".join(sorted(tags))
        super().__init__(f"Run tags not allowed: {names}. Launch the run again without them")


def refused_tags(tags: Iterable[str]) -> set[str]:
    """Return the tags that the launcher refuses."""
    return {
        tag for tag in tags if tag in REFUSED_TAGS or (tag.startswith(REFUSED_PREFIXES) and tag not in ALLOWED_TAGS)
    }


class PlainTags(RunLauncher):
    """Mixin of a run launcher that refuses tags which would change a run's task."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run in its own task. RunTagsRefusedError if its tags would change that task."""
        self._require_plain_tags(context.dagster_run.tags)
        super().launch_run(context)  # type: ignore[safe-super]  # that of the launcher it is mixed into

    def resume_run(self, context: ResumeRunContext) -> None:
        """Launch a replacement task for a run. RunTagsRefusedError if its tags would change that task."""
        self._require_plain_tags(context.dagster_run.tags)
        super().resume_run(context)

    @staticmethod
    def _require_plain_tags(tags: Iterable[str]) -> None:
        if refused := refused_tags(tags):
            raise RunTagsRefusedError(refused)


class RestrictedEcsRunLauncher(PlainTags, EcsRunLauncher):
    """ECS run launcher that starts every run with the command, role and network of the worker's task definition."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Launch by the family's name: ECS takes its latest active revision.

        The stock launcher keeps the revision of its start, which a later change of the stack deregisters
        (dagster-io/dagster#17607).
        """
        super().__init__(*arguments, **options)
        if self.task_definition is not None:
            self.task_definition = self.task_definition.rpartition("/")[2].partition(":")[0]
