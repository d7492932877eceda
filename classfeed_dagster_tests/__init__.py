import os

# Test processes compute with one thread each: the threads of a small frame cost more than they compute. Polars decides when
# it is imported.
if "PYTEST_VERSION" in os.environ:
    os.environ["POLARS_MAX_THREADS"] = "1"
