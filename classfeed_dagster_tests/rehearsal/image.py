"""The image: its virtual environment alone, or the whole of it, built by buildah from the Dockerfile."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from classfeed_dagster_tests.fixtures.templates import ROOT
from deploy.lock import IMAGE

_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True)
class Image:
    """Built image at ``path``: ``whole``, a root filesystem, or only its virtual environment."""

    path: Path
    whole: bool

    @property
    def environment(self) -> Path:
        """Folder of the virtual environment."""
        return self.path / "opt/classfeed" if self.whole else self.path


class ImageError(Exception):
    """The image cannot be built on this machine. The message has the reason."""


def default_base() -> str:
    """Return the Dockerfile's base image."""
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(base)


@contextmanager
def root_filesystem(base: str, folder: Path) -> Iterator[Path]:
    """Build the image on ``base``, an image or a folder with a root filesystem; yield its own root filesystem.

    ImageError without buildah, or with its last lines if a step fails.
    """
    if shutil.which("buildah") is None:
        raise ImageError("--image needs buildah and root: apt-get install buildah")
    store = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
    try:
        if Path(base).is_dir():
            imported = _run(*store, "from", "scratch")
            _run(*store, "add", "--quiet", imported, str(Path(base).resolve()), "/")
            base = "localhost/base"
            _run(*store, "commit", "--quiet", "--rm", imported, base)
        trusted = ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"] if _AUTHORITIES.exists() else []
        _run(*store, "build", "--quiet", "--isolation", "chroot", "--format", "docker", *trusted,
             "--build-arg", f"BASE_IMAGE={base}", "--build-arg", "CODE_VERSION=release-1", "--tag", "classfeed", str(ROOT))  # fmt: skip
        yield Path(_run(*store, "mount", _run(*store, "from", "--pull-never", "localhost/classfeed")))
    finally:
        for command in (("umount", "--all"), ("rm", "--all")):
            subprocess.run([*store, *command], capture_output=True, check=False)


def _run(*command: str) -> str:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise ImageError(f"{' '.join(command[5:7])}: {process.stderr.strip()[-1500:]}")
    return process.stdout.strip().rpartition("\n")[2]


def build_environment(folder: Path) -> Path:
    """Build the environment in a folder; return the folder. CalledProcessError if a step fails.

    ``uv`` replaces the Dockerfile's ``pip``. Scripts find their interpreter in their own folder, since the environment
    is mounted at the image's path.
    """
    uv = str(Path(sys.executable).parent / "uv")
    wheels = folder.with_name(f"{folder.name}-wheels")
    install = [uv, "pip", "install", "--quiet", "--python", str(folder), "--no-deps", "--compile-bytecode"]
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    interpreter = str(Path(sys.executable).resolve())
    for command in (
        [uv, "venv", "--quiet", "--relocatable", "--python", interpreter, str(folder)],
        [*install, "--require-hashes", "-r", str(IMAGE.path)],
        [*build, "--out-dir", str(wheels)],
        [*install, "--no-index", "--find-links", str(wheels), "classfeed-dagster"],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    return folder
