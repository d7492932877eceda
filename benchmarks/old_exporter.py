"""The baseline: a small, faithful version of the exporter that this project replaces.

It asks who consents five times, reads each domain's rows as ORM objects, builds the document element by element with
lxml's ``E`` builder as one tree in memory, validates the tree afterwards and writes one gzipped file. For the
benchmarks' data its document is canonically equal to this project's, which a test proves. It leaves out what that
data doesn't hold: history that begins on a date (openings), changed security codes, reversals, ended consents.
"""

from __future__ import annotations

import datetime as dt
import gzip
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from lxml import etree
from sqlalchemy import orm

from benchmarks.old_document import E, Totals, head, of_security, optional, section
from classfeed_dagster.bigsite import tables
from classfeed_dagster.documents.epi_schema import compiled
from classfeed_dagster.trading_days import Window, instant_text

CENT = Decimal("0.01")


class Base(orm.DeclarativeBase):
    """bigsite's tables as ORM classes."""

    metadata = tables.metadata


def _orm(name: str, table: sa.Table) -> Any:
    # Its attributes are made at run time: types can't know them.
    return type(name, (Base,), {"__table__": table})


Consent = _orm("Consent", tables.data_sharing_consent)
Portfolio = _orm("Portfolio", tables.portfolio)
CashAccount = _orm("CashAccount", tables.cash_account)
Security = _orm("Security", tables.security)
SecurityPrice = _orm("SecurityPrice", tables.security_price)
Holding = _orm("Holding", tables.holding_eod)
CashBalance = _orm("CashBalance", tables.cash_balance_eod)
Trade = _orm("Trade", tables.trade)
SecurityMovement = _orm("SecurityMovement", tables.security_movement)
Income = _orm("Income", tables.income)
CashTransaction = _orm("CashTransaction", tables.cash_transaction)


@dataclass(frozen=True, slots=True)
class Consented:
    """A consented portfolio with its recipient's reference. ``new``: it gets its history (NEW), not the window."""

    portfolio: Any
    reference: str
    new: bool


