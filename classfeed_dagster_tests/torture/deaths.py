"""Ways for this process to die: at a write, an fsync, a new name, a removal, a request. Real SIGKILLs.

A *power cut* also takes away what was never flushed: file contents without fsync, names whose folder wasn't.
"""

# The store's operations call os, which is replaced here.
# ruff: noqa: PTH100, PTH110, PTH112, PTH115, PTH120, PTH202

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Reaper:
    """Counts the points at which the process could die, and dies at one of them."""

    def __init__(self, die_at: int = 0) -> None:
        self.die_at = die_at
        self.points: list[str] = []
        self.before_death: Callable[[], None] = lambda: None
        self._lock = threading.RLock()

    def point(self, what: str) -> None:
        with self._lock:
            self.points.append(what)
            if len(self.points) == self.die_at:
                self.before_death()
                os.kill(os.getpid(), signal.SIGKILL)


class Disk:
    """Patches what a local store does to its disk; everything outside ``root`` is left alone."""

    def __init__(self, root: Path, reaper: Reaper, *, power_cut: bool) -> None:
        self.root, self.reaper = str(root), reaper
        self._real: dict[str, Any] = {
            name: getattr(os, name) for name in ("fsync", "link", "replace", "mkdir", "unlink")
        }
        self._open = io.open
        self._dirty: set[str] = set()  # files with contents that aren't on the disk yet
        self._names: list[tuple[str, Callable[[], None]]] = []  # folder, how to take the name away again
        if power_cut:
            reaper.before_death = self._lose
        for name in self._real:
            setattr(os, name, getattr(self, f"_{name}"))
        io.open = builtins.open = self._opened

    def _inside(self, path: Any) -> bool:
        return str(os.path.abspath(os.fspath(path))).startswith(self.root)

    def _lose(self) -> None:
        for path in self._dirty:
            if os.path.exists(path):
                os.truncate(path, os.path.getsize(path) // 2)
        for _, undo in reversed(self._names):
            undo()

    def _named(self, path: str, undo: Callable[[], None]) -> None:
        self._names.append((os.path.dirname(path), undo))

    def _forget(self, path: str) -> None:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.exists(path):
            self._real["unlink"](path)

    def _opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa+") or not self._inside(file):
            return self._open(file, mode, *args, **kwargs)
        self.reaper.point("open")
        path = os.path.abspath(os.fspath(file))
        opened = self._open(file, mode, *args, **kwargs)
        self._dirty.add(path)
        self._named(path, lambda: self._forget(path))
        return _Torn(opened, self.reaper)

    def _fsync(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if not self._inside(path):
            return self._real["fsync"](handle)  # type: ignore[no-any-return]
        folder = os.path.isdir(path)
        self.reaper.point("fsync folder" if folder else "fsync file")
        self._real["fsync"](handle)
        if folder:
            self._names = [entry for entry in self._names if entry[0] != path]
        else:
            self._dirty.discard(path)
        return None

    def _link(self, source: Any, target: Any, **kwargs: Any) -> None:
        if self._inside(target):
            self.reaper.point("link")
        self._real["link"](source, target, **kwargs)
        if self._inside(target):
            path = os.path.abspath(os.fspath(target))
            self._named(path, lambda: self._forget(path))

    def _replace(self, source: Any, target: Any, **kwargs: Any) -> None:
        path = os.path.abspath(os.fspath(target))
        if not self._inside(path):
            self._real["replace"](source, target, **kwargs)
            return
        self.reaper.point("rename")
        before = Path(path).read_bytes() if os.path.exists(path) else None
        self._real["replace"](source, target, **kwargs)

        def undo() -> None:
            if before is None:
                self._forget(path)
            else:
                with self._open(path, "wb") as again:
                    again.write(before)

        self._named(path, undo)

    def _mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if self._inside(path):
            self.reaper.point("mkdir")
        self._real["mkdir"](path, *args, **kwargs)
        if self._inside(path):
            created = os.path.abspath(os.fspath(path))
            self._named(created, lambda: self._forget(created))

    def _unlink(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if self._inside(path):
            self.reaper.point("unlink")
        self._real["unlink"](path, *args, **kwargs)


class _Torn:
    """A file whose writes can be cut in half."""

    def __init__(self, file: Any, reaper: Reaper) -> None:
        self._file, self._reaper = file, reaper

    def write(self, data: bytes) -> int:
        self._reaper.point("write")
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._reaper.point("torn write")
        self._file.write(data[half:])
        return len(data)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def wire(client: Any, reaper: Reaper) -> None:
    """Kill the process at every S3 request, before it is sent or after its effect but before the answer is read."""
    client.meta.events.register("before-send.s3", lambda **_: reaper.point("request"))
    client.meta.events.register("after-call.s3", lambda **_: reaper.point("answer"))
