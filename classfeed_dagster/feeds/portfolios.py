"""Selection of a feed's portfolios, written in a setting and recorded in the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from classfeed_dagster.errors import ConfigurationError


class SelectionError(ConfigurationError):
    """The text is not a selection of portfolios."""


@dataclass(frozen=True, slots=True)
class Portfolios:
    """Selection of portfolios: all (``*``), some (``A,B``), or all but some (``!A,B``)."""

    numbers: frozenset[str] = frozenset()
    all_but: bool = True

    @classmethod
    def of(cls, text: str) -> Portfolios:
        """Parse a selection. SelectionError if ``text`` is not one."""
        listed = text.strip()
        if listed == "*":
            return cls()
        numbers = [number.strip() for number in listed.removeprefix("!").split(",")]
        if not all(numbers) or "*" in numbers:
            raise SelectionError(
                "which portfolios a feed may carry is *, or portfolio numbers with commas between, or ! and those"
            )
        return cls(frozenset(numbers), listed.startswith("!"))

    def __contains__(self, number: object) -> bool:
        return (number in self.numbers) is not self.all_but

    def __str__(self) -> str:
        if not self.numbers:
            return "*"
        return "!" * self.all_but + ",".join(sorted(self.numbers))

    def overlaps(self, other: Portfolios) -> bool:
        """Return True if a portfolio, known today or not, may be in both."""
        if self.all_but and other.all_but:
            return True
        if self.all_but:
            return other.overlaps(self)
        return any(number in other for number in self.numbers)


ALL_PORTFOLIOS = Portfolios()
