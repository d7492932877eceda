"""Expected movements of a document: four ledgers and the openings, as one relation. See ``expected_sql``."""

# ruff: noqa: S608, E501  # SQL of this package's own text and checked literals, kept on whole lines

from __future__ import annotations

from classfeed_dagster.reconciliation.record_scope import RecordScope
from classfeed_dagster.reconciliation.records import ISIN, MOVEMENTS

_SIGNED = "CASE WHEN t.side = 'SELL' THEN -t.units ELSE t.units END"

_DATES = {
    "trade": "trade_date",
    "security_movement": "effective_date",
    "income": "payment_date",
    "cash_transaction": "transaction_date",
}

# Every column of the relation, null unless a ledger fills it. The first part determines the union's types.
_NULLS = {
    **dict.fromkeys(("transaction_date", "settlement_date", "ex_date"), "CAST(NULL AS DATE)"),
    "recorded_at": "CAST(NULL AS TIMESTAMP WITH TIME ZONE)",
    "units": "CAST(NULL AS DECIMAL(38,6))",
    "price": "CAST(NULL AS DECIMAL(18,6))",
    **dict.fromkeys(
        (
            "consideration", "brokerage", "gst", "other_fees", "net_amount", "cost_base_change", "gross_amount",
            "franked_amount", "unfranked_amount", "franking_credit", "withholding_tax", "net_income", "amount",
        ),
        "CAST(NULL AS DECIMAL(38,2))",
    ),
}  # fmt: skip


def movements(scope: RecordScope, ledgers: str) -> str:
    """Return SQL of the scope's movements of some ledgers, with evidence. Source: the schema's MovementTransaction."""
    parts = {
        "T": (_trades,),
        "S": (_security_movements,),
        "I": (_income,),
        "C": (_cash, _opening_cash),
        "O": (_opening_units, _opening_cash),
    }
    chosen = dict.fromkeys(part for letter in ledgers for part in parts[letter])
    return " UNION ALL ".join(part(scope) for part in chosen)


def _select(scope: RecordScope, recorded_last: str, source_row: str, **columns: str) -> str:
    listed = ", ".join(
        f"{columns.get(name) or _NULLS.get(name, 'CAST(NULL AS VARCHAR)')} AS {name}" for name in MOVEMENTS.names
    )
    # The security's codes, or the account's numbers, come from rows that bigsite updates in place.
    state = "a.updated_at" if "account_number" in columns else "greatest(x.updated_at, n.updated_at)"
    evidence = scope.evidence(
        state_updated_at=state,
        portfolio_updated_at="s.portfolio_updated_at",
        recorded_last=recorded_last,
        consent_updated_at="s.consent_updated_at",
        source_row=source_row,
    )
    return f"SELECT {listed}, s.hin, {evidence}"


def _window(scope: RecordScope, row: str) -> str:
    # FULL: all of the shared history recorded before the cut-off. DELTA: the part recorded in the window.
    start, end = scope.at(scope.window_start), scope.at(scope.window_end)
    return f"{row}.recorded_at < {end} AND (s.extract = 'FULL' OR {row}.recorded_at >= {start})"


def _shared(scope: RecordScope, row: str, date: str, ledger: str = "") -> str:
    window = _or_late(scope, _window(scope, row), row, ledger) if ledger else _window(scope, row)
    return f"WHERE {window} AND (s.history_from IS NULL OR {row}.{date} >= s.history_from)"


def _or_late(scope: RecordScope, window: str, row: str, ledger: str) -> str:
    # With the rows that no earlier window's snapshot saw: sent in this one.
    ids = [name[1:] for name in scope.late if name[:1] == ledger[0].upper()]
    return f"(({window}) OR {row}.{ledger}_id IN ({', '.join(ids)}))" if ids else f"({window})"


def _reference(scope: RecordScope, row: str, ledger: str) -> str:
    # The TransactionId of the reversed row; null if that row was not sent.
    return _if_sent(scope, _dated(scope, row, ledger), f"'{ledger[0].upper()}' || {row}.reverses_{ledger}_id")


def _reverses_movement(scope: RecordScope) -> str:
    # Null as well for a DRP row that a switch left out.
    reference = _reference(scope, "m", "security_movement")
    on = scope.is_on("include-drp")
    if on == "TRUE":
        return reference
    kind = (
        "m.reversed_type"
        if scope.landed
        else f"(SELECT o.movement_type FROM {scope.schema}.security_movement o "
        "WHERE o.security_movement_id = m.reverses_security_movement_id)"
    )
    return f"CASE WHEN {on} OR {kind} IS DISTINCT FROM 'DRP' THEN {reference} END"


