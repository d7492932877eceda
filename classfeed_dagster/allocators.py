"""Allocators that give memory back: without this a process keeps the most that any step ever needed, and more.

Polars (jemalloc), Arrow (mimalloc unless told otherwise) and Python (glibc) each hoard what was freed, for speed. A
step works on one slice at a time, so that the hoard would be larger than what is in use: it doubles the peak.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Read by the libraries when they are loaded, so set before that. Who sets one in the environment has the last word.
ENVIRONMENT = {
    # Freed pages go back after a fifth of a second; two arenas instead of four a core.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
    "JE_ARROW_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
}
# glibc's own names and numbers, from malloc.h, with their values.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MALLOPT = {_TRIM_THRESHOLD: 1 << 20, _MMAP_THRESHOLD: 1 << 20, _ARENA_MAX: 2}


def configure() -> None:
    """Have the allocators of this process, and of those that it starts, give freed memory back soon."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and no need of it
    if mallopt is not None:
        for option, bytes_or_count in _MALLOPT.items():
            mallopt(option, bytes_or_count)
