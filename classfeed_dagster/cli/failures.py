"""Sentence and exit code for an exception that ends a command."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from classfeed_dagster.errors import ClassfeedError, Dependency, ExitCode, UnavailableError

# Failures of a file or of the output, which people can remedy.
_FILE_FAULTS = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC,
        errno.EDQUOT,
    }
)  # fmt: skip
_UNREACHABLE = {
    Dependency.BIGSITE: "bigsite cannot be reached: check that it is up, and CLASSFEED_BIGSITE_URL",
    Dependency.STORE: "The object store cannot be reached: check CLASSFEED_STORE_URL and CLASSFEED_S3_ENDPOINT_URL",
    Dependency.SNOWFLAKE: "Snowflake cannot be reached: check the CLASSFEED_SNOWFLAKE_ settings",
}
# Drivers' errors that name a setting which people can correct.
_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "UnauthorizedSSOTokenError"})
# Words of the command line's library, and ours.
_WORDS = {"Value error, ": "", "match the formats '%Y-%m-%d'": "have the form YYYY-MM-DD", "Input should": "it must"}


@dataclass(frozen=True, slots=True)
class Failure:
    """End of a command: a sentence for people and the exit code."""

    sentence: str
    exit_code: ExitCode


def usage_of(error: BaseException) -> Failure | None:
    """Describe the command line's own refusal of arguments; None for any other error."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    context = getattr(error, "ctx", None)
    command = "classfeed" if context is None else context.command_path
    message = " ".join(format_message().split()).rstrip(".")  # a command without arguments prints its help here
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return Failure(f"{message or 'Choose a command'}: see `{command} --help`", ExitCode.USAGE)


def failure_of(error: BaseException) -> Failure:
    """Describe ``error``: this package's exceptions in their own words, others by what they mean for the command."""
    from classfeed_dagster.repair.causes import classify, exit_code

    chain = [(type(link).__name__, str(link)) for link in _chain(error)]
    cause = classify(chain)
    if isinstance(error, ClassfeedError):
        code = exit_code(cause) if isinstance(error, UnavailableError) else error.exit_code
        return Failure(str(error).strip(), code)
    if cause.error in _CREDENTIALS:
        return Failure("The object store needs AWS credentials: sign in, or set AWS_PROFILE", ExitCode.USAGE)
    if cause.dependency is not None:
        return Failure(f"{_UNREACHABLE[cause.dependency]} ({cause.error})", exit_code(cause))
    if isinstance(error, OSError) and error.errno in _FILE_FAULTS:
        place = error.filename or "the output"
        return Failure(
            f"Cannot use {place}: {error.strerror}. Correct the path or its rights, or free space", ExitCode.FAILED
        )
    return Failure(
        f"Unexpected {type(error).__name__}: run `classfeed --debug …` for the traceback, and report it",
        ExitCode.FAILED,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
