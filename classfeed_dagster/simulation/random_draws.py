"""Chance that can be repeated: one stream of draws per (seed, who, when), each independent of all others.

A stream is named by its parts and drawn from a hash, never from a global generator: adding a customer, or
simulating another day first, changes no draw of anybody else, and every Python version draws the same.
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
        """A number from 0 to ``bound`` - 1. ``bound`` stays far below 2**32, so the bias of the remainder is nil."""
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
        """A number from ``lowest`` to ``highest``, both included."""
        return lowest + self.below(highest - lowest + 1)

    def one_in(self, bound: int) -> bool:
        """True once in ``bound`` draws, on average."""
        return self.below(bound) == 0

    def choice(self, items: Sequence[Item]) -> Item:
        """One of ``items``, each as likely as the others."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """``count`` different ones of ``items`` (all of them if there are fewer), in the order drawn."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
