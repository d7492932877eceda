"""From differences to breaks: one break a cause, not one a symptom, each explained and traced.

A portfolio that is missing, extra, or differently consented is one break, not one a record. In a holding, a market
value that follows from differing units or price is part of that break.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from classfeed_dagster.reconciliation.compare import Difference, RowClass
from classfeed_dagster.reconciliation.delivered import Delivered, Revision
from classfeed_dagster.reconciliation.explain import Circumstances, LateRow, explain, severity
from classfeed_dagster.reconciliation.records import RecordKind
from classfeed_dagster.reconciliation.three_way import Key, LandingFaults, Row, Sides, merged
from classfeed_dagster.warehouse.records import (
    Break,
    BreakKind,
    Cause,
    Explanation,
    Severity,
    Side,
    Trace,
    as_decimal,
    difference,
)

HIDDEN = "(not shown)"
PORTFOLIO = "portfolio"
_CONSENT_FIELDS = ("consent", "extract")
_LEDGERS = {
    "T": "trade",
    "S": "security_movement",
    "I": "income",
    "C": "cash_transaction",
    "OU": "opening_units",
    "OC": "opening_cash",
}
_LANDED_TABLES = {
    "accounts": "portfolio",
    "cash_accounts": "cash_account",
    "account_balances": "cash_balance_eod",
    "investment_holdings": "holding_eod",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The breaks, and how many differences are only bigsite's state moving on after a faithful delivery."""

    breaks: tuple[Break, ...]
    moved_on: int


@dataclass(frozen=True, slots=True)
class _Case:
    # One disagreement: a whole record (field None) or a field of it.
    kind: RecordKind
    key: Key
    field: str | None
    against_bigsite: Difference | None
    against_landing: Difference | None

    @property
    def number(self) -> str | None:
        at = [column.name for column in self.kind.rule.keys].index("portfolio_number")
        return self.key[at]

    @property
    def row_class(self) -> RowClass:
        one = self.against_bigsite or self.against_landing
        assert one is not None  # noqa: S101  # a case is made of at least one difference
        return one.row_class


