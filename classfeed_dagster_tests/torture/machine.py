"""Random days at bigsite and random failures on the way to Class, compared with the model after every attempt.

Invariants: Class's books are the model's; no portfolio without consent at publishing is in any new byte; nothing is
delivered twice, overwritten or out of sequence; manifests match bytes; every missing portfolio has a reason; running
again changes nothing.
"""

from __future__ import annotations

import datetime as dt
import gzip
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from classfeed_dagster.bigsite import tables
from classfeed_dagster.bigsite.consent import ConsentReadError
from classfeed_dagster.bigsite.readiness import SourceNotReadyError
from classfeed_dagster.delivery.ledger_rebuild import audit_positions
from classfeed_dagster.delivery.manifest import Manifest
from classfeed_dagster.delivery.quarantine import held
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import ProblemKind, verify_feed
from classfeed_dagster.errors import DeliveryError, NotInOrderError, StaleBuildError, TooManyHeldBackError
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.simulation.recipient import DeliveredPage, load
from classfeed_dagster.trading_days import cutoff, next_business_day
from classfeed_dagster_tests.fixtures.bigsite_builder import Bigsite, Portfolio, Row
from classfeed_dagster_tests.fixtures.delivery_pipeline import Crash
from classfeed_dagster_tests.torture.attempts import Desk, OutageError, Trouble, TroubledDay, truncate, unreadable
from classfeed_dagster_tests.torture.model import CURRENT, NEW, REMOVED, Authority, Content, Entry, Event, Model

# Around a change of clock (2 April, 1 October 2023), Easter, a half day and the year's end, and an ordinary week.
STARTS = [dt.date(2023, 3, 30), dt.date(2023, 9, 28), dt.date(2022, 12, 22), dt.date(2023, 5, 2), dt.date(2023, 6, 28)]
NUMBERS = ["SW100001", "SW100002", "a.b-c:d_e", "ZZ9"]
STRANGER = "SW-STRANGER"
SOON = dt.timedelta(milliseconds=7)

portfolios = st.integers(0, len(NUMBERS) - 1)
securities = st.integers(0, 2)
units = st.decimals("0.5", "900", places=2)
money = st.decimals("-5000", "5000", places=2).filter(bool)
days_back = st.sampled_from([0, 0, 0, 1, 3, 12])  # before the date in progress
others = st.integers(1, len(NUMBERS) - 1)
calls = st.integers(1, 45)
troubles = st.sampled_from(["", "", "crash", "crash", "outage", "revoked", "unreadable", "racers", "strict"])
moments = st.sampled_from(["soon", "soon", "now", "last"])  # within the window: "last" is its last microsecond


