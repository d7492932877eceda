"""Visibility of a row to the delivered snapshot, from PostgreSQL's own bookkeeping.

A snapshot's descriptor keeps ``pg_current_snapshot()``. A row whose inserting transaction (``xmin``) had not committed
by then was not visible, whatever instant its ``recorded_at`` states. Without that record nothing is claimed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(\d+):(\d+):([\d,]*)\Z")
_EPOCH = 1 << 32  # a row keeps the lower half of the transaction's number


@dataclass(frozen=True, slots=True)
class TransactionSnapshot:
    """The transactions that a reading of bigsite saw: all before ``end`` but those in progress."""

    end: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str | None) -> TransactionSnapshot | None:
        """Return the snapshot that PostgreSQL's text states; None if there is none."""
        match = _TEXT.match(text or "")
        if match is None:
            return None
        listed = frozenset(int(number) for number in match[3].split(",") if number)
        return cls(int(match[2]), listed)

    def saw(self, xmin: int) -> bool:
        """Return True if a row inserted by the transaction ``xmin`` (32 bits) was committed by then."""
        number = (self.end & ~(_EPOCH - 1)) | xmin
        if number - self.end > _EPOCH // 2:
            number -= _EPOCH
        elif self.end - number > _EPOCH // 2:
            number += _EPOCH
        return number < self.end and number not in self.in_progress
