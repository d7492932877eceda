"""Start an environment as its templates describe it, put it to the test, and print what held: ``make production``.

Needs root, for namespaces; nothing outside them is changed. ``--short`` stops after one delivered date. ``--replay``
compares the deployment with that of the old pipeline.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from classfeed_dagster_tests.rehearsal.image import Image, ImageError, build_environment, default_base, root_filesystem
from classfeed_dagster_tests.rehearsal.network import enter_namespaces
from classfeed_dagster_tests.rehearsal.report import Report


def main() -> int:
    """Rehearse, in namespaces of its own."""
    parser = argparse.ArgumentParser(prog="make production", description=__doc__)
    parser.add_argument("--env", choices=("dev", "stg", "prod"), default="stg")
    parser.add_argument("--short", action="store_true", help="start, health, smoke and one date")
    parser.add_argument("--days", type=int, default=2, help="business dates with simulated customers")
    parser.add_argument(
        "--replay", type=int, metavar="ROUNDS", help="deploy as the old pipeline and as this one; compare"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="store that gets the rounds, for the owner's page")
    parser.add_argument(
        "--image", nargs="?", const=default_base(), metavar="BASE",
        help="build the image with buildah and run from its root filesystem; BASE: another base image, or a folder "
        "with a root filesystem (debootstrap). Without: the image's virtual environment on this machine's system",
    )  # fmt: skip
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is None:
        if os.geteuid():
            sys.stderr.write("make production needs root for its namespaces: run it with sudo\n")
            return 2
        with tempfile.TemporaryDirectory(prefix="classfeed-image-") as name, ExitStack() as stack:
            Path(name).chmod(0o755)
            try:  # before the namespaces, which have no way to a package index
                inside = (
                    build_environment(Path(name) / "classfeed")
                    if options.image is None
                    else stack.enter_context(root_filesystem(options.image, Path(name)))
                )
            except ImageError as error:
                sys.stderr.write(f"{error}\n")
                return 2
            return enter_namespaces(__package__, [*sys.argv[1:], "--inside", str(inside)])
    from classfeed_dagster_tests.rehearsal.pipelines import keep, table
    from classfeed_dagster_tests.rehearsal.steps import rehearse, rehearse_date, rehearse_pipelines

    report = Report()
    with tempfile.TemporaryDirectory(prefix="classfeed-production-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = Image(options.inside, options.image is not None)
        rounds = []
        if options.replay:
            rounds = rehearse_pipelines(options.env, folder, report, image, rounds=options.replay)
        elif options.short:
            rehearse_date(options.env, folder, report, image)
        else:
            rehearse(options.env, folder, report, days=options.days, image=image)
    sys.stdout.write(f"\n{report.markdown()}\n")
    if rounds:
        sys.stdout.write(table(rounds))
        if options.keep is not None:
            keep(rounds, options.keep)
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
