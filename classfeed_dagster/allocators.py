"""Allocator settings by which freed memory returns to the system soon.

Polars (jemalloc), Arrow (mimalloc by default) and Python (glibc) keep freed memory for speed. A step works on one slice
at a time, so the kept memory would be larger than the memory in use and double the peak.
"""

from __future__ import annotations

import ctypes
import os
import sys

# The libraries read these when they are loaded. A value that is set in the environment already is kept.
ENVIRONMENT = {
    # Freed pages return after 200 ms; two arenas instead of four a core.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
    "JE_ARROW_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
}
# glibc's own names and numbers, from malloc.h, with their values.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MALLOPT = {_TRIM_THRESHOLD: 1 << 20, _MMAP_THRESHOLD: 1 << 20, _ARENA_MAX: 2}


def configure() -> None:
    """Configure the allocators of this process and of its children to return freed memory soon."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and no need of it
    if mallopt is not None:
        for option, bytes_or_count in _MALLOPT.items():
            mallopt(option, bytes_or_count)
