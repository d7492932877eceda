"""Memory settings of a process: freed memory returns to the system soon, and garbage is collected less often.

Polars computes in one thread. More threads share the small frames of a slice for a tenth more processor time and 20 MB,
and the peak would depend on the machine. A page is inspected while the next one is rendered instead.

Polars (jemalloc), Arrow (mimalloc by default) and Python (glibc) keep freed memory for speed. A step works on one slice
at a time, so the kept memory would be larger than the memory in use and double the peak.

Importing Dagster and building definitions creates a million objects that live as long as the process. Python's default
looks for cyclic garbage after every 700 (2,000 since 3.14), which is a quarter of the time until a command answers.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

# The libraries read these when they are loaded. A value that is set in the environment already is kept.
ENVIRONMENT = {
    "POLARS_MAX_THREADS": "1",
    # Freed pages return after 200 ms; two arenas instead of four a core.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
    "JE_ARROW_MALLOC_CONF": "dirty_decay_ms:200,muzzy_decay_ms:0,narenas:2",
}
# glibc's own names and numbers, from malloc.h, with their values.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# New container objects between two searches for cyclic garbage. Frames and tables are freed by reference count.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
_MALLOPT = {_TRIM_THRESHOLD: 1 << 20, _MMAP_THRESHOLD: 1 << 20, _ARENA_MAX: 2}


def configure() -> None:
    """Configure the allocators and threads of this process and its children, and this process's garbage collector."""
    youngest, *older = gc.get_threshold()
    if youngest:  # zero: somebody has switched the collector off
        gc.set_threshold(max(youngest, _OBJECTS_BETWEEN_COLLECTIONS), *older)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and no need of it
    if mallopt is not None:
        for option, bytes_or_count in _MALLOPT.items():
            mallopt(option, bytes_or_count)