class Feed(RuleBasedStateMachine):
    """The machine. ``url`` is an empty bigsite; every example starts with it empty."""

    url: ClassVar[str]
    tally: ClassVar[Counter[tuple[str, str]]] = Counter()

    # --- Beginning and end

    @initialize(first=st.sampled_from(STARTS), history=st.lists(st.integers(-40, -1), min_size=3, max_size=6))
    def begin(self, first: dt.date, history: list[int]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="classfeed-machine-"))
        self.desk = Desk(self.url, self.folder, first)
        truncate(self.desk.engine)
        self.model = Model(first)
        self.bigsite = Bigsite(self.desk.engine)
        self.clock = cutoff(first - dt.timedelta(days=1)) + dt.timedelta(hours=9)
        self.today = first
        self.closed: list[dt.date] = []
        self.seen: dict[str, bytes] = {}
        self.pages: list[DeliveredPage] = []
        prices = {(first - dt.timedelta(days=60)).isoformat(): "10.25"}
        self.shares = [self.bigsite.security(code, price=prices) for code in ("AAA", "BBB", "CCC")]
        self.funds = [self.bigsite.portfolio(number) for number in [*NUMBERS, STRANGER]]
        self.hins = {fund.number: fund.row["hin"] for fund in self.funds}
        for share in self.shares:
            self.model.codes[share["isin"]] = share["code"]
        for fund in self.funds:
            account = fund.cash()
            self.model.names[fund.number] = fund.row["portfolio_name"]
            self.model.accounts[fund.number].add(account["account_number"])
        for at, back in enumerate(history):
            day = first + dt.timedelta(days=back)
            fund, share = self.funds[at % len(self.funds)], self.shares[at % 3]
            recorded = cutoff(day) - dt.timedelta(hours=12)
            self.recorded(fund, lambda fund=fund, share=share, day=day, at=at, recorded=recorded: [  # type: ignore[misc]
                fund.buy(share, 10 + at, "10.25", day, settles=False, recorded_at=recorded),
                fund.deposit("250.00", day, recorded_at=recorded),
            ])  # fmt: skip
        self.grant(self.funds[0], None)  # never revoked: a feed that loses all portfolios at once stops for a person
        self.grant(self.funds[1], first - dt.timedelta(days=20))
        self.funds[-1].consent(granted_at=self.tick("soon"), recipient="BGL")

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()
            shutil.rmtree(self.folder)

    # --- Time and what is written

    def tick(self, moment: str) -> dt.datetime:
        """Return the next instant of a recording, never before the last."""
        edge = cutoff(self.today) - dt.timedelta(microseconds=1)
        if moment == "last" and self.clock < edge:
            self.clock = edge
        elif moment == "soon":
            self.clock = min(self.clock + SOON, max(edge, self.clock))
        return self.clock

    def recorded(self, fund: Portfolio, work: Callable[[], object]) -> None:
        """Let bigsite write, and pass each ledger row to the model."""
        before = {table: len(rows) for table, rows in fund.ledger.items()}
        work()
        for table, rows in fund.ledger.items():
            self.model.entries += [entry_of(fund, row, self.shares) for row in rows[before.get(table, 0) :]]

    def grant(self, fund: Portfolio, history_from: dt.date | None, expires: dt.datetime | None = None) -> None:
        at = self.tick("now")
        fund.consent(granted_at=at, history_from=history_from, expires_at=expires)
        self.model.authorities[fund.number].append(Authority(at, history_from, expires=expires))

    def revoke(self, fund: Portfolio) -> None:
        for row, authority in zip(fund.consents, self.model.authorities[fund.number], strict=True):
            if authority.revoked is None and (authority.expires is None or authority.expires > self.clock):
                row["revoked_at"] = authority.revoked = self.clock

    # --- Rules: a day at bigsite

    @rule(at=portfolios, share=securities, count=units, sell=st.booleans(), back=days_back, moment=moments)
    def trade(self, at: int, share: int, count: Decimal, sell: bool, back: int, moment: str) -> None:
        fund, day = self.funds[at], self.today - dt.timedelta(days=back)
        recorded, side = self.tick(moment), "SELL" if sell else "BUY"
        self.recorded(
            fund, lambda: fund.trade(side, self.shares[share], count, "10.25", day, settles=False, recorded_at=recorded)
        )

    @rule(at=portfolios, share=securities, count=units, kind=st.sampled_from(["TRANSFER_OUT", "SPLIT", "BONUS_ISSUE"]),
          back=days_back, moment=moments)  # fmt: skip
    def move(self, at: int, share: int, count: Decimal, kind: str, back: int, moment: str) -> None:
        fund, recorded = self.funds[at], self.tick(moment)
        signed = -count if kind == "TRANSFER_OUT" else count
        day = self.today - dt.timedelta(days=back)
        self.recorded(fund, lambda: fund.security_movement(self.shares[share], kind, signed, day, recorded_at=recorded))

    @rule(at=portfolios, amount=money, back=days_back, moment=moments)
    def cash(self, at: int, amount: Decimal, back: int, moment: str) -> None:
        fund, recorded = self.funds[at], self.tick(moment)
        kind, day = ("DEPOSIT" if amount > 0 else "FEE"), self.today - dt.timedelta(days=back)
        self.recorded(fund, lambda: fund.cash_transaction(kind, amount, day, recorded_at=recorded))

    @rule(at=portfolios, share=securities, back=days_back, drp=st.booleans(), moment=moments)
    def dividend(self, at: int, share: int, back: int, drp: bool, moment: str) -> None:
        fund, recorded = self.funds[at], self.tick(moment)
        more: dict[str, Any] = {"reinvested_units": "1.25"} if drp else {}
        day = self.today - dt.timedelta(days=back)
        self.recorded(fund, lambda: fund.dividend(self.shares[share], "12.34", day, recorded_at=recorded, **more))

    @rule(at=portfolios, pick=st.integers(0, 50), moment=moments)
    def reverse(self, at: int, pick: int, moment: str) -> None:
        fund = self.funds[at]
        rows = [row for table in (tables.trade, tables.security_movement, tables.income) for row in fund.ledger[table]]
        undone = {(row.table, row[f"reverses_{row.table.name}_id"]) for row in rows}
        open_rows = [
            row for row in rows
            if row[f"reverses_{row.table.name}_id"] is None and (row.table, row.id) not in undone
        ]  # fmt: skip
        if open_rows:
            recorded = self.tick(moment)
            self.recorded(fund, lambda: fund.reverse(open_rows[pick % len(open_rows)], recorded))

    @rule(share=securities, ahead=st.integers(0, 1))
    def rename(self, share: int, ahead: int) -> None:
        row, day = self.shares[share], self.today if not ahead else next_business_day(self.today)
        known = self.model.renames[row["isin"]]
        if known and known[-1][0] >= day:
            return
        known.append((day, row["code"]))
        self.model.codes[row["isin"]] = new = f"{row['code'][:3]}{len(known)}"
        self.bigsite.code_change(row, day, new)

    @rule(at=portfolios, suffix=st.sampled_from(["&", "<b>", "Ω🦘", "é", "]]>"]))
    def call_it(self, at: int, suffix: str) -> None:
        fund = self.funds[at]
        fund.row["portfolio_name"] = self.model.names[fund.number] = f"Fund {at} {suffix}"

    @rule(at=portfolios)
    def break_or_restore(self, at: int) -> None:
        fund = self.funds[at]
        self.model.broken ^= {fund.number}
        # Each has its own, broken or not: two with one HIN are another fault, which holds back both.
        fund.row["hin"] = f"NOT-A-HIN{at}" if fund.number in self.model.broken else self.hins[fund.number]

    @rule(at=portfolios, back=st.sampled_from([None, 60, 5, 0]), expires=st.sampled_from([None, None, 1, 30]))
    def grants(self, at: int, back: int | None, expires: int | None) -> None:
        self.clock += SOON
        history_from = None if back is None else self.today - dt.timedelta(days=back)
        self.grant(self.funds[at], history_from, None if expires is None else self.clock + dt.timedelta(hours=expires))

    @rule(at=others, moment=moments)
    def revokes(self, at: int, moment: str) -> None:
        self.tick(moment)
        self.revoke(self.funds[at])

    @rule(at=portfolios, late=st.booleans(), ready=st.sampled_from([True, True, True, True, True, True, False]))
    def night(self, at: int, late: bool, ready: bool) -> None:
        """End a date."""
        self.night_falls(self.funds[at], late=late, ready=ready)

    def night_falls(self, fund: Portfolio, *, late: bool, ready: bool) -> None:
        """Set the clock to the date's cut-off, to the microsecond. Its end of day usually follows."""
        self.clock = cutoff(self.today)
        self.closed.append(self.today)
        if late:  # recorded at the very cut-off: of the next window, and known to this end of day
            self.recorded(fund, lambda: fund.deposit("7.00", self.closed[-1], recorded_at=self.clock))
        self.today = next_business_day(self.today)
        if ready:
            self.end_of_day(1)

    @precondition(lambda self: self.closed)
    @rule(back=st.sampled_from([1, 1, 1, 2, 3]))
    def bigsite_rewrites(self, back: int) -> None:
        """Run bigsite's job again, or at last."""
        self.end_of_day(back)

    def end_of_day(self, back: int) -> None:
        """Run bigsite's job for a date that is over."""
        self.clock += SOON
        day = self.closed[-min(back, len(self.closed))]
        self.bigsite.end_of_day(day, at=self.clock)
        self.model.ends_of_day[day].append(self.clock)
        self.clock += SOON

    # --- Rules: the feed

    @rule(trouble=troubles, at=calls, who=others, ready=st.sampled_from([True, True, True, True, False]))
    def deliver(self, trouble: str, at: int, who: int, ready: bool) -> None:
        """Attempt the next date; if all are delivered, a day passes first."""
        if not [day for day in self.closed if day not in self.model.dates]:
            self.night_falls(self.funds[0], late=bool(at % 2), ready=ready)
        self._deliver("next", fresh=bool(at % 3), trouble=trouble, at=at, who=who)

    @rule(trouble=troubles, at=calls, who=others, rewritten=st.booleans())
    def deliver_again(self, trouble: str, at: int, who: int, rewritten: bool) -> None:
        """Attempt a delivered date again with a new snapshot."""
        if rewritten and self.closed:
            self.end_of_day(min(2, len(self.closed)))
        self._deliver("past", fresh=True, trouble=trouble, at=at, who=who)

    @rule(trouble=troubles, at=calls, who=others)
    def deliver_out_of_turn(self, trouble: str, at: int, who: int) -> None:
        """Attempt a date out of order."""
        self._deliver("ahead", fresh=False, trouble=trouble, at=at, who=who)

    @precondition(lambda self: self.closed)
    @rule()
    def deliver_all(self) -> None:
        """Let bigsite and the feed catch up, without faults."""
        for back in range(len(self.closed), 0, -1):
            if not self.model.ends_of_day[self.closed[-back]]:
                self.end_of_day(back)
        for _ in range(3):
            if [day for day in self.closed if day not in self.model.dates]:
                self._deliver("next", fresh=True, trouble="", at=0, who=1)

    def _deliver(self, due: str, *, fresh: bool, trouble: str, at: int, who: int) -> None:
        day = self.chosen(due)
        if day is None:
            return
        self.clock += SOON
        self.bigsite.save()
        if not self.landed(day, fresh=fresh):
            return
        before = len(self.manifests())
        arranged = self.arranged(trouble, at, who)
        outcome = self.tried(day, trouble, arranged)
        committed = len(self.manifests()) > before
        consented = self.model.consented(self.clock)
        if committed or outcome in ("ALREADY_DELIVERED", "NOTHING_TO_DO"):
            assert len(self.manifests()) <= before + 1, "one attempt, two deliveries"
            self.model.delivered(day, consented)
        self.tally[trouble or "none", outcome] += 1
        self.check(day, consented, complete=outcome in ("DELIVERED", "ALREADY_DELIVERED", "NOTHING_TO_DO"))

    def chosen(self, due: str) -> dt.date | None:
        open_dates = [day for day in self.closed if day not in self.model.dates]
        if due == "past" and self.model.dates:
            return self.model.dates[-min(2, len(self.model.dates))]
        if due == "ahead":
            return open_dates[1] if len(open_dates) > 1 else None
        return open_dates[0] if open_dates and due == "next" else None

    def landed(self, day: dt.date, *, fresh: bool) -> bool:
        there = day in self.model.landed
        if (fresh or not there) and not self.model.ends_of_day[day]:
            keys = sorted(self.desk.store.list(f"landing/{day}/"))
            with suppress(SourceNotReadyError):
                self.desk.land(day, self.clock, fresh=fresh)
                raise AssertionError("landed without an end of day")
            assert sorted(self.desk.store.list(f"landing/{day}/")) == keys
            self.tally["source not ready", "nothing landed"] += 1
            return False
        if fresh or not there:
            self.model.land(day)
        self.desk.land(day, self.clock, fresh=fresh)
        self.clock += SOON
        return True

    def arranged(self, trouble: str, at: int, who: int) -> Trouble:
        if trouble == "crash":
            return Trouble(crash_at=at)
        if trouble == "outage":
            return Trouble(outage_at=at)

        def revoked() -> None:
            self.clock += SOON
            self.revoke(self.funds[who])
            self.clock += SOON
            self.bigsite.save()

        if trouble == "revoked":  # hold_back, stage and judge ask too: publishing asks twice more
            return Trouble(at_question=1 + at % 5, on_question=revoked)
        if trouble == "unreadable":
            return Trouble(at_question=1 + at % 5, on_question=unreadable)
        return Trouble()

    def tried(self, day: dt.date, trouble: str, arranged: Trouble) -> str:
        """Run the attempt and return its outcome or failure. Unexplained failures are raised."""
        clock = lambda: self.clock  # noqa: E731
        if trouble == "racers":
            return self.raced(day, clock)
        limit = {"max_held_back_share": Decimal(0)} if trouble == "strict" else {}
        work = self.desk.day(day, clock, arranged, **limit)
        try:
            outcome = self.desk.attempt(work).kind
        except NotInOrderError:
            assert not self.model.in_order(day)
            return "waits for the date before"
        except TooManyHeldBackError:
            assert trouble == "strict"
            assert self.broken_now(day)
            return "nothing delivered"
        except (Crash, OutageError, ConsentReadError) as error:
            assert trouble in ("crash", "outage", "unreadable")
            return type(error).__name__
        assert self.model.in_order(day), "a date went before its turn"
        assert not (trouble == "strict" and self.broken_now(day))
        return outcome

    def broken_now(self, day: dt.date) -> set[str]:
        landed = self.model.landed[day]
        return {n for n in landed.broken if n in landed.contents and landed.contents[n].change != REMOVED}

    def raced(self, day: dt.date, clock: Callable[[], dt.datetime]) -> str:
        works = [self.desk.day(day, clock) for _ in range(3)]

        def one(work: TroubledDay) -> str:
            try:
                return self.desk.attempt(work).kind
            except (StaleBuildError, NotInOrderError, DeliveryError) as error:
                return type(error).__name__

        with ThreadPoolExecutor(3) as pool:
            kinds = Counter(pool.map(one, works))
        assert kinds["DELIVERED"] <= 1, kinds
        assert set(kinds) <= {
            "DELIVERED",
            "ALREADY_DELIVERED",
            "NOTHING_TO_DO",
            "NotInOrderError",
            "StaleBuildError",
        }, kinds
        if kinds["NotInOrderError"]:
            assert not self.model.in_order(day)
            return "waits for the date before"
        return "DELIVERED" if kinds["DELIVERED"] else max(kinds)

    # --- What must hold

    def manifests(self) -> list[Manifest]:
        store = self.desk.store
        days = {key.split("/")[2] for key in store.list(f"delivered/{FEED.name}/")}
        matches = [m for day in days for m in delivered_state(store, FEED.name, dt.date.fromisoformat(day)).deliveries]
        return sorted(matches, key=lambda item: item.chain_position)

    def check(self, day: dt.date, consented: set[str], *, complete: bool) -> None:
        store = self.desk.store
        verification = verify_feed(store, FEED.name, FEED.format)
        wrong = [p for p in verification.problems if p.kind not in (ProblemKind.UNFINISHED, ProblemKind.LEFTOVER)]
        assert not wrong, wrong
        audits = audit_positions(store, FEED.name, self.desk.audience)
        assert not [audit for audit in audits if audit.wrong], "positions are not the sums of their records"
        manifests = self.manifests()
        self.nothing_changed(manifests)
        self.take(manifests[len({(p.business_date, p.revision) for p in self.pages}) :], consented)
        result = books(self.pages)
        assert sorted(result) == self.model.dates, "dates delivered"
        for date in self.model.dates:
            expected = self.model.at_class[date]
            assert result[date].keys() == expected.keys(), f"who was sent for {date}"
            for number, content in expected.items():
                assert result[date][number] == content, f"{number} for {date}"
        if complete:
            self.everyone_has_a_reason(day, consented)
            self.running_again_changes_nothing(day)
        if self.model.dates:
            self.balanced(consented)

    def nothing_changed(self, manifests: list[Manifest]) -> None:
        """Assert that no object of a delivery was changed or removed."""
        store = self.desk.store
        for key, data in self.seen.items():
            assert store.read(key) == data, f"{key} changed"
        for manifest in manifests:
            key = f"delivered/{FEED.name}/{manifest.business_date}/r{manifest.revision}/manifest.json"
            for item in (key, *(page.key for page in manifest.pages)):
                self.seen.setdefault(item, store.read(item))
        digests: dict[tuple[dt.date, str], str] = {}
        for manifest in manifests:
            for portfolio in manifest.portfolios:
                place = manifest.business_date, portfolio.number
                assert digests.get(place) != portfolio.digest, f"{place} was delivered twice"
                digests[place] = portfolio.digest

    def take(self, manifests: list[Manifest], consented: set[str]) -> None:
        """Load new deliveries as a recipient does, and assert that they have no portfolio without consent."""
        store = self.desk.store
        for manifest in manifests:
            for page in manifest.pages:
                document = gzip.decompress(store.read(page.key))
                with store.local_file(page.key) as path:
                    frames = FEED.format.read(path)
                self.pages.append(DeliveredPage(manifest.business_date, manifest.revision, frames))
                announced = set(frames["accounts"].filter(pl.col("consent") == REMOVED)["portfolio_number"])
                for fund in self.funds:
                    if fund.number not in consented:
                        private = [
                            fund.row["portfolio_name"],
                            *(account["account_number"] for account in fund.accounts),
                        ]
                        private += [] if fund.number in announced else [fund.number]
                        assert not [text for text in private if f">{text}<".encode() in document], fund.number
                for member in self.bigsite.rows[tables.member]:
                    assert member["email"].encode() not in document
                    assert member["family_name"].encode() not in document

    def everyone_has_a_reason(self, day: dt.date, consented: set[str]) -> None:
        reasons = {record.number: record.held_back.reason for record in held(self.desk.store, FEED.name, day)}
        missing = self.model.missing(day, consented)
        assert missing <= {number for number, reason in reasons.items() if reason}, (missing, reasons)

    def running_again_changes_nothing(self, day: dt.date) -> None:
        keys = list(self.desk.store.list(f"delivered/{FEED.name}/"))
        outcome = self.desk.attempt(self.desk.day(day, lambda: self.clock))
        assert outcome.kind != "DELIVERED"
        assert list(self.desk.store.list(f"delivered/{FEED.name}/")) == keys

    def balanced(self, consented: set[str]) -> None:
        """Assert loaded = stated, by the recipient's own arithmetic, if bigsite and the feed have the same rows."""
        last = self.model.dates[-1]
        if self.model.landed[last] is None or not self.model.at_class[last]:
            return
        current = {number for number, content in self.model.at_class[last].items() if content.change in (NEW, CURRENT)}
        excused = self.model.disturbed(last)
        for number, kind, subject, loaded, stated in load(self.pages, last).unbalanced().iter_rows():
            name = next(iter(self.model.accounts[number])) if kind == "cash" else subject
            if number in current and (number, name) not in excused:
                starts = self.model.history_from(number, cutoff(last))
                assert starts is not None, (number, kind, subject, loaded, stated)
                assert starts > last, (number, kind, subject, loaded, stated)


