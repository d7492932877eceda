"""Figures about a domain's frames: rows, portfolios and exact sums by currency. No personal data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import polars as pl

from classfeed_dagster.bigsite.consent_change import Change
from classfeed_dagster.domains.columns import (
    ACCOUNT_BALANCES,
    CONSENTED_PORTFOLIOS,
    FINDINGS,
    INVESTMENT_HOLDINGS,
    MOVEMENT_TRANSACTIONS,
    Frame,
)
from classfeed_dagster.domains.exact import total
from classfeed_dagster.domains.rules import RuleSeverity
from classfeed_dagster.domains.slice import NUMBER

# Money columns that are summed by the row's currency.
_MONEY = {
    ACCOUNT_BALANCES.name: ("ledger_balance", "available_balance"),
    INVESTMENT_HOLDINGS.name: ("market_value", "cost_base"),
    MOVEMENT_TRANSACTIONS.name: ("amount", "net_amount"),
}
# Sums of units: their name and the rows included. Income states units that don't move; it has an ex-date.
_UNITS = {
    INVESTMENT_HOLDINGS.name: ("units_held", pl.lit(value=True)),
    MOVEMENT_TRANSACTIONS.name: ("units_moved", pl.col("ex_date").is_null()),
}
# Figures by kind, by frame: the figure's name, the kind's column, the money summed by currency (None: rows).
_BY_KIND = {
    MOVEMENT_TRANSACTIONS.name: ("movements", "transaction_type", None),
    INVESTMENT_HOLDINGS.name: ("market_value", "security_type", "market_value"),
}
KIND = "/"  # separates a figure's name from its kind: movements/BUY, market_value_AUD/ETF


class Measures:
    """Running totals over slices. A portfolio is whole in one slice, so counts of portfolios add up."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._counts: Counter[str] = Counter()
        self._sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for frame in frames:
            self._counts[f"rows_{frame.name}"] = 0
            if frame is CONSENTED_PORTFOLIOS:
                self._counts.update({f"portfolios_{change.value.lower()}": 0 for change in Change})
        self._counts.update({"warnings": 0, "portfolios_quarantined": 0})

    def add(self, frames: Mapping[str, pl.DataFrame]) -> None:
        """Add the figures of one slice."""
        for name, frame in frames.items():
            self._counts[f"rows_{name}"] += frame.height
            for column in _MONEY.get(name, ()):
                self._add_money(frame, column)
            if name in _UNITS:
                label, moving = _UNITS[name]
                self._sums[label] += total(frame.filter(moving)["units"])
            if name in _BY_KIND:
                self._add_by_kind(frame, *_BY_KIND[name])
        if CONSENTED_PORTFOLIOS.name in frames:
            changes = Counter(frames[CONSENTED_PORTFOLIOS.name]["change"].to_list())
            self._counts.update({f"portfolios_{change.lower()}": count for change, count in changes.items()})
        findings = frames[FINDINGS.name]
        quarantined = findings.filter(pl.col("severity") == RuleSeverity.QUARANTINE.value)
        self._counts["warnings"] += findings.height - quarantined.height
        self._counts["portfolios_quarantined"] += quarantined[NUMBER].n_unique()

    def figures(self) -> dict[str, int | str]:
        """Return counts as numbers and sums as exact decimals in text (``market_value_AUD``), ordered by name."""
        texts = {name: f"{value:f}" for name, value in self._sums.items()}
        figures: dict[str, int | str] = {**self._counts, **texts}
        return dict(sorted(figures.items()))

    def _add_by_kind(self, frame: pl.DataFrame, figure: str, kind: str, money: str | None) -> None:
        if money is None:
            self._counts.update({f"{figure}{KIND}{of}": count for of, count in frame[kind].value_counts().iter_rows()})
            return
        stated = frame.filter(pl.col(money).is_not_null())
        for (of, currency), rows in stated.partition_by(kind, "currency", as_dict=True).items():
            self._sums[f"{figure}_{currency}{KIND}{of}"] += total(rows[money])

    def _add_money(self, frame: pl.DataFrame, column: str) -> None:
        stated = frame.filter(pl.col(column).is_not_null())
        for (currency,), rows in stated.partition_by("currency", as_dict=True).items():
            self._sums[f"{column}_{currency}"] += total(rows[column])


def added_up(figures: Iterable[Mapping[str, int | str]]) -> dict[str, int | str]:
    """Return the figures of several parts added together: counts and exact sums, ordered by name."""
    sums: dict[str, int | Decimal] = {}
    for part in figures:
        for name, value in part.items():
            sums[name] = sums.get(name, 0) + (value if isinstance(value, int) else Decimal(value))
    return {name: value if isinstance(value, int) else f"{value:f}" for name, value in sorted(sums.items())}
