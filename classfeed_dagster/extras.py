"""Optional dependencies: what needs which extra, asked before the work starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from classfeed_dagster.errors import ConfigurationError


class MissingExtraError(ConfigurationError):
    """A package of an extra is not installed. The message names the command that installs it."""


def require_extra(purpose: str, extra: str, *modules: str, instead: str = "") -> None:
    """Raise MissingExtraError if one of the modules is not installed; nothing is imported.

    ``purpose`` begins the sentence; ``instead`` names what makes the extra unnecessary.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        other = f", or {instead}" if instead else ""
        raise MissingExtraError(
            f"{purpose} needs {' and '.join(missing)}, which is not installed: "
            f"pip install 'classfeed-dagster[{extra}]'{other}"
        )


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