@dataclass(frozen=True)
class Export:
    """One export: date, data and window. ``first``: the feed's first date, on which all portfolios are NEW."""

    session: orm.Session
    recipient: str
    day: dt.date
    window: Window
    first: bool
    totals: Totals

    def consented(self) -> list[Consented]:
        """Return the consents by portfolio number. Each domain queries them again."""
        asked = (
            sa.select(Portfolio, Consent)
            .join(Consent, Consent.portfolio_id == Portfolio.portfolio_id)
            .where(*self._consents())
        )
        found = [
            Consented(portfolio, consent.recipient_reference, self.first or consent.granted_at >= self.window.start)
            for portfolio, consent in self.session.execute(asked)
        ]
        return sorted(found, key=lambda one: str(one.portfolio.portfolio_number))

    def account_details(self) -> list[Any]:
        """Return each portfolio and its cash accounts."""
        accounts = self._by_portfolio(self._rows(CashAccount))
        elements = []
        for consent in self.consented():
            portfolio = consent.portfolio
            details = [
                E.PortfolioName(portfolio.portfolio_name),
                E.EntityType(portfolio.entity_type),
                *optional("Abn", portfolio.abn),
                *optional("Hin", portfolio.hin),
                E.Status(portfolio.status),
                E.OpenedOn(portfolio.opened_on.isoformat()),
                *optional("ClosedOn", portfolio.closed_on),
            ]
            for account in sorted(accounts[portfolio.portfolio_id], key=lambda it: (it.account_number, it.currency)):
                details.append(
                    E.CashAccount(
                        *optional("Bsb", account.bsb),
                        E.CashAccountNumber(account.account_number),
                        E.AccountName(account.account_name),
                        E.Currency(account.currency),
                        E.Status(account.status),
                        E.OpenedOn(account.opened_on.isoformat()),
                        *optional("ClosedOn", account.closed_on),
                    )
                )
            elements.append(
                E.Account(
                    E.PortfolioNumber(portfolio.portfolio_number),
                    E.RecipientReference(consent.reference),
                    *details,
                    consent="NEW" if consent.new else "CURRENT",
                    extract="FULL" if consent.new else "DELTA",
                )
            )
        return elements

    def account_balances(self) -> list[Any]:
        """Return each cash account's balance at the end of the day."""
        accounts = self._by_portfolio(self._rows(CashAccount))
        balances = {
            balance.cash_account_id: balance
            for balance in self.session.scalars(sa.select(CashBalance).where(CashBalance.as_at_date == self.day))
        }
        elements = []
        for consent in self.consented():
            portfolio = consent.portfolio
            for account in sorted(accounts[portfolio.portfolio_id], key=lambda it: (it.account_number, it.currency)):
                balance = balances[account.cash_account_id]
                self.totals.of(account.currency).ledger_balance += balance.ledger_balance
                elements.append(
                    E.AccountBalance(
                        E.PortfolioNumber(portfolio.portfolio_number),
                        *optional("Bsb", account.bsb),
                        E.CashAccountNumber(account.account_number),
                        E.Currency(account.currency),
                        E.AsAtDate(self.day.isoformat()),
                        E.LedgerBalance(str(balance.ledger_balance)),
                        E.AvailableBalance(str(balance.available_balance)),
                    )
                )
        return elements

    def investment_holdings(self) -> list[Any]:
        """Return each portfolio's holdings at the end of the day, at the last close."""
        holdings = self._by_portfolio(self._rows(Holding, Holding.as_at_date == self.day))
        unsettled = self._unsettled()
        securities, prices = self._securities(), self._prices()
        elements = []
        for consent in self.consented():
            portfolio = consent.portfolio
            held = [(securities[it.security_id], it) for it in holdings[portfolio.portfolio_id]]
            for security, holding in sorted(held, key=lambda it: (it[0].exchange, it[0].code)):
                price = prices.get(holding.security_id)
                settled = holding.units - unsettled.get((portfolio.portfolio_id, holding.security_id), Decimal(0))
                valued = []
                if price is not None:
                    value = (holding.units * price.close_price).quantize(CENT, ROUND_HALF_UP)
                    self.totals.of(security.currency).market_value += value
                    valued = [
                        E.Price(str(price.close_price)),
                        E.PriceDate(price.price_date.isoformat()),
                        E.MarketValue(str(value)),
                    ]
                self.totals.units_held += holding.units
                elements.append(
                    E.InvestmentHolding(
                        E.PortfolioNumber(portfolio.portfolio_number),
                        *optional("Hin", portfolio.hin if security.exchange == "ASX" else None),
                        E.Exchange(security.exchange),
                        E.SecurityCode(security.code),
                        *optional("Isin", security.isin),
                        E.SecurityName(security.name),
                        E.SecurityType(security.security_type),
                        E.AsAtDate(self.day.isoformat()),
                        E.Units(str(holding.units)),
                        E.SettledUnits(str(settled)),
                        E.Currency(security.currency),
                        *valued,
                        *optional("CostBase", holding.cost_base),
                    )
                )
        return elements

    def movement_transactions(self) -> list[Any]:
        """Return all recorded movements of NEW portfolios, and the window's movements of the others."""
        securities = self._securities()
        accounts = {account.cash_account_id: account for account in self._rows(CashAccount)}
        trades = self._by_portfolio(self._ledger(Trade))
        moved = self._by_portfolio(self._ledger(SecurityMovement))
        incomes = self._by_portfolio(self._ledger(Income))
        cash: dict[int, list[Any]] = defaultdict(list)
        for row in self._ledger(CashTransaction):
            cash[accounts[row.cash_account_id].portfolio_id].append(row)
        elements = []
        for consent in self.consented():
            at, number = consent.portfolio.portfolio_id, consent.portfolio.portfolio_number
            movements: list[tuple[str, Any, Any]] = [(f"T{row.trade_id}", row, self._trade) for row in trades[at]]
            movements += [(f"S{row.security_movement_id}", row, self._moved) for row in moved[at]]
            movements += [(f"I{row.income_id}", row, self._income) for row in incomes[at]]
            movements += [(f"C{row.cash_transaction_id}", row, self._cash) for row in cash[at]]
            for key, row, make in sorted(movements, key=lambda it: (it[1].recorded_at, it[0])):
                if consent.new or row.recorded_at >= self.window.start:
                    parent = accounts[row.cash_account_id] if make == self._cash else securities[row.security_id]
                    elements.append(make(key, number, row, parent))
        return elements

    def _trade(self, key: str, number: str, row: Any, security: Any) -> Any:
        units = row.units if row.side == "BUY" else -row.units
        self.totals.units_moved += units
        self.totals.of(row.currency).net_amount += row.net_amount
        return E.MovementTransaction(
            *head(key, number, row.side, row.trade_date, row, settlement=row.settlement_date),
            *of_security(security),
            E.Units(str(units)),
            E.ConfirmationNumber(row.confirmation_number),
            E.Price(str(row.price)),
            E.Consideration(str(row.consideration)),
            E.Brokerage(str(row.brokerage)),
            E.Gst(str(row.gst)),
            E.OtherFees(str(row.other_fees)),
            E.NetAmount(str(row.net_amount)),
            E.Currency(row.currency),
        )

    def _moved(self, key: str, number: str, row: Any, security: Any) -> Any:
        self.totals.units_moved += row.units_change
        has_money = row.cost_base_change is not None
        return E.MovementTransaction(
            *head(key, number, row.movement_type, row.effective_date, row),
            *of_security(security),
            E.Units(str(row.units_change)),
            *optional("CostBaseChange", row.cost_base_change),
            *optional("Currency", security.currency if has_money else None),
            *optional("Narrative", row.description),
        )

    def _income(self, key: str, number: str, row: Any, security: Any) -> Any:
        kind = "INTEREST_INCOME" if row.income_type == "INTEREST" else row.income_type
        return E.MovementTransaction(
            *head(key, number, kind, row.payment_date, row),
            *of_security(security),
            E.Units(str(row.units_held)),
            E.ExDate(row.ex_date.isoformat()),
            E.GrossAmount(str(row.gross_amount)),
            E.FrankedAmount(str(row.franked_amount)),
            E.UnfrankedAmount(str(row.unfranked_amount)),
            E.FrankingCredit(str(row.franking_credit)),
            E.WithholdingTax(str(row.withholding_tax)),
            E.NetIncome(str(row.net_amount)),
            E.Currency(row.currency),
        )

    def _cash(self, key: str, number: str, row: Any, account: Any) -> Any:
        self.totals.of(row.currency).cash_amount += row.amount
        relates = f"T{row.trade_id}" if row.trade_id else f"I{row.income_id}" if row.income_id else None
        return E.MovementTransaction(
            *head(key, number, f"CASH_{row.transaction_type}", row.transaction_date, row, relates=relates),
            *optional("Bsb", account.bsb),
            E.CashAccountNumber(account.account_number),
            E.Amount(str(row.amount)),
            E.Currency(row.currency),
            *optional("Narrative", row.description),
        )

    # What the domains read.

    def _consents(self) -> list[sa.ColumnElement[bool]]:
        rows, at = Consent, self.window.end
        return [
            rows.recipient == self.recipient,
            rows.granted_at < at,
            sa.or_(rows.expires_at.is_(None), rows.expires_at >= at),
            sa.or_(rows.revoked_at.is_(None), rows.revoked_at >= at),
        ]

    def _rows(self, kind: Any, *conditions: Any) -> list[Any]:
        joined = sa.select(kind).join(Consent, Consent.portfolio_id == kind.portfolio_id)
        return list(self.session.scalars(joined.where(*self._consents(), *conditions)))

    def _ledger(self, kind: Any) -> list[Any]:
        recorded, granted = kind.recorded_at, Consent.granted_at
        sent = sa.true() if self.first else sa.or_(granted >= self.window.start, recorded >= self.window.start)
        if kind is not CashTransaction:
            return self._rows(kind, recorded < self.window.end, sent)
        joined = (
            sa.select(kind)
            .join(CashAccount, CashAccount.cash_account_id == kind.cash_account_id)
            .join(Consent, Consent.portfolio_id == CashAccount.portfolio_id)
        )
        return list(self.session.scalars(joined.where(*self._consents(), recorded < self.window.end, sent)))

    def _unsettled(self) -> dict[tuple[int, int], Decimal]:
        open_trades = self._rows(Trade, Trade.trade_date <= self.day, Trade.settlement_date > self.day)
        units: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
        for trade in open_trades:
            units[trade.portfolio_id, trade.security_id] += trade.units if trade.side == "BUY" else -trade.units
        return units

    def _securities(self) -> dict[int, Any]:
        return {security.security_id: security for security in self.session.scalars(sa.select(Security))}

    def _prices(self) -> dict[int, Any]:
        closes = sa.select(SecurityPrice).where(SecurityPrice.price_date <= self.day)
        ordered = closes.order_by(SecurityPrice.price_date)
        return {price.security_id: price for price in self.session.scalars(ordered)}  # the last one stays

    def _by_portfolio(self, rows: Iterable[Any]) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        for row in rows:
            found[row.portfolio_id].append(row)
        return found


