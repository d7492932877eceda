"""Locks of the other environments, with hashes, at the versions that the tests ran with.

Three locks: the image's run-time dependencies (without test tools), the tools that build its wheel, and the
infrastructure's tools. `requirements.lock` constrains them, so that they equal the tested versions. Part of
``make lock``; needs uv next to the interpreter.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT_LOCK = ROOT / "requirements.lock"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock file: what it is made from, and whether the tested versions constrain it."""

    name: str
    sources: tuple[str, ...]
    extras: tuple[str, ...] = ()
    constrained: bool = True

    @property
    def path(self) -> Path:
        """Return the lock file."""
        return ROOT / "deploy" / self.name


# The image is run worker, Celery worker and sender of files. Nothing of a laptop's (extra `embedded`) belongs in it.
IMAGE = Lock(
    "requirements.lock", ("pyproject.toml",), extras=("production", "celery", "sftp", "openpgp", "opentelemetry")
)
BUILD = Lock("build.lock", ("deploy/build.in",))
INFRASTRUCTURE = Lock("infrastructure.lock", ("deploy/infrastructure.in",), constrained=False)
LOCKS = (IMAGE, BUILD, INFRASTRUCTURE)


def pins(lock: Path) -> dict[str, str]:
    """Package name (normalised) to version, as locked in ``lock``."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in _PIN.findall(lock.read_text())}


def command(lock: Lock) -> list[str]:
    """Return the resolver's command line for one lock, relative to the project's root."""
    extras = [argument for extra in lock.extras for argument in ("--extra", extra)]
    constraint = ["--constraint", PROJECT_LOCK.name] if lock.constrained else []
    return [
        str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header", *extras, *constraint,
        *lock.sources, "--output-file", str(lock.path.relative_to(ROOT)),
    ]  # fmt: skip


def main() -> None:
    """Write the lock files."""
    for lock in LOCKS:
        subprocess.run(command(lock), cwd=ROOT, check=True)  # noqa: S603 - a fixed command line


if __name__ == "__main__":
    main()
