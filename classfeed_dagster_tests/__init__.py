import os

# Before Polars is loaded. One of two test processes computes with a single thread: results must not depend on it, and two
# processes with two threads each hinder each other on two cores.
if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
