"""Lock what goes into the image: the project's run-time dependencies, at the versions the tests ran with, with hashes.

The image must not carry the test tools, so it has a lock of its own; `requirements.lock` constrains it, so that the
two cannot drift apart. Run ``python -m deploy.lock`` after ``make lock``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE_LOCK = ROOT / "deploy" / "requirements.lock"
PROJECT_LOCK = ROOT / "requirements.lock"
EXTRAS = ("snowflake",)

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    """Package name (normalised) to version, as locked in ``lock``."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in _PIN.findall(lock.read_text())}


def command() -> list[str]:
    """The resolver's command line, relative to the project's root."""
    extras = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    return [
        str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header", *extras,
        "--constraint", PROJECT_LOCK.name, "pyproject.toml", "deploy/requirements.in",
        "--output-file", str(IMAGE_LOCK.relative_to(ROOT)),
    ]  # fmt: skip


def main() -> None:
    """Write ``deploy/requirements.lock``."""
    # Only the versions matter as constraints; the resolver refuses hashes there.
    subprocess.run(command(), cwd=ROOT, check=True)  # noqa: S603 - a fixed command line


if __name__ == "__main__":
    main()