def entry_of(fund: Portfolio, row: Row, shares: list[Row]) -> Entry:
    """Return a ledger row as in the model."""
    if row.table is tables.cash_transaction:
        account = next(item for item in fund.accounts if item.id == row["cash_account_id"])
        subject, subject_id, dated = account["account_number"], account.id, row["transaction_date"]
        return Entry(f"C{row.id}", fund.number, "cash", subject, subject_id, dated, row["recorded_at"], row["amount"])
    share = next(item for item in shares if item.id == row["security_id"])
    if row.table is tables.trade:
        letter, kind, dated = "T", "units", row["trade_date"]
        value = row["units"] if row["side"] == "BUY" else -row["units"]
    elif row.table is tables.security_movement:
        letter, kind, dated, value = "S", "units", row["effective_date"], row["units_change"]
    else:
        letter, kind, dated, value = "I", "income", row["payment_date"], row["net_amount"]
    return Entry(f"{letter}{row.id}", fund.number, kind, share["isin"], share.id, dated, row["recorded_at"], value)


def books(pages: list[DeliveredPage]) -> dict[dt.date, dict[str, Content]]:
    """Return the content of Class's books per business date and portfolio: the latest revision with the portfolio."""
    contents: dict[dt.date, dict[str, Content]] = {}
    for page in pages:
        at = contents.setdefault(page.business_date, {})
        for row in page.frames["accounts"].iter_rows(named=True):
            number = row["portfolio_number"]
            mine = {name: frame.filter(pl.col("portfolio_number") == number) for name, frame in page.frames.items()}
            at[number] = Content(
                row["consent"],
                row["portfolio_name"] or "",
                frozenset(event_of(record) for record in mine["movement_transactions"].iter_rows(named=True)),
                frozenset(
                    (record["isin"], record["security_code"], record["units"])
                    for record in mine["investment_holdings"].iter_rows(named=True)
                    if record["units"]
                ),
                frozenset(
                    (record["account_number"], record["ledger_balance"])
                    for record in mine["account_balances"].iter_rows(named=True)
                ),
            )
    return contents


def event_of(row: dict[str, Any]) -> Event:
    """Return a delivered movement as in the model."""
    if row["amount"] is not None:
        return Event(row["transaction_id"], "cash", row["account_number"], row["transaction_date"], row["amount"], "")
    income = row["net_income"] is not None
    kind, value = ("income", row["net_income"]) if income else ("units", row["units"])
    return Event(row["transaction_id"], kind, row["isin"], row["transaction_date"], value, row["security_code"])
