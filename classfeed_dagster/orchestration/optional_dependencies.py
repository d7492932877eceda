"""Optional dependencies, with an error that names the missing extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from classfeed_dagster.errors import ConfigurationError


class ExecutorError(ConfigurationError):
    """A configured executor or service cannot be used here. The message names what is missing."""


@contextmanager
def extra_needed(setting: str, extra: str) -> Iterator[None]:
    """Raise ExecutorError with the extra's name if an import within the block fails because a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExecutorError(
            f"{setting} needs {error.name}, which is not installed: pip install 'classfeed-dagster[{extra}]'"
        ) from error