class BreakClassifier:
    """Turns the sides of every kind of record into breaks.

    ``late_rows`` and ``consents`` (when a portfolio's consents last changed) are by portfolio number.
    """

    def __init__(
        self,
        delivered: Delivered,
        landing: LandingFaults,
        late_rows: Mapping[str, Sequence[LateRow]],
        consents: Mapping[str, str],
    ) -> None:
        self._delivered = delivered
        self._landing = landing
        self._late = late_rows
        self._consents = consents
        self._page_faults = dict(delivered.faults)
        self._pages = {
            str(page["message_id"]): str(page["key"]) for revision in delivered.revisions for page in revision.pages
        }
        self._cited: set[str] = set()  # object keys whose fault some break tells of

    def judge(self, everything: Sequence[Sides]) -> Found:
        """Every break, each once."""
        breaks: list[Break] = []
        moved_on = 0
        by_portfolio: dict[str | None, list[tuple[Sides, _Case]]] = defaultdict(list)
        for sides in everything:
            for (key, field), (one, other) in merged(sides).items():
                case = _Case(sides.kind, key, field, one, other)
                by_portfolio[case.number].append((sides, case))
        for number in sorted(by_portfolio, key=lambda number: number or ""):
            for sides, case, evidence in self._causes(by_portfolio[number]):
                made = self._break(sides, case, evidence)
                if made is None:
                    moved_on += 1
                else:
                    breaks.append(made)
        return Found((*breaks, *self._uncited()), moved_on)

    # -- one break a cause ------------------------------------------------------------------------------------

    def _causes(self, cases: list[tuple[Sides, _Case]]) -> Iterator[tuple[Sides, _Case, str]]:
        """The cases that are causes, each with a word on what follows from it."""
        whole = [
            pair for pair in cases if pair[1].kind.name == "accounts" and pair[1].field in (None, *_CONSENT_FIELDS)
        ]
        if whole:
            sides, first = whole[0]
            yield sides, first, f"{len(cases)} difference(s) in the portfolio, of which this is the cause"
            return
        rows: dict[tuple[str, Key], list[tuple[Sides, _Case]]] = defaultdict(list)
        for sides, case in cases:
            rows[case.kind.name, case.key].append((sides, case))
        for found in rows.values():
            yield from _root_fields(found)

    # -- a break ------------------------------------------------------------------------------------------------

    def _break(self, sides: Sides, case: _Case, follows: str) -> Break | None:
        kind, number = case.kind, case.number
        revision = self._delivered.latest.get(number or "", self._delivered.revisions[-1])
        file_row = sides.file_rows.get(case.key)
        source_row = sides.bigsite_rows.get(case.key)
        circumstances = self._circumstances(case, revision, file_row, source_row)
        explanations = explain(circumstances)
        state_only = case.field in kind.state and explanations[0].cause is Cause.STATE_CHANGED
        if state_only:
            return None
        self._cite(explanations, revision, file_row, number)
        if follows:
            explanations = (
                Explanation(explanations[0].cause, f"{explanations[0].evidence}; {follows}"),
                *explanations[1:],
            )
        against_landing_alone = circumstances.file_is_bigsite
        other = circumstances.landing if against_landing_alone else circumstances.bigsite
        personal = case.field in kind.personal
        whole_portfolio = kind.name == "accounts" and case.field is None
        return Break(
            self._delivered.feed,
            self._delivered.business_date,
            Side.SOURCE,
            _break_kind(case, explanations[0].cause),
            severity(explanations),
            number,
            PORTFOLIO if whole_portfolio else kind.name,
            _subject(kind, case.key, number),
            case.field,
            HIDDEN if personal and circumstances.file is not None else circumstances.file,
            HIDDEN if personal and other is not None else other,
            None if personal else difference(circumstances.file, other),
            explanations,
            self._trace(case, revision, file_row, source_row),
        )

    def _circumstances(
        self, case: _Case, revision: Revision, file_row: Row | None, source_row: Row | None
    ) -> Circumstances:
        one, other = case.against_bigsite, case.against_landing
        comparable = revision.snapshot_id not in self._landing.unreadable
        file = file_row.get(case.field) if file_row and case.field else None
        record = PORTFOLIO if case.kind.name == "accounts" and case.field is None else case.kind.name
        # bigsite may have no row any more; when the portfolio's consents last changed is known all the same.
        evidence = {"consent_updated_at": self._consents.get(case.number or ""), **(source_row or {})}
        return Circumstances(
            record=record,
            field=case.field,
            file=file,
            # Where a comparison found nothing, its side says what the file says.
            landing=other.right if other and case.field else file,
            bigsite=one.right if one and case.field else file,
            in_file=file_row is not None,
            in_bigsite=source_row is not None,
            file_is_landing=other is None if comparable else None,
            file_is_bigsite=one is None,
            evidence=evidence,
            snapshot_at=revision.snapshot_at,
            page_fault=self._page_fault(revision, file_row, case.number),
            landing_faults=tuple(
                f"{key}: {fault}" for key, fault in self._landing.faults.get(revision.snapshot_id, {}).items()
            ),
            late_rows=self._late.get(case.number or "", ()),
        )

    def _page_keys(self, revision: Revision, file_row: Row | None, number: str | None) -> list[str]:
        message = (file_row or {}).get("page") or str(revision.portfolios.get(number or "", {}).get("page", ""))
        if message in self._pages:
            return [self._pages[message]]
        return [str(page["key"]) for page in revision.pages]

    def _page_fault(self, revision: Revision, file_row: Row | None, number: str | None) -> str | None:
        for key in self._page_keys(revision, file_row, number):
            if key in self._page_faults:
                return f"{key}: {self._page_faults[key]}"
        return None

    def _cite(
        self, explanations: Sequence[Explanation], revision: Revision, file_row: Row | None, number: str | None
    ) -> None:
        causes = {explanation.cause for explanation in explanations}
        if Cause.FILE_ALTERED in causes:
            self._cited.update(self._page_keys(revision, file_row, number))
        if Cause.LANDING_ALTERED in causes:
            self._cited.update(self._landing.faults.get(revision.snapshot_id, {}))

    def _uncited(self) -> Iterator[Break]:
        """Altered files in which no record was found to differ: still no longer what was delivered or landed."""
        faults = dict(self._page_faults)
        for of_snapshot in self._landing.faults.values():
            faults.update(of_snapshot)
        for key, fault in sorted(faults.items()):
            if key in self._cited:
                continue
            delivered = key in self._page_faults
            yield Break(
                self._delivered.feed,
                self._delivered.business_date,
                Side.SOURCE,
                BreakKind.ALTERED_FILE,
                Severity.ERROR,
                None,
                "delivered page" if delivered else "landed file",
                key,
                explanations=(Explanation(Cause.FILE_ALTERED if delivered else Cause.LANDING_ALTERED, fault),),
                trace=Trace(landed_file=None if delivered else key, page=key if delivered else None),
            )

    def _trace(self, case: _Case, revision: Revision, file_row: Row | None, source_row: Row | None) -> Trace:
        table = _LANDED_TABLES.get(case.kind.name)
        if table is None:
            subject = _subject(case.kind, case.key, case.number)
            table = _LEDGERS.get(subject.partition("-")[0] if subject.startswith("O") else subject[:1], "")
        day = self._delivered.business_date.isoformat()
        return Trace(
            source_row=(source_row or {}).get("source_row"),
            landed_file=f"landing/{day}/{table}/{revision.snapshot_id}.parquet" if table else None,
            page=(file_row or {}).get("page"),
            line=(file_row or {}).get("line"),
        )


