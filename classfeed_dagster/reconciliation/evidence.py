"""Evidence for explanations, collected for the portfolios that differ: consents, ledger rows, later deliveries."""

# ruff: noqa: S608  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from classfeed_dagster.reconciliation.other_deliveries import LaterDeliveries, LedgerRow
from classfeed_dagster.reconciliation.sent_identity import SentIdentities

if TYPE_CHECKING:
    import duckdb

    from classfeed_dagster.reconciliation.delivered import Delivered, Revision
    from classfeed_dagster.reconciliation.expected_sql import ExpectedRecords
    from classfeed_dagster.reconciliation.landing import SnapshotReader
    from classfeed_dagster.reconciliation.source_queries import Bigsite
    from classfeed_dagster.reconciliation.three_way import Sides

_CHUNK = 500
_ZERO = Decimal(0)
LEDGERS = {"T": "trade", "S": "security_movement", "I": "income", "C": "cash_transaction"}
_DATES = {
    "trade": "trade_date",
    "security_movement": "effective_date",
    "income": "payment_date",
    "cash_transaction": "transaction_date",
}
REFERENCES = ("reverses", "relates_to")  # left out if the named row was not sent
END_OF_DAY = {
    "investment_holdings": frozenset({"units", "settled_units", "cost_base"}),
    "account_balances": frozenset({"ledger_balance", "available_balance"}),
}
"""Fields of bigsite's end of day, by kind of record."""


@dataclass(frozen=True, slots=True)
class LateRow:
    """A ledger row that the delivered snapshot did not see.

    ``travel``: the delivery that sends it, as text. ``sent``: that delivery has the row.
    """

    source_row: str
    recorded_at: str
    reverses: str | None
    travel: str
    sent: bool = False


@dataclass(frozen=True, slots=True)
class ConsentDecision:
    """The decision on a portfolio's consent at the cut-off."""

    change: str
    extract: str
    reference: str | None
    history_from: dt.date | None

    def sends(self, dated: dt.date, recorded_at: dt.datetime, window_start: dt.datetime) -> bool:
        """Return True if a ledger row recorded before the cut-off belongs in the document."""
        return (
            self.change != "REMOVED" and self.shares(dated) and (self.extract == "FULL" or recorded_at >= window_start)
        )

    def shares(self, dated: dt.date) -> bool:
        """Return True if a row of the date is not before the shared history."""
        return self.history_from is None or dated >= self.history_from


