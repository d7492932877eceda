"""Executors that are extras of this project: what is missing, said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from classfeed_dagster.errors import ConfigurationError


class ExecutorError(ConfigurationError):
    """The executor of the settings can't be used here. The message says what to install or to set."""


@contextmanager
def extra_needed(executor: str, extra: str) -> Iterator[None]:
    """ExecutorError, naming the extra, if an import within the block fails because something isn't installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExecutorError(
            f"CLASSFEED_EXECUTOR={executor} needs {error.name}, which is not installed: "
            f"pip install 'classfeed-dagster[{extra}]'"
        ) from error