def _root_fields(found: list[tuple[Sides, _Case]]) -> Iterator[tuple[Sides, _Case, str]]:
    """The differing fields of one record without those that follow from others (holdings alone have such)."""
    by_field = {case.field: (sides, case) for sides, case in found}
    follows: set[str | None] = set()
    notes: dict[str | None, list[str]] = defaultdict(list)
    if found[0][1].kind.name == "investment_holdings":
        sides, case = found[0]
        root = next((name for name in ("units", "price") if name in by_field), None)
        if root and "market_value" in by_field and _values_follow(sides, case.key):
            follows.add("market_value")
            notes[root].append("the market value follows")
        if root == "units" and "settled_units" in by_field and _same_delta(by_field):
            follows.add("settled_units")
            notes[root].append("so do the settled units")
        if root == "price" and "price_date" in by_field:
            follows.add("price_date")
            notes[root].append("and the price's date")
    for field, (sides, case) in by_field.items():
        if field not in follows:
            yield sides, case, ", ".join(notes[field])


def _values_follow(sides: Sides, key: Key) -> bool:
    """True if on both sides the market value is units times price, half away from zero, so that it is no cause."""
    for rows in (sides.file_rows, sides.bigsite_rows):
        row = rows.get(key, {})
        units, price, value = (as_decimal(row.get(name)) for name in ("units", "price", "market_value"))
        if units is None or price is None or value is None:
            return False
        if (units * price).quantize(Decimal("0.01"), ROUND_HALF_UP) != value:
            return False
    return True


def _same_delta(by_field: Mapping[str | None, tuple[Sides, _Case]]) -> bool:
    deltas = []
    for name in ("units", "settled_units"):
        one = by_field[name][1].against_bigsite
        deltas.append(difference(one.left, one.right) if one else None)
    return deltas[0] is not None and deltas[0] == deltas[1]


def _break_kind(case: _Case, cause: Cause) -> BreakKind:
    if cause is Cause.CONSENT_CHANGED:
        return BreakKind.CONSENT
    if cause in (Cause.LATE_ROW, Cause.REVERSAL):
        return BreakKind.LATE
    return {
        RowClass.MISSING_LEFT: BreakKind.MISSING_IN_EXPORT,
        RowClass.MISSING_RIGHT: BreakKind.EXTRA_IN_EXPORT,
        RowClass.DUPLICATE_LEFT: BreakKind.DUPLICATE,
        RowClass.DUPLICATE_RIGHT: BreakKind.DUPLICATE,
        RowClass.UNPARSEABLE: BreakKind.UNREADABLE,
    }.get(case.row_class, BreakKind.VALUE_DIFFERS)


def _subject(kind: RecordKind, key: Key, number: str | None) -> str:
    """The record's key for people: account numbers only as a short digest that is the same every time."""
    parts = []
    for column, value in zip(kind.rule.keys, key, strict=True):
        if column.name == "portfolio_number":
            continue
        if column.personal and value is not None:
            value = f"~{hashlib.sha256(f'{number}|{value}'.encode()).hexdigest()[:8]}"  # noqa: PLW2901
        parts.append(value or "(none)")
    return " ".join(parts) or (number or "(none)")


def consent_breaks(
    delivered: Delivered, consents: Sequence[tuple[str, dt.datetime | None, dt.datetime | None, dt.datetime | None]]
) -> list[Break]:
    """Portfolios whose data left although no consent was active when delivery asked for it the last time.

    ``consents``: number, granted, expires, revoked. A consent that ended later was rightly relied on.
    """
    held: dict[str, list[tuple[dt.datetime | None, dt.datetime | None, dt.datetime | None]]] = defaultdict(list)
    for number, granted, expires, revoked in consents:
        held[number].append((granted, expires, revoked))
    breaks = []
    for number, revision in sorted(delivered.latest.items()):
        at = revision.consent_checked_at
        active = any(
            granted is not None and granted < at and not (expires and expires < at) and not (revoked and revoked < at)
            for granted, expires, revoked in held[number]
        )
        if active or revision.portfolios[number].get("change") == "REMOVED":
            continue
        breaks.append(
            Break(
                delivered.feed,
                delivered.business_date,
                Side.SOURCE,
                BreakKind.CONSENT,
                Severity.ERROR,
                number,
                PORTFOLIO,
                "consent at delivery",
                explanations=(
                    Explanation(
                        Cause.CONSENT_ENDED,
                        f"bigsite has no consent active at {at:%Y-%m-%d %H:%M:%S}Z, when it was delivered",
                    ),
                ),
            )
        )
    return breaks
