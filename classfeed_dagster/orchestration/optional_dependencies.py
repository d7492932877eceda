"""Optional dependencies of executors, with an error that names the missing extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from classfeed_dagster.errors import ConfigurationError


class ExecutorError(ConfigurationError):
    """The configured executor cannot be used here. The message names the package or setting that is missing."""


@contextmanager
def extra_needed(executor: str, extra: str) -> Iterator[None]:
    """Raise ExecutorError with the extra's name if an import within the block fails because a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExecutorError(
            f"CLASSFEED_EXECUTOR={executor} needs {error.name}, which is not installed: "
            f"pip install 'classfeed-dagster[{extra}]'"
        ) from error
