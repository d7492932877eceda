"""bigsite's rows for tests, built fluently: contract notes add up, cash legs are linked, the end of day obeys its rule.

``Bigsite(engine)`` collects rows; ``save`` writes them (again: rows changed in place are updated). The same calls make
the same rows: no clock, no chance. Days and instants may be ISO text (``"2023-02-01"``, ``"2023-02-01T03:00Z"``),
numbers text. Ledger methods return the ``Row`` they made, so that it can be reversed or looked into.

    bigsite = Bigsite(engine)
    bhp = bigsite.security("BHP", price={"2023-02-01": "45.10"})
    fund = bigsite.portfolio("SW100001").consent(history_from="2022-07-01")
    fund.deposit("10000.00", on="2023-01-10")
    trade = fund.buy(bhp, 100, "45.10", on="2023-02-01")
    bigsite.end_of_day("2023-02-01").save()
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from classfeed_dagster import trading_days
from classfeed_dagster.bigsite import tables
from classfeed_dagster.simulation import identifiers
from classfeed_dagster_tests.bigsite_rows import (
    LONG_AGO,
    NOTHING,
    Day,
    Instant,
    Number,
    Row,
    cents,
    day,
    instant,
    midday,
    typed,
)

__all__ = ["LONG_AGO", "Bigsite", "Day", "Instant", "Number", "Portfolio", "Row", "day", "instant", "midday"]


class Bigsite:
    """All rows of one bigsite, in memory until ``save``."""

    def __init__(self, engine: sa.Engine | None = None) -> None:
        self.engine = engine
        self.rows: dict[sa.Table, list[Row]] = defaultdict(list)
        self.portfolios: list[Portfolio] = []

    def add(self, table: sa.Table, given: Mapping[str, Any] | None = None, /, **defaults: Any) -> Row:
        """Any row of any table: ``given`` beats ``defaults``; absent keys are numbered, absent nullables are null."""
        values = {**defaults, **(given or {})}
        unknown = set(values) - set(table.c.keys())
        assert not unknown, f"{table.name} has no columns {unknown}"
        values.setdefault("updated_at", LONG_AGO)
        keys = [column.name for column in table.primary_key]
        if len(keys) == 1:
            values.setdefault(keys[0], len(self.rows[table]) + 1)
        row = Row(table, {column.name: typed(column, values.get(column.name)) for column in table.c})
        self.rows[table].append(row)
        return row

    def security(self, code: str, price: Mapping[str, Number] | None = None, **values: Any) -> Row:
        """A security, by default an ordinary ASX share in AUD with a valid ISIN; ``price``: closes by day."""
        isin = identifiers.isin("AU", len(self.rows[tables.security]) + 1)
        shape = {"exchange": "ASX", "name": f"{code} LIMITED", "security_type": "ORDINARY", "currency": "AUD"}
        row = self.add(tables.security, values, code=code, isin=isin, **shape)
        for on, close in (price or {}).items():
            self.price(row, on, close)
        return row

    def price(self, security: Row, on: Day, close: Number) -> Row:
        """A day's close."""
        key = {"security_id": security.id, "price_date": on}
        return self.add(tables.security_price, key, close_price=close, updated_at=midday(on))

    def code_change(self, security: Row, on: Day, new_code: str, new_name: str | None = None) -> Row:
        """The security trades under ``new_code`` (and name) from ``on``; its own row says so too."""
        old = {"old_code": security["code"], "old_name": security["name"]}
        new = {"new_code": new_code, "new_name": new_name or f"{new_code} LIMITED"}
        security["code"], security["name"] = new["new_code"], new["new_name"]
        key = {"security_id": security.id, "effective_on": on}
        return self.add(tables.security_code_change, key, **old, **new, updated_at=midday(on))

    def portfolio(self, number: str | None = None, **values: Any) -> Portfolio:
        """A portfolio with one owner and no consent; cash accounts appear as they are needed."""
        at = len(self.portfolios) + 1
        row = self.add(
            tables.portfolio,
            values,
            portfolio_number=number or f"SW{100000 + at}",
            portfolio_name=f"Portfolio {at} Super Fund",
            entity_type="SMSF",
            abn=identifiers.abn(at),
            hin=identifiers.hin(at),
            status="ACTIVE",
            opened_on="2020-01-01",
        )
        person = {"given_name": f"Given{at}", "family_name": f"Family{at}", "email": f"owner{at}@example.invalid"}
        owner = self.add(tables.member, person, created_at=LONG_AGO)
        self.add(tables.portfolio_member, portfolio_id=row.id, member_id=owner.id, role="OWNER")
        self.portfolios.append(Portfolio(self, row))
        return self.portfolios[-1]

    def end_of_day(
        self,
        on: Day,
        *,
        at: Instant | None = None,
        leave_out: Collection[Row] = (),
        holdings: bool = True,
        balances: bool = True,
    ) -> Bigsite:
        """Write (or, later, rewrite: only rows that change move their updated_at) the end of day of ``on``.

        ``at`` is when the job runs, by default an hour after the cut-off. ``leave_out``: portfolios' rows, securities
        and cash accounts for which it writes nothing.
        """
        date = day(on)
        ran = trading_days.cutoff(date) + dt.timedelta(hours=1) if at is None else instant(at)
        for portfolio in self.portfolios:
            if portfolio.row in leave_out:
                continue
            for security in self.rows[tables.security] if holdings else ():
                if security not in leave_out:
                    self._holding(portfolio, security, date, ran)
            for account in portfolio.accounts if balances else ():
                is_open = account["opened_on"] <= date < (account["closed_on"] or dt.date.max)
                if is_open and account not in leave_out:
                    self._balance(portfolio, account, date, ran)
        return self

    def save(self) -> Bigsite:
        """Insert every row, updating those that are there."""
        assert self.engine is not None
        with self.engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                if self.rows[table]:
                    keys = [column.name for column in table.primary_key]
                    statement = insert(table)
                    changed = {
                        name: statement.excluded[name] for name in self.rows[table][0].values if name not in keys
                    }
                    statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
                    connection.execute(statement, [row.values for row in self.rows[table]])
        return self

    def _holding(self, portfolio: Portfolio, security: Row, date: dt.date, ran: dt.datetime) -> None:
        units = portfolio.units(security, date, ran)
        before = portfolio.units(security, trading_days.previous_business_day(date), ran)
        buys = [row for row in portfolio.trades(security, date, ran) if row["side"] == "BUY"]
        bought = sum((row["units"] for row in buys), NOTHING)
        paid = sum((row["net_amount"] for row in buys), NOTHING)
        key = {"as_at_date": date, "portfolio_id": portfolio.id, "security_id": security.id}
        values = {"units": units, "cost_base": cents(paid * units / bought) if bought else None}
        self._state(tables.holding_eod, key, values, ran, wanted=bool(units or before))

    def _balance(self, portfolio: Portfolio, account: Row, date: dt.date, ran: dt.datetime) -> None:
        unsettled = [
            row["net_amount"]
            for row in portfolio.trades(None, date, ran)
            if row["side"] == "BUY" and row["settlement_date"] > date and row["cash_account_id"] == account.id
        ]
        ledger = portfolio.balance(account, date, ran)
        key = {"as_at_date": date, "cash_account_id": account.id}
        values = {"ledger_balance": ledger, "available_balance": ledger - sum(unsettled, NOTHING)}
        self._state(tables.cash_balance_eod, key, values, ran, wanted=True)

    def _state(
        self, table: sa.Table, key: dict[str, Any], values: dict[str, Any], ran: dt.datetime, *, wanted: bool
    ) -> None:
        there = [row for row in self.rows[table] if all(row[name] == value for name, value in key.items())]
        if not there and wanted:
            self.add(table, key, **values, updated_at=ran)
        for row in there:
            if any(row[name] != value for name, value in values.items()):
                row.values.update(values, updated_at=ran)