def _dated(scope: RecordScope, row: str, ledger: str) -> str:
    # The landing contains the date, because it lacks the rows of earlier windows.
    if scope.landed:
        return f"{row}.reversed_on"
    return (
        f"(SELECT o.{_DATES[ledger]} FROM {scope.schema}.{ledger} o WHERE o.{ledger}_id = {row}.reverses_{ledger}_id)"
    )


def _if_sent(scope: RecordScope, dated: str, reference: str) -> str:
    # Null if the named row is dated before the shared history, or preceded it when its window was sent.
    unsent = ", ".join(f"'{number} {name}'" for number, name in scope.unsent)
    listed = f" OR s.portfolio_number || ' ' || {reference} IN ({unsent})" if unsent else ""
    return f"CASE WHEN {dated} < s.history_from{listed} THEN NULL ELSE {reference} END"


def _relates_to(scope: RecordScope) -> str:
    # The trade or income that caused a cash row; null if that row was not sent, or if income is left out.
    schema = scope.schema
    dated = (
        "c.related_on"
        if scope.landed
        else f"coalesce((SELECT o.trade_date FROM {schema}.trade o WHERE o.trade_id = c.trade_id), "
        f"(SELECT o.payment_date FROM {schema}.income o WHERE o.income_id = c.income_id))"
    )
    income = f"CASE WHEN {scope.is_on('include-income')} THEN 'I' || c.income_id END"
    return _if_sent(scope, dated, f"coalesce('T' || c.trade_id, {income})")


def named_rows(scope: RecordScope, ledgers: str) -> str:
    """Return SQL of the rows of earlier windows that rows of this window name: number, id, date, recorded_at.

    Only of portfolios with consents to different histories, or with one that changed after the row was recorded:
    otherwise the shared history is as it was. Of bigsite, whatever its consents state now: the landing may have others.
    """
    tables = {table[0].upper(): table for table in _DATES}
    named = [(letter, letter, f"reverses_{tables[letter]}_id") for letter in tables if letter in ledgers]
    if "C" in ledgers:
        named += [("C", "T", "trade_id"), ("C", "I", "income_id")]
    return " UNION ".join(_named(scope, tables[one], tables[other], column) for one, other, column in named)


def _named(scope: RecordScope, table: str, other: str, column: str) -> str:
    schema, recipient = scope.schema, f"recipient = '{scope.recipient}'"
    cash = f"JOIN {schema}.cash_account a ON a.portfolio_id = p.portfolio_id" if table[0] == "c" else ""
    owner = "r.cash_account_id = a.cash_account_id" if cash else "r.portfolio_id = p.portfolio_id"
    dated, start = f"o.{_DATES[other]}", scope.at(scope.window_start)
    window = f"r.recorded_at >= {start} AND r.recorded_at < {scope.at(scope.window_end)}"
    return f"""SELECT p.portfolio_number, '{other[0].upper()}' || o.{other}_id, CAST({dated} AS VARCHAR), o.recorded_at
      FROM {schema}.portfolio p {cash} JOIN {schema}.{table} r ON {owner} JOIN {schema}.{other} o ON o.{other}_id = r.{column}
      WHERE {_or_late(scope, window, "r", table)} AND {dated} BETWEEN DATE '1900-01-01' AND DATE '9999-12-31'
      AND o.recorded_at >= TIMESTAMP WITH TIME ZONE '1900-01-01 00:00+00' AND o.recorded_at < {start}
      AND (p.portfolio_id IN (SELECT portfolio_id FROM {schema}.data_sharing_consent WHERE {recipient}
        GROUP BY portfolio_id HAVING count(DISTINCT coalesce(history_from, DATE '0001-01-01')) > 1)
        OR EXISTS (SELECT 1 FROM {schema}.data_sharing_consent u WHERE u.{recipient}
          AND u.portfolio_id = p.portfolio_id AND u.updated_at > u.granted_at AND u.updated_at > o.recorded_at))"""


def _security(scope: RecordScope, row: str, date: str) -> str:
    return (
        f"JOIN {scope.schema}.security x ON x.security_id = {row}.security_id "
        f"JOIN codes n ON n.security_id = x.security_id AND {date} >= n.first_on AND {date} < n.not_on"
    )


_OF_SECURITY = {"exchange": "x.exchange", "security_code": "n.code", "isin": ISIN}


