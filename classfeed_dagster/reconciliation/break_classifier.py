"""Classification of differences as breaks: one break per cause, each with its explanation and trace.

A portfolio that is missing, extra or differently consented is one break, not one per record. A holding's market value
that follows from differing units or price is part of that break. A break covers only the differences that its cause
explains: any other difference of the portfolio is a break of its own.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from classfeed_dagster.reconciliation.compare import Difference, RowClass
from classfeed_dagster.reconciliation.delivered import Delivered, Revision
from classfeed_dagster.reconciliation.evidence import END_OF_DAY, LEDGERS, REFERENCES, BreakEvidence
from classfeed_dagster.reconciliation.explain import Circumstances, explain, severity
from classfeed_dagster.reconciliation.records import RecordKind
from classfeed_dagster.reconciliation.three_way import Key, LandingFaults, Row, Sides, merged
from classfeed_dagster.warehouse.records import (
    Break,
    BreakCause,
    BreakExplanation,
    BreakKind,
    BreakSeverity,
    RecordTrace,
    Side,
    as_decimal,
    difference,
)
from classfeed_dagster.wording import counted

HIDDEN = "(not shown)"
PORTFOLIO = "portfolio"
_CONSENT_FIELDS = ("consent", "extract", "recipient_reference")
_TABLES = {**LEDGERS, "OU": "opening_units", "OC": "opening_cash"}
_LANDED_TABLES = {
    "accounts": "portfolio",
    "cash_accounts": "cash_account",
    "account_balances": "cash_balance_eod",
    "investment_holdings": "holding_eod",
}


@dataclass(frozen=True, slots=True)
class Classification:
    """The breaks, and the number of fields that bigsite updated in place after a correct delivery."""

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
        either = self.against_bigsite or self.against_landing
        assert either is not None  # noqa: S101  # a case is made of at least one difference
        return either.row_class


class BreakClassifier:
    """Classifier of the differences of every kind of record, by their evidence."""

    def __init__(self, delivered: Delivered, landing: LandingFaults, evidence: BreakEvidence) -> None:
        self._delivered = delivered
        self._landing = landing
        self._evidence = evidence
        self._page_faults: dict[str, str] = {}
        for key, fault in delivered.faults:
            self._page_faults.setdefault(key, fault)
        self._pages = {
            str(page["message_id"]): str(page["key"]) for revision in delivered.revisions for page in revision.pages
        }
        self._cited: set[str] = set()  # object keys whose fault is in a break

    def classify(self, everything: Sequence[Sides]) -> Classification:
        """Return every break once."""
        breaks: list[Break] = []
        moved_on = 0
        by_portfolio: dict[str | None, list[tuple[Sides, _Case]]] = defaultdict(list)
        for sides in everything:
            for (key, field), (against_bigsite, against_landing) in merged(sides).items():
                case = _Case(sides.kind, key, field, against_bigsite, against_landing)
                by_portfolio[case.number].append((sides, case))
        for number in sorted(by_portfolio, key=lambda number: number or ""):
            for sides, case, note in self._causes(by_portfolio[number]):
                difference_break = self._break(sides, case, note)
                if difference_break is None:
                    moved_on += 1
                else:
                    breaks.append(difference_break)
        return Classification((*breaks, *self._uncited()), moved_on)

    # -- one break a cause ------------------------------------------------------------------------------------

    def _causes(self, cases: list[tuple[Sides, _Case]]) -> Iterator[tuple[Sides, _Case, str]]:
        """Yield the cases that are causes, each with a note on its consequences."""
        rest = cases
        root = _portfolio_root(cases)
        if root is not None:
            sides, first = root
            folded = [pair for pair in cases if pair is root or self._follows(root, pair)]
            rest = [pair for pair in cases if pair not in folded]
            yield sides, first, f"{counted(len(folded), 'difference')} in the portfolio, caused by this one"
        rows: dict[tuple[str, Key], list[tuple[Sides, _Case]]] = defaultdict(list)
        for sides, case in rest:
            rows[case.kind.name, case.key].append((sides, case))
        for members in rows.values():
            yield from _root_fields(members)

    def _follows(self, root: tuple[Sides, _Case], pair: tuple[Sides, _Case]) -> bool:
        """Return True if the portfolio's absence or consent explains a difference."""
        sides, first = root
        other_sides, case = pair
        if case.kind.name == "accounts" and case.field in _CONSENT_FIELDS:
            return not self._ledger_denies(other_sides, case)
        absent = [
            rows.get(first.key) is None or rows[first.key].get("consent") == "REMOVED"
            for rows in (sides.file_rows, sides.bigsite_rows, sides.landing_rows)
        ]
        if any(absent):
            # A portfolio that is absent from a side cannot have records there.
            present = [
                case.key in rows for rows in (other_sides.file_rows, other_sides.bigsite_rows, other_sides.landing_rows)
            ]
            return case.field is None and not any(gone and here for gone, here in zip(absent, present, strict=True))
        return self._consent_decides(other_sides, case)

    def _consent_decides(self, sides: Sides, case: _Case) -> bool:
        if case.kind.name == "accounts":
            return self._evidence.decides_portfolio(
                case.number or "",
                case.field,
                in_file=case.key in sides.file_rows,
                in_source=case.key in sides.bigsite_rows,
            )
        if case.kind.name != "movement_transactions":
            return False
        file_row, source_row = sides.file_rows.get(case.key), sides.bigsite_rows.get(case.key)
        if case.field in REFERENCES and file_row and source_row:
            return self._evidence.decides_reference(
                case.number or "", file_row.get(case.field), source_row.get(case.field)
            )
        row = file_row or source_row or {}
        opening = (row.get("transaction_id") or "").startswith("O")
        if case.field is not None and not opening:
            return False
        return self._evidence.decided_by_consent(case.number or "", row, in_file=file_row is not None)

    # -- a break ------------------------------------------------------------------------------------------------

    def _break(self, sides: Sides, case: _Case, note: str) -> Break | None:
        kind, number = case.kind, case.number
        revision = self._delivered.latest.get(number or "", self._delivered.revisions[-1])
        file_row = sides.file_rows.get(case.key)
        source_row = sides.bigsite_rows.get(case.key)
        circumstances = self._circumstances(sides, case, revision)
        explanations = explain(circumstances)
        if case.field in kind.state and explanations[0].cause is BreakCause.STATE_CHANGED:
            return None
        self._cite(explanations, revision, file_row, number)
        if note:
            likeliest = BreakExplanation(explanations[0].cause, f"{explanations[0].evidence}; {note}")
            explanations = (likeliest, *explanations[1:])
        other = circumstances.landing if circumstances.file_is_bigsite else circumstances.bigsite
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

    def _circumstances(self, sides: Sides, case: _Case, revision: Revision) -> Circumstances:
        against_bigsite, against_landing = case.against_bigsite, case.against_landing
        kind, number = case.kind, case.number or ""
        file_row, source_row = sides.file_rows.get(case.key), sides.bigsite_rows.get(case.key)
        landing_row = sides.landing_rows.get(case.key)
        comparable = revision.snapshot_id not in self._landing.unreadable
        file = file_row.get(case.field) if file_row and case.field else None
        evidence = self._evidence
        first = self._delivered.first_revision(number)
        missing = kind.name == "movement_transactions" and case.field is None and file_row is None
        end_of_day = case.field is None or case.field in END_OF_DAY.get(kind.name, ())
        return Circumstances(
            record=PORTFOLIO if kind.name == "accounts" and case.field is None else kind.name,
            field=case.field,
            file=file,
            # Without a difference, the side has the file's value.
            landing=against_landing.right if against_landing and case.field else file,
            bigsite=against_bigsite.right if against_bigsite and case.field else file,
            in_file=file_row is not None,
            file_is_landing=against_landing is None if comparable else None,
            file_is_bigsite=against_bigsite is None,
            evidence=source_row or {},
            snapshot_at=revision.snapshot_at,
            page_fault=self._page_fault(revision, file_row, case.number),
            landing_faults=tuple(
                f"{key}: {fault}" for key, fault in self._landing.faults.get(revision.snapshot_id, {}).items()
            ),
            state_evidence=kind.origins.get(case.field or "", "state_updated_at") if case.field in kind.state else None,
            late_rows=evidence.end_of_day(kind.name, number, revision, file_row, landing_row, source_row)
            if end_of_day and kind.name in END_OF_DAY
            else (),
            late_movement=evidence.late_movement(number, (source_row or {}).get("source_row"), first)
            if missing and source_row
            else None,
            consent_change=evidence.consent_change(number, revision),
            decided_by_consent=self._consent_decides(sides, case),
            ledger_denies=self._ledger_denies(sides, case),
            held_back_since=self._delivered.held_back_since(number),
        )

    def _ledger_denies(self, sides: Sides, case: _Case) -> bool:
        file_row = sides.file_rows.get(case.key)
        if file_row is None or case.field is None:
            return False
        names = (column.name for column in case.kind.rule.keys)
        key = dict(zip(names, case.key, strict=True))
        return self._evidence.sent.denies(case.kind.name, key, case.field, file_row.get(case.field))

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
        self, explanations: Sequence[BreakExplanation], revision: Revision, file_row: Row | None, number: str | None
    ) -> None:
        causes = {explanation.cause for explanation in explanations}
        if BreakCause.FILE_ALTERED in causes:
            self._cited.update(self._page_keys(revision, file_row, number))
        if BreakCause.LANDING_ALTERED in causes:
            self._cited.update(self._landing.faults.get(revision.snapshot_id, {}))

    def _uncited(self) -> Iterator[Break]:
        """Yield expired landings, and altered files in which no record differs: not the delivered or landed files."""
        for key, day in sorted(self._landing.expired.items()):
            yield Break(
                self._delivered.feed,
                self._delivered.business_date,
                Side.SOURCE,
                BreakKind.EXPIRED_FILE,
                BreakSeverity.EVENT,
                None,
                "landed file",
                key,
                explanations=(
                    BreakExplanation(
                        BreakCause.LANDING_EXPIRED, f"expired on {day}: the delivery is compared with bigsite alone"
                    ),
                ),
                trace=RecordTrace(landed_file=key),
            )
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
                BreakSeverity.ERROR,
                None,
                ("manifest" if key.endswith(".json") else "delivered page") if delivered else "landed file",
                key,
                explanations=(
                    BreakExplanation(BreakCause.FILE_ALTERED if delivered else BreakCause.LANDING_ALTERED, fault),
                ),
                trace=RecordTrace(landed_file=None if delivered else key, page=key if delivered else None),
            )

    def _trace(self, case: _Case, revision: Revision, file_row: Row | None, source_row: Row | None) -> RecordTrace:
        table = _LANDED_TABLES.get(case.kind.name)
        if table is None:
            subject = _subject(case.kind, case.key, case.number)
            table = _TABLES.get(subject.partition("-")[0] if subject.startswith("O") else subject[:1], "")
        day = self._delivered.business_date.isoformat()
        return RecordTrace(
            source_row=(source_row or {}).get("source_row"),
            landed_file=f"landing/{day}/{table}/{revision.snapshot_id}.parquet" if table else None,
            page=(file_row or {}).get("page"),
            line=(file_row or {}).get("line"),
        )


