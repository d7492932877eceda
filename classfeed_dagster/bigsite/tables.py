"""bigsite's tables in SQLAlchemy Core, with the columns that the feeds may read.

bigsite belongs to another team; the feeds read it and never write to it. ``metadata.create_all`` is for local and test
databases only (``classfeed_dagster.bigsite.create_schema``). Types and keys follow ``contracts/bigsite.sql``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CHAR,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    String,
    Table,
    UniqueConstraint,
)

SCHEMA = "bigsite"
metadata = MetaData(schema=SCHEMA)

ENTITY_TYPES = ("INDIVIDUAL", "JOINT", "COMPANY", "TRUST", "SMSF")
STATUSES = ("ACTIVE", "SUSPENDED", "CLOSED")
MEMBER_ROLES = ("OWNER", "JOINT", "TRUSTEE", "DIRECTOR", "ADVISER")
SECURITY_TYPES = ("ORDINARY", "ETF", "LIC", "REIT", "HYBRID", "BOND", "OPTION", "RIGHT", "WARRANT")
SIDES = ("BUY", "SELL")
MOVEMENT_TYPES = (
    "TRANSFER_IN",
    "TRANSFER_OUT",
    "SPLIT",
    "CONSOLIDATION",
    "BONUS_ISSUE",
    "RIGHTS_ISSUE",
    "DRP",
    "MERGER_IN",
    "MERGER_OUT",
    "RETURN_OF_CAPITAL",
    "DELISTING",
)
INCOME_TYPES = ("DIVIDEND", "DISTRIBUTION", "INTEREST")
CASH_TYPES = ("DEPOSIT", "WITHDRAWAL", "SETTLEMENT", "INCOME", "INTEREST", "FEE", "TAX", "TRANSFER")


def _money(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Numeric(18, 2), nullable=nullable)


def _rate(name: str) -> Column[Any]:
    return Column(name, Numeric(18, 6), nullable=False)


def _units(name: str) -> Column[Any]:
    return Column(name, Numeric(20, 6), nullable=False)


def _instant(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _key(name: str) -> Column[Any]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _reference(name: str, target: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, ForeignKey(f"{SCHEMA}.{target}"), nullable=nullable)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


member = Table(
    "member",
    metadata,
    _key("member_id"),
    Column("given_name", String(100), nullable=False),
    Column("family_name", String(100), nullable=False),
    Column("email", String(254), nullable=False),
    _instant("created_at"),
    _instant("updated_at"),
)

portfolio = Table(
    "portfolio",
    metadata,
    _key("portfolio_id"),
    Column("portfolio_number", String(12), nullable=False),
    Column("portfolio_name", String(200), nullable=False),
    Column("entity_type", String(12), nullable=False),
    Column("abn", CHAR(11)),
    Column("hin", CHAR(11)),
    Column("status", String(10), nullable=False),
    Column("opened_on", Date, nullable=False),
    Column("closed_on", Date),
    _instant("updated_at"),
    UniqueConstraint("portfolio_number"),
    _one_of("entity_type", ENTITY_TYPES),
    _one_of("status", STATUSES),
)

portfolio_member = Table(
    "portfolio_member",
    metadata,
    Column("portfolio_id", BigInteger, ForeignKey(f"{SCHEMA}.portfolio.portfolio_id"), primary_key=True),
    Column("member_id", BigInteger, ForeignKey(f"{SCHEMA}.member.member_id"), primary_key=True),
    Column("role", String(10), nullable=False),
    _instant("updated_at"),
    _one_of("role", MEMBER_ROLES),
)

data_sharing_consent = Table(
    "data_sharing_consent",
    metadata,
    _key("consent_id"),
    _reference("portfolio_id", "portfolio.portfolio_id"),
    Column("recipient", String(20), nullable=False),
    Column("recipient_reference", String(40), nullable=False),
    Column("history_from", Date),
    _instant("granted_at"),
    _instant("expires_at", nullable=True),
    _instant("revoked_at", nullable=True),
    _instant("updated_at"),
    Index("data_sharing_consent_recipient", "recipient", "portfolio_id"),
)

cash_account = Table(
    "cash_account",
    metadata,
    _key("cash_account_id"),
    _reference("portfolio_id", "portfolio.portfolio_id"),
    Column("bsb", CHAR(7)),
    Column("account_number", String(12), nullable=False),
    Column("account_name", String(200), nullable=False),
    Column("currency", CHAR(3), nullable=False),
    Column("status", String(10), nullable=False),
    Column("opened_on", Date, nullable=False),
    Column("closed_on", Date),
    _instant("updated_at"),
    _one_of("status", STATUSES),
    Index("cash_account_portfolio", "portfolio_id"),
)

security = Table(
    "security",
    metadata,
    _key("security_id"),
    Column("exchange", String(10), nullable=False),
    Column("code", String(12), nullable=False),
    Column("isin", CHAR(12)),
    Column("name", String(200), nullable=False),
    Column("security_type", String(12), nullable=False),
    Column("currency", CHAR(3), nullable=False),
    Column("listed_on", Date),
    Column("delisted_on", Date),
    _instant("updated_at"),
    _one_of("security_type", SECURITY_TYPES),
    Index("security_code", "exchange", "code"),
)

security_code_change = Table(
    "security_code_change",
    metadata,
    Column("security_id", BigInteger, ForeignKey(f"{SCHEMA}.security.security_id"), primary_key=True),
    Column("effective_on", Date, primary_key=True),
    Column("old_code", String(12), nullable=False),
    Column("new_code", String(12), nullable=False),
    Column("old_name", String(200), nullable=False),
    Column("new_name", String(200), nullable=False),
    _instant("updated_at"),
)

security_price = Table(
    "security_price",
    metadata,
    Column("security_id", BigInteger, ForeignKey(f"{SCHEMA}.security.security_id"), primary_key=True),
    Column("price_date", Date, primary_key=True),
    Column("close_price", Numeric(18, 6), CheckConstraint("close_price >= 0"), nullable=False),
    _instant("updated_at"),
)

fx_rate = Table(
    "fx_rate",
    metadata,
    Column("from_currency", CHAR(3), primary_key=True),
    Column("to_currency", CHAR(3), primary_key=True),
    Column("rate_date", Date, primary_key=True),
    Column("rate", Numeric(18, 6), CheckConstraint("rate > 0"), nullable=False),
    _instant("updated_at"),
)

trade = Table(
    "trade",
    metadata,
    _key("trade_id"),
    _reference("portfolio_id", "portfolio.portfolio_id"),
    _reference("cash_account_id", "cash_account.cash_account_id"),
    _reference("security_id", "security.security_id"),
    Column("confirmation_number", String(30), nullable=False),
    Column("side", String(4), nullable=False),
    Column("trade_date", Date, nullable=False),
    Column("settlement_date", Date, nullable=False),
    _units("units"),
    _rate("price"),
    _money("consideration"),
    _money("brokerage"),
    _money("gst"),
    _money("other_fees"),
    _money("net_amount"),
    Column("currency", CHAR(3), nullable=False),
    _reference("reverses_trade_id", "trade.trade_id", nullable=True),
    _instant("recorded_at"),
    _one_of("side", SIDES),
    Index("trade_portfolio", "portfolio_id", "recorded_at"),
    Index("trade_recorded", "recorded_at"),
)

security_movement = Table(
    "security_movement",
    metadata,
    _key("security_movement_id"),
    _reference("portfolio_id", "portfolio.portfolio_id"),
    _reference("security_id", "security.security_id"),
    Column("movement_type", String(20), nullable=False),
    Column("effective_date", Date, nullable=False),
    _units("units_change"),
    _money("cost_base_change", nullable=True),
    Column("description", String(200), nullable=False),
    _reference("reverses_security_movement_id", "security_movement.security_movement_id", nullable=True),
    _instant("recorded_at"),
    _one_of("movement_type", MOVEMENT_TYPES),
    Index("security_movement_portfolio", "portfolio_id", "recorded_at"),
    Index("security_movement_recorded", "recorded_at"),
)

income = Table(
    "income",
    metadata,
    _key("income_id"),
    _reference("portfolio_id", "portfolio.portfolio_id"),
    _reference("security_id", "security.security_id"),
    Column("income_type", String(12), nullable=False),
    Column("ex_date", Date, nullable=False),
    Column("payment_date", Date, nullable=False),
    _units("units_held"),
    _money("gross_amount"),
    _money("franked_amount"),
    _money("unfranked_amount"),
    _money("franking_credit"),
    _money("withholding_tax"),
    _money("net_amount"),
    Column("currency", CHAR(3), nullable=False),
    _reference("reverses_income_id", "income.income_id", nullable=True),
    _instant("recorded_at"),
    _one_of("income_type", INCOME_TYPES),
    Index("income_portfolio", "portfolio_id", "recorded_at"),
    Index("income_recorded", "recorded_at"),
)

cash_transaction = Table(
    "cash_transaction",
    metadata,
    _key("cash_transaction_id"),
    _reference("cash_account_id", "cash_account.cash_account_id"),
    Column("transaction_type", String(16), nullable=False),
    Column("transaction_date", Date, nullable=False),
    _money("amount"),
    Column("currency", CHAR(3), nullable=False),
    Column("description", String(200), nullable=False),
    _reference("trade_id", "trade.trade_id", nullable=True),
    _reference("income_id", "income.income_id", nullable=True),
    _reference("reverses_cash_transaction_id", "cash_transaction.cash_transaction_id", nullable=True),
    _instant("recorded_at"),
    _one_of("transaction_type", CASH_TYPES),
    Index("cash_transaction_account", "cash_account_id", "recorded_at"),
    Index("cash_transaction_recorded", "recorded_at"),
)

# as_at_date leads both primary keys, as in the contract, so that a day's rows are adjacent in the index.
holding_eod = Table(
    "holding_eod",
    metadata,
    Column("as_at_date", Date, primary_key=True),
    Column("portfolio_id", BigInteger, ForeignKey(f"{SCHEMA}.portfolio.portfolio_id"), primary_key=True),
    Column("security_id", BigInteger, ForeignKey(f"{SCHEMA}.security.security_id"), primary_key=True),
    _units("units"),
    _money("cost_base", nullable=True),
    _instant("updated_at"),
    Index("holding_eod_portfolio", "portfolio_id", "as_at_date"),
)

cash_balance_eod = Table(
    "cash_balance_eod",
    metadata,
    Column("as_at_date", Date, primary_key=True),
    Column("cash_account_id", BigInteger, ForeignKey(f"{SCHEMA}.cash_account.cash_account_id"), primary_key=True),
    _money("ledger_balance"),
    _money("available_balance"),
    _instant("updated_at"),
)