def export(
    engine: sa.Engine,
    path: Path,
    *,
    feed: str,
    recipient: str,
    day: dt.date,
    number: int,
    window: Window,
    snapshot_at: dt.datetime,
) -> int:
    """Write the date's document, the feed's ``number``th, to ``path``, gzipped; how many records it holds."""
    totals = Totals()
    with orm.Session(engine) as session:
        job = Export(session, recipient, day, window, number == 1, totals)
        consented = len(job.consented())
        sections = {
            "AccountDetails": job.account_details(),
            "AccountBalances": job.account_balances(),
            "InvestmentHoldings": job.investment_holdings(),
            "MovementTransactions": job.movement_transactions(),
        }
    assert len(sections["AccountDetails"]) == consented
    header = E.Header(
        E.Feed(feed),
        E.Recipient(recipient),
        E.MessageId(f"{feed}-{day:%Y%m%d}-r0-p1"),
        E.SequenceNumber(str(number)),
        E.Revision("0"),
        E.PageNumber("1"),
        E.PageCount("1"),
        E.BusinessDate(day.isoformat()),
        E.RecordedAfter(instant_text(window.start)),
        E.RecordedBefore(instant_text(window.end)),
        E.SnapshotAt(instant_text(snapshot_at)),
        E.HoldingBasis("TRADED"),
    )
    counted = {"AccountDetails": "Accounts"}
    counts = {counted.get(name, name): len(elements) for name, elements in sections.items()}
    root = E.EPIDataResponse(header, *(section(*named) for named in sections.items()), totals.element(counts))
    compiled().assertValid(root)
    with gzip.open(path, "wb", compresslevel=6) as target:
        target.write(etree.tostring(root, xml_declaration=True, encoding="UTF-8"))
    return sum(counts.values())
