"""A small bigsite, what its documents must hold (worked out here in plain Python), and their delivery.

A third implementation beside the exporter's and reconciliation's SQL: what all three agree on is likely right.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import polars as pl
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.snapshot import Snapshot, take_snapshot
from classfeed_dagster.delivery.build import content_digest
from classfeed_dagster.delivery.manifest import ControlTotals, HeldBack, Manifest, Page, Portfolio, SnapshotRef
from classfeed_dagster.delivery.records import manifest_key, to_json
from classfeed_dagster.documents import epi_writer
from classfeed_dagster.documents.format import PageHeader, Totals, plan_pages
from classfeed_dagster.domains import columns
from classfeed_dagster.domains.audience import Audience
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.trading_days import SYDNEY, cutoff

DAY = dt.date(2025, 3, 12)
BEFORE = dt.date(2025, 3, 11)
AUDIENCE = Audience("CLASS", BEFORE)
LONG_AGO = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
FEED = "class_super"
SNAPSHOT_AT = cutoff(DAY) + dt.timedelta(hours=3)
EOD_AT = cutoff(DAY) + dt.timedelta(hours=1)
Row = dict[str, Any]


def in_window(hours: int = 2) -> dt.datetime:
    return cutoff(BEFORE) + dt.timedelta(hours=hours)


@dataclass
class World:
    """bigsite's rows by table, as dicts; ``load`` writes them, ``frames`` says what a document of DAY must hold."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, **values: Any) -> Row:
        self.rows[table].append(values)
        return values

    def one(self, table: str, **match: Any) -> Row:
        return next(row for row in self.rows[table] if all(row[name] == value for name, value in match.items()))

    def load(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                if self.rows[table.name]:
                    connection.execute(table.insert(), self.rows[table.name])

    # -- what bigsite's own end-of-day job writes -------------------------------------------------------------------

    def end_of_day(self, day: dt.date = DAY, at: dt.datetime = EOD_AT) -> None:
        units: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
        for row in self.rows["trade"]:
            if row["trade_date"] <= day and row["recorded_at"] <= at:
                units[row["portfolio_id"], row["security_id"]] += signed(row)
        for row in self.rows["security_movement"]:
            if row["effective_date"] <= day and row["recorded_at"] <= at:
                units[row["portfolio_id"], row["security_id"]] += row["units_change"]
        for (portfolio, security), held in sorted(units.items()):
            self.add("holding_eod", portfolio_id=portfolio, security_id=security, as_at_date=day, units=held,
                     cost_base=Decimal("1234.50"), updated_at=at)  # fmt: skip
        for account in self.rows["cash_account"]:
            cash = sum(
                (row["amount"] for row in self.rows["cash_transaction"]
                 if row["cash_account_id"] == account["cash_account_id"]
                 and row["transaction_date"] <= day and row["recorded_at"] <= at),
                Decimal("0.00"),
            )  # fmt: skip
            self.add("cash_balance_eod", cash_account_id=account["cash_account_id"], as_at_date=day,
                     ledger_balance=cash, available_balance=cash - 5, updated_at=at)  # fmt: skip

    # -- the oracle -------------------------------------------------------------------------------------------------

    def standing(self, portfolio: int, at: dt.datetime) -> Row | None:
        held = [
            row for row in self.rows["data_sharing_consent"]
            if row["portfolio_id"] == portfolio and row["recipient"] == "CLASS" and row["granted_at"] < at
            and not (row["expires_at"] and row["expires_at"] < at) and not (row["revoked_at"] and row["revoked_at"] < at)
        ]  # fmt: skip
        if not held:
            return None
        starts = [row["history_from"] for row in held]
        latest = max(held, key=lambda row: row["granted_at"])
        return {"reference": latest["recipient_reference"], "history_from": None if None in starts else min(starts),
                "consent_ids": tuple(sorted(row["consent_id"] for row in held))}  # fmt: skip

    def scope(self) -> dict[str, Row]:
        found = {}
        for portfolio in sorted(self.rows["portfolio"], key=lambda row: row["portfolio_number"]):
            now = self.standing(portfolio["portfolio_id"], cutoff(DAY))
            before = self.standing(portfolio["portfolio_id"], cutoff(BEFORE))
            if now or before:
                change = "REMOVED" if not now else "CURRENT" if before else "NEW"
                extract = {"REMOVED": "NONE", "CURRENT": "DELTA", "NEW": "FULL"}[change]
                found[portfolio["portfolio_number"]] = {
                    **(now or before or {}),
                    "row": portfolio,
                    "consent": change,
                    "extract": extract,
                }
        return found

    def code(self, security: int, day: dt.date) -> tuple[str, str]:
        changes = sorted(
            (
                row
                for row in self.rows["security_code_change"]
                if row["security_id"] == security and row["effective_on"] > day
            ),
            key=lambda row: row["effective_on"],
        )
        now = self.one("security", security_id=security)
        return (changes[0]["old_code"], changes[0]["old_name"]) if changes else (now["code"], now["name"])

    def frames(self) -> dict[str, pl.DataFrame]:
        out: dict[str, list[Row]] = {
            name: []
            for name in (
                "accounts",
                "cash_accounts",
                "account_balances",
                "investment_holdings",
                "movement_transactions",
            )
        }
        for number, scope in self.scope().items():
            own = scope["row"]
            shown = ("portfolio_name", "entity_type", "abn", "hin", "status", "opened_on", "closed_on")
            sending = scope["consent"] != "REMOVED"
            out["accounts"].append({
                "portfolio_number": number, "recipient_reference": scope["reference"], "consent": scope["consent"],
                "extract": scope["extract"], **{name: own[name] if sending else None for name in shown},
            })  # fmt: skip
            if sending:
                self._cash(out, number, own["portfolio_id"])
                self._holdings(out, number, own)
                out["movement_transactions"] += self._movements(number, scope)
        return {name: _frame(name, rows) for name, rows in out.items()}

    def _cash(self, out: dict[str, list[Row]], number: str, portfolio: int) -> None:
        for account in self.rows["cash_account"]:
            if account["portfolio_id"] == portfolio and account["opened_on"] <= DAY:
                out["cash_accounts"].append({"portfolio_number": number, **account})
                balance = self.one("cash_balance_eod", cash_account_id=account["cash_account_id"], as_at_date=DAY)
                out["account_balances"].append({"portfolio_number": number, **account, **balance})

    def _holdings(self, out: dict[str, list[Row]], number: str, own: Row) -> None:
        for held in self.rows["holding_eod"]:
            if held["portfolio_id"] != own["portfolio_id"] or held["as_at_date"] != DAY:
                continue
            security = self.one("security", security_id=held["security_id"])
            code, name = self.code(held["security_id"], DAY)
            prices = [
                row
                for row in self.rows["security_price"]
                if row["security_id"] == held["security_id"] and row["price_date"] <= DAY
            ]
            last = max(prices, key=lambda row: row["price_date"], default=None)
            unsettled = sum(
                (signed(row) for row in self.rows["trade"]
                 if row["portfolio_id"] == held["portfolio_id"] and row["security_id"] == held["security_id"]
                 and row["trade_date"] <= DAY < row["settlement_date"] and row["recorded_at"] <= held["updated_at"]),
                Decimal(0),
            )  # fmt: skip
            out["investment_holdings"].append({
                "portfolio_number": number, "hin": own["hin"] if security["exchange"] == "ASX" else None,
                "exchange": security["exchange"], "security_code": code, "isin": security["isin"], "security_name": name,
                "security_type": security["security_type"], "as_at_date": DAY, "units": held["units"],
                "settled_units": held["units"] - unsettled, "currency": security["currency"],
                "price": last and last["close_price"], "price_date": last and last["price_date"],
                "market_value": last and (held["units"] * last["close_price"]).quantize(Decimal("0.01"), ROUND_HALF_UP),
                "cost_base": held["cost_base"],
            })  # fmt: skip

    def _movements(self, number: str, scope: Row) -> list[Row]:
        portfolio, start = scope["row"]["portfolio_id"], scope["history_from"]
        accounts = {
            row["cash_account_id"]: row for row in self.rows["cash_account"] if row["portfolio_id"] == portfolio
        }

        def window(row: Row) -> bool:
            return row["recorded_at"] < cutoff(DAY) and (
                scope["extract"] == "FULL" or row["recorded_at"] >= cutoff(BEFORE)
            )

        sent: list[Row] = []
        units: dict[int, list[tuple[Decimal, dt.datetime]]] = defaultdict(list)
        cash: dict[int, list[tuple[Decimal, dt.datetime]]] = defaultdict(list)
        for row in self.rows["trade"]:
            if row["portfolio_id"] != portfolio or not window(row):
                continue
            if start and row["trade_date"] < start:
                units[row["security_id"]].append((signed(row), row["recorded_at"]))
                continue
            sent.append({**row, **self._of(row["security_id"], row["trade_date"]), "transaction_id": f"T{row['trade_id']}",
                         "transaction_type": row["side"], "transaction_date": row["trade_date"], "units": signed(row),
                         "reverses": row["reverses_trade_id"] and f"T{row['reverses_trade_id']}"})  # fmt: skip
        for row in self.rows["security_movement"]:
            if row["portfolio_id"] != portfolio or not window(row):
                continue
            if start and row["effective_date"] < start:
                units[row["security_id"]].append((row["units_change"], row["recorded_at"]))
                continue
            security = self.one("security", security_id=row["security_id"])
            sent.append({**row, **self._of(row["security_id"], row["effective_date"]), "transaction_id": f"S{row['security_movement_id']}",
                         "transaction_type": row["movement_type"], "transaction_date": row["effective_date"], "units": row["units_change"],
                         "currency": security["currency"] if row["cost_base_change"] is not None else None, "narrative": row["description"]})  # fmt: skip
        for row in self.rows["income"]:
            if row["portfolio_id"] == portfolio and window(row) and not (start and row["payment_date"] < start):
                kind = "INTEREST_INCOME" if row["income_type"] == "INTEREST" else row["income_type"]
                sent.append({**row, **self._of(row["security_id"], row["payment_date"]), "transaction_id": f"I{row['income_id']}",
                             "transaction_type": kind, "transaction_date": row["payment_date"], "units": row["units_held"],
                             "net_income": row["net_amount"], "net_amount": None})  # fmt: skip
        for row in self.rows["cash_transaction"]:
            account = accounts.get(row["cash_account_id"])
            if account is None or not window(row):
                continue
            if start and row["transaction_date"] < start:
                cash[row["cash_account_id"]].append((row["amount"], row["recorded_at"]))
                continue
            related = f"T{row['trade_id']}" if row["trade_id"] else f"I{row['income_id']}" if row["income_id"] else None
            sent.append({**row, "bsb": account["bsb"], "account_number": account["account_number"],
                         "transaction_id": f"C{row['cash_transaction_id']}", "transaction_type": f"CASH_{row['transaction_type']}",
                         "relates_to": related, "narrative": row["description"]})  # fmt: skip
        return [{**row, "portfolio_number": number} for row in sent + self._openings(number, scope, sent, units, cash)]

    def _of(self, security: int, day: dt.date) -> Row:
        row = self.one("security", security_id=security)
        return {"exchange": row["exchange"], "security_code": self.code(security, day)[0], "isin": row["isin"]}

    def _openings(self, number: str, scope: Row, sent: list[Row], units: Any, cash: Any) -> list[Row]:
        start = scope["history_from"]
        if start is None:
            return []
        first = min((row["recorded_at"] for row in sent), default=None)
        opened = dt.datetime.combine(start, dt.time(), tzinfo=SYDNEY).astimezone(dt.UTC)
        if first is not None and first <= opened:
            opened = first - dt.timedelta(microseconds=1)

        def opening(rows: list[tuple[Decimal, dt.datetime]], **own: Any) -> Row:
            at = opened if scope["extract"] == "FULL" else max(at for _, at in rows)
            return {**own, "transaction_date": start - dt.timedelta(days=1), "recorded_at": at}

        found = [
            opening(rows, transaction_id=f"OU-{number}-{security}-{DAY:%Y%m%d}", transaction_type="OPENING_UNITS",
                    units=sum(value for value, _ in rows), **self._of(security, start - dt.timedelta(days=1)))
            for security, rows in units.items() if sum(value for value, _ in rows)
        ]  # fmt: skip
        for account, rows in cash.items():
            if sum(value for value, _ in rows):
                own = self.one("cash_account", cash_account_id=account)
                found.append(opening(rows, transaction_id=f"OC-{number}-{account}-{DAY:%Y%m%d}", transaction_type="OPENING_CASH",
                                     amount=sum(value for value, _ in rows), bsb=own["bsb"], account_number=own["account_number"],
                                     currency=own["currency"]))  # fmt: skip
        return found


def signed(trade: Row) -> Decimal:
    return -trade["units"] if trade["side"] == "SELL" else trade["units"]


_FRAMES = {frame.name: frame for frames in columns.DOMAINS.values() for frame in frames}


def _frame(name: str, rows: list[Row]) -> pl.DataFrame:
    frame = _FRAMES[name]
    values = {
        column.name: pl.Series(column.name, [row.get(column.name) for row in rows], dtype=column.dtype)
        for column in frame.columns
    }
    return frame.conform(pl.DataFrame(values))


def make_world(portfolios: int = 6, seed: int = 1) -> World:
    """Portfolios with trades, movements, income and cash before and in the window; the 2nd NEW, the 3rd REMOVED."""
    dice = random.Random(seed)
    world = World()
    for at, (code, exchange, currency) in enumerate(
        (("BHP", "ASX", "AUD"), ("CBA", "ASX", "AUD"), ("MSFT", "NASDAQ", "USD")), 1
    ):
        world.add("security", security_id=at, exchange=exchange, code=code, isin=f"AU00000{code:0<4}"[:11] + "1", name=f"{code} <Ltd> & Co",
                  security_type="ORDINARY", currency=currency, listed_on=None, delisted_on=None, updated_at=LONG_AGO)  # fmt: skip
        for day, price in ((dt.date(2025, 3, 10), "41.105"), (BEFORE, "42.5")):
            world.add(
                "security_price", security_id=at, price_date=day, close_price=Decimal(price) + at, updated_at=LONG_AGO
            )
    world.add("security_code_change", security_id=2, effective_on=dt.date(2025, 3, 13), old_code="CBAX", new_code="CBA",
              old_name="Old name", new_name="CBA", updated_at=LONG_AGO)  # fmt: skip
    for number in range(1, portfolios + 1):
        _portfolio(world, dice, number)
    world.end_of_day()
    return world


def _portfolio(world: World, dice: random.Random, at: int) -> None:
    new, removed = at % 6 == 2, at % 6 == 3
    world.add("portfolio", portfolio_id=at, portfolio_number=f"SW{at:06d}", portfolio_name=f"Smith & Söhne “{at}” <Super>",
              entity_type="SMSF", abn="51824753556" if at % 2 else None, hin="X0012345678" if at % 3 else None, status="ACTIVE",
              opened_on=dt.date(2020, 1, 1), closed_on=None, updated_at=LONG_AGO)  # fmt: skip
    world.add("data_sharing_consent", consent_id=at, portfolio_id=at, recipient="CLASS", recipient_reference=f"REF{at}",
              history_from=dt.date(2025, 3, 5) if at % 2 == 0 else None, granted_at=in_window(1) if new else LONG_AGO,
              expires_at=None, revoked_at=in_window(3) if removed else None, updated_at=LONG_AGO)  # fmt: skip
    world.add("cash_account", cash_account_id=at, portfolio_id=at, bsb="062-000", account_number=f"1000{at}", account_name="Cash & more",
              currency="AUD", status="ACTIVE", opened_on=dt.date(2020, 1, 1), closed_on=None, updated_at=LONG_AGO)  # fmt: skip
    for index, (day, recorded) in enumerate((
        (dt.date(2025, 3, 3), dt.datetime(2025, 3, 3, 5, tzinfo=dt.UTC)),
        (dt.date(2025, 3, 6), dt.datetime(2025, 3, 6, 5, tzinfo=dt.UTC)),
        (DAY, in_window(4)),
        (dt.date(2025, 3, 4), in_window(6)),
    )):  # fmt: skip
        key = at * 100 + index
        security = index % 3 + 1
        units, price = Decimal(dice.randrange(1, 900)), Decimal(dice.randrange(100, 9000)) / 100
        gross = (units * price).quantize(Decimal("0.01"))
        currency = world.one("security", security_id=security)["currency"]
        world.add("trade", trade_id=key, portfolio_id=at, cash_account_id=at, security_id=security, confirmation_number=f"N{key}",
                  side="BUY" if index != 1 else "SELL", trade_date=day, settlement_date=day + dt.timedelta(days=2), units=units, price=price,
                  consideration=gross, brokerage=Decimal("9.50"), gst=Decimal("0.86"), other_fees=Decimal("0.00"),
                  net_amount=gross + Decimal("9.50"), currency=currency, reverses_trade_id=None, recorded_at=recorded)  # fmt: skip
        world.add("cash_transaction", cash_transaction_id=key, cash_account_id=at, transaction_type="SETTLEMENT", transaction_date=day,
                  amount=-gross - Decimal("9.50"), currency="AUD", description="Kauf <BHP> & co", trade_id=key, income_id=None,
                  reverses_cash_transaction_id=None, recorded_at=recorded)  # fmt: skip
        world.add("security_movement", security_movement_id=key, portfolio_id=at, security_id=security, movement_type="DRP",
                  effective_date=day, units_change=Decimal("1.5"), cost_base_change=Decimal("12.34") if index % 2 else None,
                  description="DRP", reverses_security_movement_id=None, recorded_at=recorded)  # fmt: skip
        world.add("income", income_id=key, portfolio_id=at, security_id=security, income_type="INTEREST" if index == 2 else "DIVIDEND",
                  ex_date=day, payment_date=day, units_held=units, gross_amount=Decimal("10.00"), franked_amount=Decimal("7.00"),
                  unfranked_amount=Decimal("3.00"), franking_credit=Decimal("3.00"), withholding_tax=Decimal("0.00"),
                  net_amount=Decimal("10.00"), currency=currency, reverses_income_id=None, recorded_at=recorded)  # fmt: skip


# -- delivery ---------------------------------------------------------------------------------------------------------


def land(engine: sa.Engine, store: ObjectStore) -> Snapshot:
    return take_snapshot(engine, store, DAY, [AUDIENCE], snapshot_at=SNAPSHOT_AT, slice_portfolios=4)


def deliver(
    store: ObjectStore,
    world: World,
    frames: dict[str, pl.DataFrame],
    snapshot: Snapshot,
    *,
    revision: int = 0,
    held_back: tuple[HeldBack, ...] = (),
    only: frozenset[str] | None = None,
    page_bytes: int = 20_000,
    consent_checked_at: dt.datetime = SNAPSHOT_AT + dt.timedelta(hours=1),
    compress: bool = True,
) -> Manifest:
    """Render ``frames`` and deliver them, all portfolios but those held back (or ``only`` some)."""
    left_out = {one.number for one in held_back}
    frames = {
        name: frame.filter(
            ~pl.col("portfolio_number").is_in(left_out) & (pl.col("portfolio_number").is_in(only) if only else True)
        )
        for name, frame in frames.items()
    }
    rendered = list(epi_writer.render(frames))
    pages, portfolios = [], []
    ranges = plan_pages([one.size for one in rendered], page_bytes)
    changes = dict(frames["accounts"].select("portfolio_number", "consent").iter_rows())
    scope = world.scope()
    for at, span in enumerate(ranges, 1):
        part = rendered[span.start : span.stop]
        totals = sum((one.totals for one in part), Totals())
        header = PageHeader(
            FEED,
            "CLASS",
            DAY,
            AUDIENCE.sequence_number(DAY),
            revision,
            None,
            at,
            len(ranges),
            AUDIENCE.window(DAY),
            SNAPSHOT_AT,
        )
        sections = {name: [one.sections.get(name, b"") for one in part] for name in part[0].sections} if part else {}
        document = b"".join(epi_writer.page(header, totals, sections))
        stored = gzip.compress(document, mtime=0) if compress else document
        key = f"delivered/{FEED}/{DAY}/r{revision}/{header.message_id}.xml{'.gz' if compress else ''}"
        store.create(key, stored)
        pages.append(Page(message_id=header.message_id, key=key, bytes=len(stored), sha256=sha(stored), document_bytes=len(document),
                          document_sha256=sha(document), counts=dict(totals.counts), totals=ControlTotals.of(totals)))  # fmt: skip
        portfolios += [
            Portfolio(number=one.number, change=changes[one.number], extract={"NEW": "FULL", "CURRENT": "DELTA", "REMOVED": "NONE"}[changes[one.number]],
                      digest=content_digest(one), bytes=one.size, consent_ids=scope.get(one.number, {}).get("consent_ids", ()), page=header.message_id)
            for one in part
        ]  # fmt: skip
    window = AUDIENCE.window(DAY)
    descriptor = store.read(snapshot.key())
    everything = sum((page.expected for page in pages), Totals())
    manifest = Manifest(
        feed=FEED, recipient="CLASS", business_date=DAY, sequence_number=AUDIENCE.sequence_number(DAY), revision=revision,
        chain_position=revision + 1, previous=None, replaces=None, recorded_after=window.start, recorded_before=window.end,
        snapshot=SnapshotRef(id=snapshot.snapshot_id, snapshot_at=snapshot.snapshot_at, descriptor_key=snapshot.key(), descriptor_sha256=sha(descriptor)),
        build_id="0" * 32, code_version="test", correlation_id=f"attempt-{revision}", consent_checked_at=consent_checked_at,
        pages=tuple(pages), portfolios=tuple(portfolios), held_back=held_back, counts=dict(everything.counts),
        totals=ControlTotals.of(everything), verdicts=(),
    )  # fmt: skip
    store.create(manifest_key(FEED, DAY, revision), to_json(manifest))
    return manifest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rewrite_page(store: ObjectStore, key: str, old: str, new: str, count: int = 1) -> None:
    """Tamper with a delivered page: ``old`` becomes ``new`` in its text."""
    document = gzip.decompress(store.read(key)).decode()
    assert old in document, f"{old} is not in {key}"
    store.put(key, gzip.compress(document.replace(old, new, count).encode(), mtime=0))