@dataclass(slots=True)
class BreakEvidence:
    """The evidence on the portfolios that differ, by portfolio number."""

    expected: ExpectedRecords
    snapshots: SnapshotReader
    later: LaterDeliveries
    landed_decisions: Mapping[str, ConsentDecision] = field(default_factory=dict)
    source_decisions: Mapping[str, ConsentDecision] = field(default_factory=dict)
    landed_consents: Mapping[str, Mapping[int, tuple[Any, ...]]] = field(default_factory=dict)
    source_consents: Mapping[str, Mapping[int, tuple[Any, ...]]] = field(default_factory=dict)
    consents_updated: Mapping[int, dt.datetime] = field(default_factory=dict)
    rows: Mapping[str, Sequence[LedgerRow]] = field(default_factory=dict)  # by the key in source_row
    missing: Mapping[str, LedgerRow] = field(default_factory=dict)  # movements absent from the file, by source_row
    named: Mapping[str, LedgerRow] = field(default_factory=dict)  # by TransactionId, where one side lacks the reference
    sent: SentIdentities = field(default_factory=SentIdentities)

    def consent_change(self, number: str, revision: Revision) -> str | None:
        """Return the change of consent since the snapshot; None unless the landing has every old value."""
        landed, now = self.landed_consents.get(number, {}), self.source_consents.get(number, {})
        if not landed or self._unlanded_grant(number):
            return None
        change = None
        for consent_id, row in landed.items():
            current = now.get(consent_id)
            if current == row:
                continue
            updated = self.consents_updated.get(consent_id)
            revived = current is not None and row[2] is not None and current[2] is None
            if current is None or revived or updated is None or updated <= revision.snapshot_at:
                return None
            change = (
                f"consent {consent_id} was updated at {updated:%Y-%m-%d %H:%M:%S}Z, and the landing has its old values"
            )
        return change

    def _unlanded_grant(self, number: str) -> bool:
        # A grant that should have landed: it was in force at the cut-off.
        landed = self.landed_consents.get(number, {})
        return any(
            row[0] is not None and row[0] < self.expected.window_end
            for consent_id, row in self.source_consents.get(number, {}).items()
            if consent_id not in landed and not _ended(row, self.expected.window_start)
        )

    def decides_portfolio(self, number: str, field: str | None, *, in_file: bool, in_source: bool) -> bool:
        """Return True if the consent decisions of landing and bigsite differ exactly as the two sides do."""
        landed, now = self.landed_decisions.get(number), self.source_decisions.get(number)
        if field is None:
            return (landed is not None) is in_file and (now is not None) is in_source and landed != now
        if landed is None or now is None:
            return False
        removed = landed.change != now.change and "REMOVED" in (landed.change, now.change)
        return {
            "consent": landed.change != now.change,
            "extract": landed.extract != now.extract,
            "recipient_reference": landed.reference != now.reference,
        }.get(field, removed)

    def decided_by_consent(self, number: str, row: Mapping[str, str | None], *, in_file: bool) -> bool:
        """Return True if the two consent decisions differ exactly so that they determine this movement's presence."""
        landed, now = self.landed_decisions.get(number), self.source_decisions.get(number)
        if landed is None or now is None or landed == now:
            return False
        if str(row.get("transaction_id", "")).startswith("O"):
            return (landed.history_from, landed.extract) != (now.history_from, now.extract)
        try:
            dated = dt.date.fromisoformat(row.get("transaction_date") or "")
            recorded = dt.datetime.fromisoformat(row.get("recorded_at") or "")
        except ValueError:
            return False
        start = self.expected.window_start
        if row.get("transaction_id") in self.expected.late:
            recorded = max(recorded, start)  # sent in this window, whichever one it was recorded in
        return landed.sends(dated, recorded, start) is in_file and now.sends(dated, recorded, start) is not in_file

    def decides_reference(self, number: str, file: str | None, source: str | None) -> bool:
        """Return True if by one consent decision the named row precedes the shared history, and by the other not."""
        landed, now = self.landed_decisions.get(number), self.source_decisions.get(number)
        named = self.named.get(file or source or "")
        if landed is None or now is None or named is None or bool(file) is bool(source):
            return False
        return (landed.shares(named.dated), now.shares(named.dated)) == (bool(file), bool(source))

    def saw(self, row: LedgerRow, revision: Revision) -> bool:
        """Return False only if the snapshot provably did not see the row."""
        snapshot = self.snapshots.of(revision.descriptor_key)
        return row.recorded_at <= revision.snapshot_at and (snapshot is None or snapshot.saw(row.xmin))

    def late_movement(self, number: str, source_row: str | None, revision: Revision) -> LateRow | None:
        """Return the movement that the file lacks as a late row; None if it was visible or is lost."""
        row = self.missing.get(source_row or "")
        if row is None or self.saw(row, revision):
            return None
        return self._late(number, row)

    def _late(self, number: str, row: LedgerRow) -> LateRow | None:
        decision = self.landed_decisions.get(number) or self.source_decisions.get(number)
        before = decision is not None and decision.history_from is not None and row.dated < decision.history_from
        travel = self.later.travel(number, row, before_history=before, saw=self.saw)
        if travel is None:
            return None
        return LateRow(row.source_row, f"{row.recorded_at:%Y-%m-%d %H:%M:%S}Z", row.reverses, travel.text, travel.sent)

    def end_of_day(
        self,
        kind: str,
        number: str,
        revision: Revision,
        file: Mapping[str, str | None] | None,
        landed: Mapping[str, str | None] | None,
        source: Mapping[str, str | None] | None,
    ) -> tuple[LateRow, ...]:
        """Return the late rows that explain the difference of two end-of-day figures completely; () if none do.

        The file's figure must be the ledger as recorded at the landed end of day, bigsite's figure the ledger as
        recorded at its rewritten one. The snapshot must not have seen the rows between them.
        """
        key = (source or landed or {}).get("source_row") or ""
        rows = self.rows.get(key, ())
        old, new = _instant(landed, "eod_updated_at"), _instant(source, "eod_updated_at")
        if kind == "investment_holdings" and old is not None and old == new:
            return self._hidden_trades(number, revision, file, source, [row for row in rows if row.recorded_at <= old])
        if (source is not None and (new is None or new <= revision.snapshot_at)) or (file is not None and old is None):
            return ()

        def stated_before(row: LedgerRow) -> bool:
            limit = old if file is not None else revision.snapshot_at
            return self.saw(row, revision) and limit is not None and row.recorded_at <= limit

        before = [row for row in rows if stated_before(row)]
        after = [row for row in rows if source is None or (new is not None and row.recorded_at <= new)]
        day = self.expected.business_date
        if not (_states(kind, file, before, day) and _states(kind, source, after, day)):
            return ()
        if kind == "account_balances" and not _moves_available(file, source, before, after, day):
            return ()
        late = [self._late(number, row) for row in after if not stated_before(row)]
        return tuple(row for row in late if row is not None) if None not in late else ()

    def _hidden_trades(
        self,
        number: str,
        revision: Revision,
        file: Mapping[str, str | None] | None,
        source: Mapping[str, str | None] | None,
        rows: Sequence[LedgerRow],
    ) -> tuple[LateRow, ...]:
        # The end of day is as it was. Trades that the snapshot did not see make the difference in settled units alone.
        hidden = [row for row in rows if not self.saw(row, revision)]
        unsettled = _unsettled(hidden, self.expected.business_date)
        if file is None or source is None:
            return ()
        if any(file.get(name) != source.get(name) for name in ("units", "cost_base")):
            return ()
        settled, now = _number(file, "settled_units"), _number(source, "settled_units")
        if settled is None or now is None or settled - now != unsettled:
            return ()
        late = [self._late(number, row) for row in hidden]
        return tuple(row for row in late if row is not None) if None not in late else ()


