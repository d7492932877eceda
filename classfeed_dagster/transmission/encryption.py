"""Encryption of files to the recipient's OpenPGP key.

The library is ``pysequoia``, an extra (``pip install classfeed-dagster[openpgp]``). OpenPGP is what recipients of files
by SFTP ask for, and its keys state their own expiry.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classfeed_dagster.errors import ConfigurationError
from classfeed_dagster.extras import require_extra

if TYPE_CHECKING:
    from pysequoia import Cert

EXTENSION = ".pgp"


class RecipientKeyError(ConfigurationError):
    """The recipient's key is not the pinned one, or cannot be encrypted to. Nothing is sent."""


@dataclass(frozen=True, slots=True)
class OpenPgpKey:
    """Public key of a recipient.

    Attributes:
        certificate: the public key, ASCII-armored
        fingerprint: hexadecimal fingerprint of its primary key, as the recipient stated it by another way
    """

    certificate: str
    fingerprint: str

    @property
    def pinned(self) -> str:
        """Return the fingerprint without blanks, in lower case."""
        return self.fingerprint.replace(" ", "").lower()

    def usable(self, at: dt.datetime) -> Cert:
        """Return the key; RecipientKeyError if it is another one, expired at ``at`` (UTC), revoked, or private."""
        require_extra("Encryption to a recipient's key", "openpgp", "pysequoia")
        from pysequoia import Cert

        if "PRIVATE KEY" in self.certificate:
            raise RecipientKeyError(
                f"The recipient's key {self.pinned} holds its private key: remove it, and notify the recipient"
            )
        try:
            key = Cert.from_bytes(self.certificate.encode())
        except Exception as error:  # the library declares no exception class
            raise RecipientKeyError(
                f"The recipient's key is unreadable ({type(error).__name__}): declare its ASCII-armored public key"
            ) from None
        if key.fingerprint.lower() != self.pinned:
            raise RecipientKeyError(
                f"The recipient's key has the fingerprint {key.fingerprint}, and {self.pinned} is pinned: ask the "
                "recipient before you change either"
            )
        if key.is_revoked:
            raise RecipientKeyError(f"The recipient's key {self.pinned} is revoked: ask the recipient for its new key")
        if key.expiration is not None and key.expiration <= at:
            raise RecipientKeyError(
                f"The recipient's key {self.pinned} expired on {key.expiration.date().isoformat()}: ask the recipient "
                "for its new key"
            )
        return key

    def encrypt(self, source: Path, target: Path, at: dt.datetime) -> None:
        """Write ``source`` encrypted to ``target``, in binary form. Each call gives other bytes."""
        key = self.usable(at)
        from pysequoia import encrypt_file

        try:
            encrypt_file(str(source), str(target), [key], armor=False)
        except Exception as error:  # the library declares no exception class
            raise RecipientKeyError(
                f"The recipient's key {self.pinned} cannot be encrypted to ({type(error).__name__}): ask the recipient "
                "for a key with a valid encryption subkey"
            ) from None