def _portfolio_root(cases: Sequence[tuple[Sides, _Case]]) -> tuple[Sides, _Case] | None:
    """Return the difference of the whole portfolio or of its consent; None if there is neither."""
    roots = [pair for pair in cases if pair[1].kind.name == "accounts"]
    return next((pair for pair in roots if pair[1].field in (None, "consent", "extract")), None)


def _root_fields(members: list[tuple[Sides, _Case]]) -> Iterator[tuple[Sides, _Case, str]]:
    """Yield the differing fields of one record without consequences of others (which only holdings have)."""
    by_field = {case.field: (sides, case) for sides, case in members}
    follows: set[str | None] = set()
    notes: dict[str | None, list[str]] = defaultdict(list)
    if members[0][1].kind.name == "investment_holdings":
        sides, case = members[0]
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
    """Return True if on both sides the market value is units times price, half away from zero."""
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
        against_bigsite = by_field[name][1].against_bigsite
        deltas.append(difference(against_bigsite.left, against_bigsite.right) if against_bigsite else None)
    return deltas[0] is not None and deltas[0] == deltas[1]


def _break_kind(case: _Case, cause: BreakCause) -> BreakKind:
    if cause is BreakCause.CONSENT_CHANGED:
        return BreakKind.CONSENT
    if cause in (BreakCause.LATE_ROW, BreakCause.REVERSAL):
        return BreakKind.LATE
    return {
        RowClass.MISSING_LEFT: BreakKind.MISSING_IN_EXPORT,
        RowClass.MISSING_RIGHT: BreakKind.EXTRA_IN_EXPORT,
        RowClass.DUPLICATE_LEFT: BreakKind.DUPLICATE,
        RowClass.DUPLICATE_RIGHT: BreakKind.DUPLICATE,
        RowClass.UNPARSEABLE: BreakKind.UNREADABLE,
    }.get(case.row_class, BreakKind.VALUE_DIFFERS)


def account_digest(portfolio_number: str | None, value: str) -> str:
    """Return a short, stable digest that represents a personal value of a portfolio, such as an account number."""
    return f"~{hashlib.sha256(f'{portfolio_number}|{value}'.encode()).hexdigest()[:8]}"


def _subject(kind: RecordKind, key: Key, number: str | None) -> str:
    """Return the record's key for display: account numbers only as a short, stable digest."""
    parts = []
    for column, value in zip(kind.rule.keys, key, strict=True):
        if column.name == "portfolio_number":
            continue
        shown = value
        if column.personal and value is not None:
            shown = account_digest(number, value)
        parts.append(shown or "(none)")
    return " ".join(parts) or (number or "(none)")