def _ended(row: tuple[Any, ...], at: dt.datetime) -> bool:
    return any(ended is not None and ended < at for ended in row[1:3])


def _instant(row: Mapping[str, str | None] | None, name: str) -> dt.datetime | None:
    text = (row or {}).get(name)
    return dt.datetime.fromisoformat(text) if text else None


def _states(kind: str, stated: Mapping[str, str | None] | None, rows: Sequence[LedgerRow], day: dt.date) -> bool:
    # True if the stated figures are the sum of the rows; no statement means zero.
    if kind == "account_balances":
        total = _booked(rows)
        return total == (0 if stated is None else _number(stated, "ledger_balance"))
    total = sum((row.value for row in rows), _ZERO)
    if stated is None:
        return total == 0
    return (_number(stated, "units"), _number(stated, "settled_units")) == (total, total - _unsettled(rows, day))


def _moves_available(
    file: Mapping[str, str | None] | None,
    source: Mapping[str, str | None] | None,
    before: Sequence[LedgerRow],
    after: Sequence[LedgerRow],
    day: dt.date,
) -> bool:
    # True if the rows that came later change the available balance as the two sides do: cash less unsettled buys.
    if file is None or source is None:
        return True
    old, new = _number(file, "available_balance"), _number(source, "available_balance")
    free_before, free_after = (_booked(rows) - _unsettled(rows, day) for rows in (before, after))
    return old is not None and new is not None and new - old == free_after - free_before


def _booked(rows: Sequence[LedgerRow]) -> Decimal:
    # Sum of an account's cash transactions: its trades take money when they settle.
    return sum((row.value for row in rows if row.settles is None), _ZERO)


def _unsettled(rows: Sequence[LedgerRow], day: dt.date) -> Decimal:
    return sum((row.value for row in rows if row.settles is not None and row.settles > day), _ZERO)


def _number(row: Mapping[str, str | None], name: str) -> Decimal | None:
    try:
        return Decimal(row.get(name) or "")
    except ArithmeticError:
        return None


