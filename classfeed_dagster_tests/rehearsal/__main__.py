"""Start an environment as its templates describe it, put it to the test, and print what held: ``make production``.

Needs root, for namespaces; nothing outside them is changed. ``--short`` stops after one delivered date.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from classfeed_dagster_tests.rehearsal.image import build_environment
from classfeed_dagster_tests.rehearsal.network import enter_namespaces
from classfeed_dagster_tests.rehearsal.report import Report


def main() -> int:
    """Rehearse, in namespaces of its own."""
    parser = argparse.ArgumentParser(prog="make production", description=__doc__)
    parser.add_argument("--env", choices=("dev", "stg", "prod"), default="stg")
    parser.add_argument("--short", action="store_true", help="start, health, smoke and one date")
    parser.add_argument("--image", type=Path, help="an unpacked image's /opt/classfeed; else it is made from the lock")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        if os.geteuid():
            sys.stderr.write("make production needs root for its namespaces: run it with sudo\n")
            return 2
        with tempfile.TemporaryDirectory(prefix="classfeed-image-") as name:
            Path(name).chmod(0o755)
            # Before the namespaces, which have no way to a package index.
            image = options.image or build_environment(Path(name) / "classfeed")
            return enter_namespaces(__package__, [*sys.argv[1:], "--image", str(image)])
    from classfeed_dagster_tests.rehearsal.steps import rehearse

    report = Report()
    with tempfile.TemporaryDirectory(prefix="classfeed-production-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        rehearse(options.env, folder, report, short=options.short, image=options.image)
    sys.stdout.write(f"\n{report.markdown()}\n")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