def _trades(scope: RecordScope) -> str:
    own = ("settlement_date", "recorded_at", "confirmation_number", "price", "consideration", "brokerage", "gst")
    head = _select(
        scope,
        "t.recorded_at",
        "'trade ' || t.trade_id",
        transaction_id="'T' || t.trade_id",
        portfolio_number="s.portfolio_number",
        transaction_type="t.side",
        transaction_date="t.trade_date",
        reverses=_reference(scope, "t", "trade"),
        units=_SIGNED,
        other_fees="t.other_fees",
        net_amount="t.net_amount",
        currency="t.currency",
        **{name: f"t.{name}" for name in own},
        **_OF_SECURITY,
    )
    return (
        f"{head} FROM sending s JOIN {scope.schema}.trade t ON t.portfolio_id = s.portfolio_id "
        f"{_security(scope, 't', 't.trade_date')} {_shared(scope, 't', 'trade_date', 'trade')}"
    )


def _security_movements(scope: RecordScope) -> str:
    head = _select(
        scope,
        "m.recorded_at",
        "'security_movement ' || m.security_movement_id",
        transaction_id="'S' || m.security_movement_id",
        portfolio_number="s.portfolio_number",
        transaction_type="m.movement_type",
        transaction_date="m.effective_date",
        recorded_at="m.recorded_at",
        reverses=_reverses_movement(scope),
        units="m.units_change",
        cost_base_change="m.cost_base_change",
        currency="CASE WHEN m.cost_base_change IS NOT NULL THEN x.currency END",
        narrative="m.description",
        **_OF_SECURITY,
    )
    return (
        f"{head} FROM sending s JOIN {scope.schema}.security_movement m ON m.portfolio_id = s.portfolio_id "
        f"{_security(scope, 'm', 'm.effective_date')} {_shared(scope, 'm', 'effective_date', 'security_movement')}"
        + scope.without("include-drp", "m.movement_type = 'DRP'")
    )


def _income(scope: RecordScope) -> str:
    own = ("recorded_at", "ex_date", "gross_amount", "franked_amount", "unfranked_amount", "franking_credit")
    head = _select(
        scope,
        "i.recorded_at",
        "'income ' || i.income_id",
        transaction_id="'I' || i.income_id",
        portfolio_number="s.portfolio_number",
        transaction_type="CASE WHEN i.income_type = 'INTEREST' THEN 'INTEREST_INCOME' ELSE i.income_type END",
        transaction_date="i.payment_date",
        reverses=_reference(scope, "i", "income"),
        units="i.units_held",
        withholding_tax="i.withholding_tax",
        net_income="i.net_amount",
        currency="i.currency",
        **{name: f"i.{name}" for name in own},
        **_OF_SECURITY,
    )
    return (
        f"{head} FROM sending s JOIN {scope.schema}.income i ON i.portfolio_id = s.portfolio_id "
        f"{_security(scope, 'i', 'i.payment_date')} {_shared(scope, 'i', 'payment_date', 'income')}"
        + scope.without("include-income", "TRUE")
    )


def _cash(scope: RecordScope) -> str:
    head = _select(
        scope,
        "c.recorded_at",
        "'cash_transaction ' || c.cash_transaction_id",
        transaction_id="'C' || c.cash_transaction_id",
        portfolio_number="s.portfolio_number",
        transaction_type="'CASH_' || c.transaction_type",
        transaction_date="c.transaction_date",
        recorded_at="c.recorded_at",
        reverses=_reference(scope, "c", "cash_transaction"),
        relates_to=_relates_to(scope),
        bsb="a.bsb",
        account_number="a.account_number",
        amount="c.amount",
        currency="c.currency",
        narrative="c.description",
    )
    return (
        f"{head} FROM sending s JOIN {scope.schema}.cash_account a ON a.portfolio_id = s.portfolio_id "
        f"JOIN {scope.schema}.cash_transaction c ON c.cash_account_id = a.cash_account_id "
        f"{_shared(scope, 'c', 'transaction_date', 'cash_transaction')}"
    )


# --- Openings: balances from before the shared history, one record a security or cash account. - -------------------