def gather(
    db: duckdb.DuckDBPyConnection,
    bigsite: Bigsite,
    delivered: Delivered,
    expected: ExpectedRecords,
    everything: Sequence[Sides],
    snapshots: SnapshotReader,
    later: LaterDeliveries,
) -> BreakEvidence:
    """Collect the evidence from landing and bigsite on every portfolio that differs, and on no other."""
    evidence = BreakEvidence(expected, snapshots, later)
    numbers = sorted({number for sides in everything for number in sides.portfolio_numbers})
    if not numbers:
        return evidence
    parameters = {"numbers": numbers}
    landed = db.execute(
        "SELECT * FROM landing_consents WHERE portfolio_number IN (SELECT unnest($numbers))", parameters
    ).fetchall()
    evidence.landed_consents, _ = _consents(landed)
    evidence.landed_decisions = _decisions(
        db.execute(
            "SELECT * FROM landing_decisions WHERE portfolio_number IN (SELECT unnest($numbers))", parameters
        ).fetchall()
    )
    consents: list[tuple[Any, ...]] = []
    decisions: list[tuple[Any, ...]] = []
    for part in _parts(numbers):
        consents += bigsite.fetch(expected.consents(bigsite.any_of(part)))
        decisions += bigsite.fetch(expected.decisions(bigsite.any_of(part)))
    evidence.source_consents, evidence.consents_updated = _consents(consents)
    evidence.source_decisions = _decisions(decisions)
    evidence.rows = _end_of_day_rows(bigsite, expected, everything)
    evidence.missing = _missing_movements(bigsite, everything)
    evidence.named = _named_movements(bigsite, everything)
    later.watch(number for number in numbers)
    return evidence


def _parts(members: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(members), _CHUNK):
        yield members[start : start + _CHUNK]


def _consents(
    rows: Iterable[Sequence[Any]],
) -> tuple[dict[str, dict[int, tuple[Any, ...]]], dict[int, dt.datetime]]:
    consents: dict[str, dict[int, tuple[Any, ...]]] = defaultdict(dict)
    updated: dict[int, dt.datetime] = {}
    for number, granted, expires, revoked, changed, consent_id, reference, history_from in rows:
        instants = tuple(at.astimezone(dt.UTC) if at is not None else None for at in (granted, expires, revoked))
        consents[str(number)][int(consent_id)] = (*instants, reference, history_from)
        if changed is not None:
            updated[int(consent_id)] = changed.astimezone(dt.UTC)
    return consents, updated


def _decisions(rows: Iterable[Sequence[Any]]) -> dict[str, ConsentDecision]:
    return {
        str(number): ConsentDecision(change, extract, reference, dt.date.fromisoformat(since) if since else None)
        for number, change, extract, reference, since in rows
    }


def _end_of_day_rows(
    bigsite: Bigsite, expected: ExpectedRecords, everything: Sequence[Sides]
) -> dict[str, list[LedgerRow]]:
    # Ledger rows dated up to the business date, of the holdings and accounts whose end of day differs.
    rows: dict[str, list[LedgerRow]] = defaultdict(list)
    for sides in everything:
        fields = END_OF_DAY.get(sides.kind.name)
        if fields is None:
            continue
        keys: set[str] = set()
        for difference in (*sides.bigsite.differences, *sides.landing.differences):
            if difference.field is None or difference.field in fields:
                for side in (sides.bigsite_rows, sides.landing_rows):
                    keys.add(str(side.get(difference.key, {}).get("source_row") or ""))
        keys.discard("")
        query_rows = _holding_rows if sides.kind.name == "investment_holdings" else _account_rows
        for part in _parts(sorted(keys)):
            for key, row in query_rows(bigsite, expected, part):
                rows[key].append(row)
    return rows


def _holding_rows(bigsite: Bigsite, expected: ExpectedRecords, keys: Sequence[str]) -> Iterator[tuple[str, LedgerRow]]:
    pairs = ", ".join(f"({portfolio}, {security})" for portfolio, security in (_ids(key).split("/") for key in keys))
    signed = "CASE WHEN r.side = 'SELL' THEN -r.units ELSE r.units END"
    for table, value, settles in (
        ("trade", signed, "r.settlement_date"),
        ("security_movement", "r.units_change", "CAST(NULL AS DATE)"),
    ):
        query = _ledger_query(table, value, settles, "'holding_eod ' || r.portfolio_id || '/' || r.security_id")
        yield from _ledger_rows(
            bigsite.fetch(
                f"{query} WHERE (r.portfolio_id, r.security_id) IN ({pairs}) AND r.{_DATES[table]} <= {expected.day}"
            ),
            table,
        )