@dataclass(eq=False)
class Portfolio:
    """One portfolio's rows. ``on`` is a row's own date; ``recorded_at`` is noon in Sydney of it unless given.

    Keyword arguments that a method does not name set columns outright.
    """

    bigsite: Bigsite
    row: Row
    accounts: list[Row] = field(default_factory=list)
    consents: list[Row] = field(default_factory=list)
    ledger: dict[sa.Table, list[Row]] = field(default_factory=lambda: defaultdict(list))

    @property
    def id(self) -> int:
        return self.row.id

    @property
    def number(self) -> str:
        return str(self.row["portfolio_number"])

    def consent(
        self,
        granted_at: Instant = LONG_AGO,
        expires_at: Instant | None = None,
        revoked_at: Instant | None = None,
        history_from: Day | None = None,
        recipient: str = "CLASS",
        reference: str | None = None,
    ) -> Portfolio:
        """One more authority to share; its row is the last of ``consents``."""
        ends = {"expires_at": expires_at, "revoked_at": revoked_at}
        code = f"FUND{self.id:04d}" if reference is None else reference
        shared = {"recipient": recipient, "recipient_reference": code, "history_from": history_from}
        row = self.bigsite.add(
            tables.data_sharing_consent, portfolio_id=self.id, granted_at=granted_at, **shared, **ends
        )
        self.consents.append(row)
        return self

    def cash_account(self, currency: str = "AUD", **values: Any) -> Row:
        """A cash account; a foreign one has no BSB."""
        at = len(self.bigsite.rows[tables.cash_account]) + 1
        row = self.bigsite.add(
            tables.cash_account,
            values,
            portfolio_id=self.id,
            bsb=identifiers.bsb(at) if currency == "AUD" else None,
            account_number=identifiers.account_number(at),
            account_name=f"Cash of {self.number}",
            currency=currency,
            status="ACTIVE",
            opened_on=self.row["opened_on"],
        )
        self.accounts.append(row)
        return row

    def cash(self, currency: str = "AUD") -> Row:
        """The portfolio's first cash account in the currency, made if there is none."""
        held = [account for account in self.accounts if account["currency"] == currency]
        return held[0] if held else self.cash_account(currency)

    def buy(self, security: Row, units: Number, price: Number, on: Day, **values: Any) -> Row:
        """A contract note to buy (keywords as ``trade``)."""
        return self.trade("BUY", security, units, price, on, **values)

    def sell(self, security: Row, units: Number, price: Number, on: Day, **values: Any) -> Row:
        """A contract note to sell (keywords as ``trade``)."""
        return self.trade("SELL", security, units, price, on, **values)

    def trade(
        self,
        side: str,
        security: Row,
        units: Number,
        price: Number,
        on: Day,
        *,
        account: Row | None = None,
        brokerage: Number = "9.50",
        other_fees: Number = "0.00",
        settles: bool = True,
        **values: Any,
    ) -> Row:
        """A contract note, T+2, GST one eleventh of the fees, and its SETTLEMENT (unless ``settles`` is False).

        The cash moves on the settlement date and is recorded then, or with the trade if that is later.
        """
        paid_from = account or self.cash(security["currency"])
        consideration = cents(Decimal(units) * Decimal(price))
        fees = Decimal(brokerage) + Decimal(other_fees)
        row = self._record(
            tables.trade,
            on,
            values,
            cash_account_id=paid_from.id,
            security_id=security.id,
            confirmation_number=f"CN{len(self.bigsite.rows[tables.trade]) + 1:08d}",
            side=side,
            trade_date=on,
            settlement_date=trading_days.add_business_days(day(on), 2),
            units=units,
            price=price,
            consideration=consideration,
            brokerage=brokerage,
            gst=cents(fees / 11),
            other_fees=other_fees,
            net_amount=consideration + fees if side == "BUY" else consideration - fees,
            currency=security["currency"],
        )
        if settles:
            paid, at = row["net_amount"] * (-1 if side == "BUY" else 1), row["settlement_date"]
            link = {"trade_id": row.id, "recorded_at": max(midday(at), row["recorded_at"]), "account": paid_from}
            self.cash_transaction("SETTLEMENT", paid, at, description=f"{side} {security['code']}", **link)
        return row

    def deposit(self, amount: Number, on: Day, **values: Any) -> Row:
        """Money in (keywords as ``cash_transaction``)."""
        return self.cash_transaction("DEPOSIT", amount, on, **values)

    def withdraw(self, amount: Number, on: Day, **values: Any) -> Row:
        """Money out; ``amount`` is positive."""
        return self.cash_transaction("WITHDRAWAL", -Decimal(amount), on, **values)

    def cash_transaction(self, kind: str, amount: Number, on: Day, *, account: Row | None = None, **values: Any) -> Row:
        """Any movement of cash, signed."""
        moved = account or self.cash()
        defaults = {"transaction_type": kind, "description": kind.capitalize(), "currency": moved["currency"]}
        dated = {"cash_account_id": moved.id, "transaction_date": on, "amount": amount}
        return self._record(tables.cash_transaction, on, values, **dated, **defaults)

    def security_movement(self, security: Row, kind: str, units: Number, on: Day, **values: Any) -> Row:
        """Units that move without a contract note, signed; the cost base's change is unknown unless given."""
        moved = {"security_id": security.id, "movement_type": kind, "effective_date": on, "units_change": units}
        return self._record(tables.security_movement, on, values, description=f"{kind} {security['code']}", **moved)

    def dividend(
        self,
        security: Row,
        gross: Number,
        on: Day,
        *,
        account: Row | None = None,
        franked: bool = True,
        withholding_tax: Number = "0.00",
        reinvested_units: Number | None = None,
        **values: Any,
    ) -> Row:
        """Income paid ``on`` (wholly franked at 30 % or not at all), and its cash or, reinvested, its DRP units."""
        amount, ex_date = Decimal(gross), day(values.get("ex_date", day(on) - dt.timedelta(days=21)))
        parts = {"franked_amount": NOTHING, "unfranked_amount": NOTHING, "franking_credit": NOTHING}
        parts |= {"franked_amount": amount, "franking_credit": cents(amount * 30 / 70)} if franked else {}
        parts |= {} if franked else {"unfranked_amount": amount}
        row = self._record(
            tables.income,
            on,
            values,
            security_id=security.id,
            income_type="DIVIDEND",
            ex_date=ex_date,
            payment_date=on,
            units_held=self.units(security, ex_date - dt.timedelta(days=1), midday(on)),
            gross_amount=amount,
            withholding_tax=withholding_tax,
            net_amount=amount - Decimal(withholding_tax),
            currency=security["currency"],
            **parts,
        )
        same = {"recorded_at": row["recorded_at"]}
        if reinvested_units is None:
            link = {"account": account or self.cash(security["currency"]), "income_id": row.id, **same}
            self.cash_transaction("INCOME", row["net_amount"], on, **link)
        else:
            self.security_movement(security, "DRP", reinvested_units, on, cost_base_change=row["net_amount"], **same)
        return row

    def reverse(self, row: Row, recorded_at: Instant, **values: Any) -> Row:
        """The row that undoes ``row``: same dates, opposite units and amounts; its cash legs are undone with it."""
        key, at = f"{row.table.name}_id", instant(recorded_at)
        signed = {name: -v for name, v in row.values.items() if isinstance(v, Decimal) and name != "price"}
        changed = {**row.values, **signed, f"reverses_{key}": row.id, "recorded_at": at, **values}
        del changed[key]
        made = self._record(row.table, at.date(), changed)
        if key in ("trade_id", "income_id"):
            for leg in [leg for leg in self.ledger[tables.cash_transaction] if leg[key] == row.id]:
                self.reverse(leg, max(at, leg["recorded_at"]), **{key: made.id})
        return made

    def trades(self, security: Row | None, on: Day, recorded_by: dt.datetime) -> list[Row]:
        """The trades dated on or before ``on`` and recorded no later than ``recorded_by``."""
        rows = [row for row in self.ledger[tables.trade] if security is None or row["security_id"] == security.id]
        return [row for row in rows if row["trade_date"] <= day(on) and row["recorded_at"] <= recorded_by]

    def units(self, security: Row, on: Day, recorded_by: dt.datetime) -> Decimal:
        """Units held on a day as the ledgers recorded by then have it: the contract's sum for holding_eod."""
        traded = [row["units"] * (1 if row["side"] == "BUY" else -1) for row in self.trades(security, on, recorded_by)]
        moved = [
            row["units_change"]
            for row in self.ledger[tables.security_movement]
            if row["security_id"] == security.id
            and row["effective_date"] <= day(on)
            and row["recorded_at"] <= recorded_by
        ]
        return sum(traded + moved, Decimal("0.000000"))

    def balance(self, account: Row, on: Day, recorded_by: dt.datetime) -> Decimal:
        """An account's ledger balance on a day as recorded by then: the contract's sum for cash_balance_eod."""
        rows = [row for row in self.ledger[tables.cash_transaction] if row["cash_account_id"] == account.id]
        dated = [row for row in rows if row["transaction_date"] <= day(on) and row["recorded_at"] <= recorded_by]
        return sum((row["amount"] for row in dated), NOTHING)

    def _record(self, table: sa.Table, on: Day, values: Mapping[str, Any], **defaults: Any) -> Row:
        # A millisecond a row keeps rows of one day apart, in the order in which a test made them.
        defaults["recorded_at"] = midday(on, len(self.bigsite.rows[table]))
        if "portfolio_id" in table.c:
            defaults["portfolio_id"] = self.id
        row = self.bigsite.add(table, values, **defaults)
        self.ledger[table].append(row)
        return row
