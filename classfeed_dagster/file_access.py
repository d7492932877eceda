"""Access to local files: customers' data is readable by its owner alone under any umask."""

from __future__ import annotations

import os

OWNER_FILE, OWNER_FOLDER = 0o600, 0o700
_OTHERS = 0o077


def keep_private() -> None:
    """Take group and others' access from every file that this process and its children create from now on."""
    # Python reads a umask only by setting one; a stricter one is kept.
    os.umask(_OTHERS | os.umask(_OTHERS))


def owner_only(path: str, flags: int) -> int:
    """Open a file for its owner alone: an ``opener`` for ``open``."""
    return os.open(path, flags, OWNER_FILE)
