"""Record the outputs in docs/examples anew: each file begins with its command, which runs on the demo's home.

    make demo FROM=2023-01-03
    .venv/bin/python scripts/record_examples.py [NAME...]

Files whose command has a comment are shortened by hand and left out. ``make docs`` puts the outputs into the pages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from render_docs import EXAMPLES, ROOT

PROGRAM = Path(sys.executable).with_name("classfeed")
WIDTH = "240"  # no table is broken into lines; as many columns as the widest needs


def record(example: Path) -> None:
    """Run an example's command and write its output below it."""
    line = example.read_text().splitlines()[0]
    arguments = line.removeprefix("$ classfeed ").split()
    run = subprocess.run(  # noqa: S603  # this project's program with the arguments that its docs show
        [PROGRAM, *arguments],
        env=os.environ | {"COLUMNS": WIDTH, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = [shown.rstrip().replace(f"{ROOT}/", "") for shown in run.stdout.rstrip().splitlines()]
    example.write_text("\n".join([line, *lines]) + "\n")


def main() -> None:
    """Record the named examples, or all that are not shortened."""
    names = set(sys.argv[1:])
    # The evidence of a date contains its reconciliation. The status is that of the demo, before a date runs again.
    for example in sorted(EXAMPLES.glob("*.txt"), key=lambda path: (path.stem not in ("reconcile", "status"), path)):
        if (example.stem in names or not names) and "#" not in example.read_text().splitlines()[0]:
            record(example)


if __name__ == "__main__":
    main()