def _first_sent(scope: RecordScope) -> str:
    # The earliest recorded_at of the rows that a FULL extract sends, by portfolio.
    ledgers = (
        ("trade", "trade_date", ""),
        ("security_movement", "effective_date", ""),
        ("income", "payment_date", ""),
        (
            "cash_transaction",
            "transaction_date",
            f"JOIN {scope.schema}.cash_account a ON a.cash_account_id = r.cash_account_id",
        ),
    )
    rows = " UNION ALL ".join(
        f"SELECT s.portfolio_id, r.recorded_at FROM {scope.schema}.{table} r {join} "
        f"JOIN sending s ON s.portfolio_id = {'a' if join else 'r'}.portfolio_id {_shared(scope, 'r', date)} "
        "AND s.extract = 'FULL' AND s.history_from IS NOT NULL"
        for table, date, join in ledgers
    )
    return f"SELECT portfolio_id, min(recorded_at) AS first_sent FROM ({rows}) r GROUP BY portfolio_id"


_OPENED_AT = """CASE WHEN s.extract = 'DELTA' THEN o.recorded_at
  WHEN f.first_sent <= CAST(s.history_from AS TIMESTAMP) AT TIME ZONE 'Australia/Sydney' THEN f.first_sent - INTERVAL '1 microsecond'
  ELSE CAST(s.history_from AS TIMESTAMP) AT TIME ZONE 'Australia/Sydney' END"""


def _before_history(scope: RecordScope, row: str, date: str) -> str:
    return f"WHERE {_window(scope, row)} AND {row}.{date} < s.history_from"


def _opening(scope: RecordScope, source: str, head: str, joins: str) -> str:
    return (
        f"{head} FROM ({source}) o JOIN sending s ON s.portfolio_id = o.portfolio_id {joins} "
        f"LEFT JOIN ({_first_sent(scope)}) f ON f.portfolio_id = s.portfolio_id"
    )


def _opening_units(scope: RecordScope) -> str:
    schema = scope.schema
    source = (
        f"SELECT portfolio_id, security_id, units, recorded_at FROM {schema}.opening_units WHERE audience = '{scope.audience}'"
        if scope.landed
        else f"""SELECT portfolio_id, security_id, sum(units) AS units, max(recorded_at) AS recorded_at FROM (
            SELECT t.portfolio_id, t.security_id, {_SIGNED} AS units, t.recorded_at
            FROM {schema}.trade t JOIN sending s ON s.portfolio_id = t.portfolio_id {_before_history(scope, "t", "trade_date")}
            UNION ALL SELECT m.portfolio_id, m.security_id, m.units_change, m.recorded_at
            FROM {schema}.security_movement m JOIN sending s ON s.portfolio_id = m.portfolio_id
            {_before_history(scope, "m", "effective_date")}) r
            GROUP BY portfolio_id, security_id HAVING sum(units) <> 0"""
    )
    day = f"{scope.business_date:%Y%m%d}"
    head = _select(
        scope,
        "o.recorded_at",
        "'opening units of ' || o.portfolio_id || '/' || o.security_id",
        transaction_id=f"'OU-' || s.portfolio_number || '-' || o.security_id || '-{day}'",
        portfolio_number="s.portfolio_number",
        transaction_type="'OPENING_UNITS'",
        transaction_date="s.history_from - 1",
        recorded_at=_OPENED_AT,
        units="o.units",
        **_OF_SECURITY,
    )
    return _opening(scope, source, head, _security(scope, "o", "(s.history_from - 1)"))


def _opening_cash(scope: RecordScope) -> str:
    schema = scope.schema
    source = (
        f"SELECT portfolio_id, cash_account_id, amount, recorded_at FROM {schema}.opening_cash WHERE audience = '{scope.audience}'"
        if scope.landed
        else f"""SELECT a.portfolio_id, c.cash_account_id, sum(c.amount) AS amount, max(c.recorded_at) AS recorded_at
            FROM {schema}.cash_transaction c JOIN {schema}.cash_account a ON a.cash_account_id = c.cash_account_id
            JOIN sending s ON s.portfolio_id = a.portfolio_id {_before_history(scope, "c", "transaction_date")}
            GROUP BY a.portfolio_id, c.cash_account_id HAVING sum(c.amount) <> 0"""
    )
    day = f"{scope.business_date:%Y%m%d}"
    head = _select(
        scope,
        "o.recorded_at",
        "'opening cash of ' || o.cash_account_id",
        transaction_id=f"'OC-' || s.portfolio_number || '-' || o.cash_account_id || '-{day}'",
        portfolio_number="s.portfolio_number",
        transaction_type="'OPENING_CASH'",
        transaction_date="s.history_from - 1",
        recorded_at=_OPENED_AT,
        bsb="a.bsb",
        account_number="a.account_number",
        amount="o.amount",
        currency="a.currency",
    )
    return _opening(scope, source, head, f"JOIN {schema}.cash_account a ON a.cash_account_id = o.cash_account_id")
