"""Repeatable randomness: one stream of draws per (seed, subject, time), independent of all others.

A stream is named by its parts and drawn from a hash, never from a global generator. Adding a customer, or simulating
another day first, changes no other draw, and every Python version draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class HashRandom:
    """Whole-number draws from the hash of ``parts``."""

    __slots__ = ("_bits", "_block", "_left", "_name")

    def __init__(self, *parts: object) -> None:
        self._name = "|".join(str(part) for part in parts).encode()
        self._block = 0
        self._bits = 0
        self._left = 0

    def below(self, bound: int) -> int:
        """Return a number from 0 to ``bound`` - 1. The remainder's bias is negligible for bounds far below 2**32."""
        if self._left == 0:
            digest = hashlib.blake2b(self._name + b"#%d" % self._block, digest_size=64).digest()
            self._bits = int.from_bytes(digest, "big")
            self._block += 1
            self._left = 16
        value = self._bits & 0xFFFFFFFF
        self._bits >>= 32
        self._left -= 1
        return value % bound

    def between(self, lowest: int, highest: int) -> int:
        """Return a number from ``lowest`` to ``highest``, both included."""
        return lowest + self.below(highest - lowest + 1)

    def one_in(self, bound: int) -> bool:
        """Return True once in ``bound`` draws on average."""
        return self.below(bound) == 0

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of ``items``, each equally likely."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return ``count`` different ``items`` (all if there are fewer), in the order drawn."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