def _account_rows(bigsite: Bigsite, expected: ExpectedRecords, keys: Sequence[str]) -> Iterator[tuple[str, LedgerRow]]:
    ids = ", ".join(str(int(_ids(key))) for key in keys)
    # An unsettled buy changes the available balance, not the ledger's.
    bought = "CASE WHEN r.side = 'BUY' THEN r.net_amount ELSE 0 END"
    for table, value, settles in (
        ("cash_transaction", "r.amount", "CAST(NULL AS DATE)"), ("trade", bought, "r.settlement_date")
    ):  # fmt: skip
        query = _ledger_query(table, value, settles, "'cash_balance_eod ' || r.cash_account_id")
        yield from _ledger_rows(
            bigsite.fetch(f"{query} WHERE r.cash_account_id IN ({ids}) AND r.{_DATES[table]} <= {expected.day}"), table
        )


def _ids(key: str) -> str:
    return key.partition(" ")[2]


def _ledger_query(table: str, value: str, settles: str, key: str) -> str:
    movement_type = "r.movement_type" if table == "security_movement" else "NULL"
    return (
        f"SELECT {key}, r.{table}_id, r.{_DATES[table]}, r.recorded_at, r.reverses_{table}_id, {value}, {settles}, "
        f"CAST(CAST(r.xmin AS VARCHAR) AS BIGINT), {movement_type} FROM bigsite.{table} r"
    )


def _ledger_rows(rows: Iterable[Sequence[Any]], table: str) -> Iterator[tuple[str, LedgerRow]]:
    for key, number, dated, recorded_at, reverses, value, settles, xmin, movement_type in rows:
        yield (
            str(key),
            LedgerRow(
                f"{table[0].upper()}{number}",
                f"{table} {number}",
                dated,
                recorded_at.astimezone(dt.UTC),
                f"{table} {reverses}" if reverses is not None else None,
                Decimal(value),
                settles,
                int(xmin),
                movement_type,
            ),
        )


def _missing_movements(bigsite: Bigsite, everything: Sequence[Sides]) -> dict[str, LedgerRow]:
    # Movements that bigsite has and the file lacks, by source row.
    ids: dict[str, list[int]] = defaultdict(list)
    for sides in everything:
        if sides.kind.name == "movement_transactions":
            for key, row in sides.bigsite_rows.items():
                table, _, number = str(row.get("source_row") or "").partition(" ")
                if key not in sides.file_rows and table in _DATES and number.isdigit():
                    ids[table].append(int(number))
    return _movements(bigsite, ids)


def _named_movements(bigsite: Bigsite, everything: Sequence[Sides]) -> dict[str, LedgerRow]:
    # Movements that a reference names which the file or bigsite lacks.
    ids: dict[str, list[int]] = defaultdict(list)
    for sides in everything:
        for difference in sides.bigsite.differences:
            if difference.field in REFERENCES and (difference.left is None) is not (difference.right is None):
                name = difference.left or difference.right or ""
                if name[:1] in LEDGERS and name[1:].isdigit():
                    ids[LEDGERS[name[:1]]].append(int(name[1:]))
    return {row.transaction_id: row for row in _movements(bigsite, ids).values()}


def _movements(bigsite: Bigsite, ids: Mapping[str, Sequence[int]]) -> dict[str, LedgerRow]:
    movements: dict[str, LedgerRow] = {}
    for table, numbers in ids.items():
        for part in _parts([str(number) for number in sorted(numbers)]):
            query = _ledger_query(table, "0", "CAST(NULL AS DATE)", f"'{table} ' || r.{table}_id")
            rows = bigsite.fetch(f"{query} WHERE r.{table}_id IN ({', '.join(part)})")
            movements.update(_ledger_rows(rows, table))
    return movements
