"""Extremes of size, and stores, clocks and backups that are not what they were: each with its time and memory.

    python -m classfeed_dagster_tests.torture --only extremes --budget 600

Every case has an empty bigsite, a store and a Dagster instance of its own, and the real job. Sizes are those of the
table, whatever the budget; the budget only decides how many cases are tried.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.feed_mode import FeedMode, FeedStoreView
from classfeed_dagster.delivery.ledger_rebuild import audit_positions
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.documents.class_trade import CLASS_TRADE
from classfeed_dagster.orchestration.rehearsal import morning_after
from classfeed_dagster.schedules import RecipientSchedule
from classfeed_dagster.store import LocalStore, open_store
from classfeed_dagster.stored_records import delivered_prefix, manifest_key
from classfeed_dagster.trading_days import business_days_between
from classfeed_dagster_tests.delivery.test_ledger_publication import LedgerDay
from classfeed_dagster_tests.fixtures import csv_frames, delivery_pipeline
from classfeed_dagster_tests.fixtures.delivering import deliver
from classfeed_dagster_tests.fixtures.desk import FEED, Desk, at_a_desk
from classfeed_dagster_tests.torture.outcome import MEGABYTES, Budget, Row, measured

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
_NEXT = dt.date(2023, 1, 4)
MOVEMENTS, QUARANTINED, REVISIONS = 200_000, 5_000, 2_000
AUDITED_DATES, AUDITED_PORTFOLIOS, SAMPLE = 60, 300, 100
Broken = list[str]


def check(broken: Broken, condition: bool, what: str) -> None:
    """Note ``what`` unless ``condition`` holds."""
    if not condition:
        broken.append(what)


def _sql(desk: Desk, *statements: str) -> None:
    with desk.runtime.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def _day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def _morning(desk: Desk, day: str, **options: Any) -> Any:
    return desk.run(day, at=morning_after(_day(day)), **options)


# -- sizes ------------------------------------------------------------------------------------------------------------


def large_portfolio(desk: Desk, broken: Broken) -> str:
    """Deliver one portfolio with 200,000 movements on a day, which gets a page to itself."""
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_page_bytes": 1 << 20})
    desk.two_customers()
    for day in (MONDAY, TUESDAY):
        desk.bigsite.end_of_day(day)
    desk.bigsite.save()
    check(broken, _morning(desk, MONDAY).outcome == "delivered", "Monday was not delivered")
    # In pairs that cancel, so that the end of day stays right.
    _sql(
        desk,
        "INSERT INTO bigsite.cash_transaction (cash_transaction_id, cash_account_id, transaction_type, transaction_date, "
        "amount, currency, description, recorded_at) SELECT 1000000 + n, (SELECT MIN(cash_account_id) FROM "
        "bigsite.cash_account), 'DEPOSIT', DATE '2026-03-03', CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END, 'AUD', "
        f"'movement ' || n, TIMESTAMPTZ '2026-03-03 02:00Z' FROM generate_series(1, {MOVEMENTS}) n",
    )
    with measured() as peak:
        report = _morning(desk, TUESDAY)
    check(broken, report.outcome == "delivered", f"Tuesday: {report.message}")
    manifest = desk.manifest(TUESDAY)
    largest = max(page.document_bytes for page in manifest.pages)
    check(broken, largest > 1 << 20, "the portfolio fits a page")
    check(broken, manifest.counts["MovementTransactions"] >= MOVEMENTS, f"{manifest.counts} were sent")
    return f"{MOVEMENTS:,} movements in a page of {largest >> 20} MB, delivered in {peak}"


def quarantined(desk: Desk, broken: Broken) -> str:
    """Hold 5,000 portfolios back, and release all of them."""
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    desk.two_customers(MONDAY)
    numbers = f"generate_series(1, {QUARANTINED}) n"
    _sql(
        desk,
        "INSERT INTO bigsite.portfolio (portfolio_id, portfolio_number, portfolio_name, entity_type, status, opened_on, "
        f"updated_at) SELECT 100000 + n, 'SX' || lpad(n::text, 8, '0'), 'Fund', 'SMSF', 'ACTIVE', DATE '2020-01-01', "
        f"TIMESTAMPTZ '2020-01-01Z' FROM {numbers}",
        "INSERT INTO bigsite.data_sharing_consent (consent_id, portfolio_id, recipient, recipient_reference, granted_at, "
        f"updated_at) SELECT 100000 + n, 100000 + n, 'CLASS', 'X' || n, TIMESTAMPTZ '2026-02-20Z', TIMESTAMPTZ "
        f"'2026-02-20Z' FROM {numbers}",
        "INSERT INTO bigsite.cash_account (cash_account_id, portfolio_id, bsb, account_number, account_name, currency, "
        f"status, opened_on, updated_at) SELECT 100000 + n, 100000 + n, '999-001', (90000000 + n)::text, 'Cash', 'AUD', "
        f"'ACTIVE', DATE '2020-01-01', TIMESTAMPTZ '2020-01-01Z' FROM {numbers}",
        "INSERT INTO bigsite.cash_balance_eod (cash_account_id, as_at_date, ledger_balance, available_balance, updated_at) "
        f"SELECT 100000 + n, DATE '2026-03-02', 1, 1, TIMESTAMPTZ '2026-03-02 14:00Z' FROM {numbers}",
    )
    with measured() as first:
        report = _morning(desk, MONDAY)
    check(broken, report.outcome == "delivered", f"first: {report.message}")
    check(broken, len(desk.manifest(MONDAY).held_back) == QUARANTINED, "not everyone was held back")
    with measured() as again:
        check(broken, _morning(desk, MONDAY).outcome == "nothing to do", "a second run delivered something")
    _sql(desk, "UPDATE bigsite.cash_balance_eod SET ledger_balance = 0 WHERE cash_account_id > 100000")
    with measured() as released:
        report = _morning(desk, MONDAY, fresh_snapshot=True)
    sent = len(desk.manifest(MONDAY, 1).portfolios) if report.outcome == "delivered" else 0
    check(broken, sent == QUARANTINED, f"{sent} were released")
    return f"{QUARANTINED:,} held back in {first}; again in {again}; released in {released}"


def revisions(folder: Path, broken: Broken) -> str:
    """Deliver 2,000 revisions of one date, and the next date: the last ones cost what the first ones do."""
    store, audience = open_store(str(folder / "store")), RecipientSchedule("CLASS", dt.date(2023, 1, 3))
    day, account = dt.date(2023, 1, 3), csv_frames.account("SW00000001")
    seconds: list[float] = []
    with measured() as peak:
        for at in range(REVISIONS):
            began = time.monotonic()
            row = csv_frames.trade(1, brokerage=Decimal(at + 1) / 100)
            deliver(store, CLASS_TRADE, audience, day, csv_frames.frames([account], [row]))
            seconds.append(time.monotonic() - began)
        began = time.monotonic()
        following = csv_frames.trade(2, transaction_date=_NEXT, recorded_at=dt.datetime(2023, 1, 4, 3, tzinfo=dt.UTC))
        deliver(store, CLASS_TRADE, audience, _NEXT, csv_frames.frames([account], [following]))
        following_seconds = time.monotonic() - began
    first, last = sum(seconds[:50]) / 50, sum(seconds[-50:]) / 50
    check(broken, last < 2 * first + 0.5, f"the first revisions took {first:.2f} s each, the last {last:.2f} s")
    check(broken, peak.megabytes < 512, f"{peak.megabytes} MB")
    with measured() as verification:
        problems = verify_feed(
            FeedStoreView(store, CLASS_TRADE.name, FeedMode.SHADOW), CLASS_TRADE.name, CLASS_TRADE
        ).problems
    check(broken, not problems, f"verify: {problems[:1]}")
    return (
        f"{REVISIONS:,} revisions in {peak}; one takes {first:.2f} s at first, {last:.2f} s at the end, "
        f"the next date {following_seconds:.2f} s; verified in {verification}"
    )


class _WholeDay(LedgerDay):
    """A date in one slice."""

    def slices(self, size: int = AUDITED_PORTFOLIOS) -> Iterator[dict[str, pl.DataFrame]]:
        """Yield the frames of all portfolios."""
        return super().slices(size)


def sampled_audit(folder: Path, broken: Broken) -> str:
    """Audit the positions of a sample of the portfolios over a quarter of dates, as every night."""
    store = open_store(str(folder / "store"))
    days = business_days_between(delivery_pipeline.DAY1, dt.date.max)[:AUDITED_DATES]
    numbers = [f"P{at:06d}" for at in range(1, AUDITED_PORTFOLIOS + 1)]
    with mock.patch("os.fsync"):  # no power cut is played here
        for at, day in enumerate(days):
            change, before = "CURRENT" if at else "NEW", tuple((number, f"{at}.00") for number in numbers)
            content = dict.fromkeys(numbers, (change, ("1.25", "-0.25")))
            delivery_pipeline.deliver(store, _WholeDay(day, content, before=before))
    with measured() as peak:
        audits = list(audit_positions(store, delivery_pipeline.FEED, delivery_pipeline.AUDIENCE, sample=SAMPLE))
    check(broken, not [audit for audit in audits if audit.wrong], "a position differs")
    check(broken, {audit.positions for audit in audits} == {SAMPLE}, f"not {SAMPLE} positions")
    records = 2 * len(days) * len(numbers)
    return f"{SAMPLE} of {len(numbers):,} portfolios over {len(days)} dates with {records:,} records audited in {peak}"


# -- clocks, stores and backups ---------------------------------------------------------------------------------------


def clock_set_back(desk: Desk, broken: Broken) -> str:
    """Set the machine's clock back by a day after a delivery."""
    desk.two_customers()
    for day in (MONDAY, TUESDAY):
        desk.end_of_day(day)
    check(broken, _morning(desk, MONDAY).outcome == "delivered", "Monday was not delivered")
    back = morning_after(_day(MONDAY)) - dt.timedelta(days=1)
    again = desk.run(MONDAY, at=back)
    fresh = desk.run(MONDAY, at=back, fresh_snapshot=True)
    early = desk.run(TUESDAY, at=back)
    check(broken, again.outcome == "nothing to do", f"again: {again.outcome}")
    check(broken, fresh.outcome == "source not ready", f"fresh: {fresh.outcome}")
    check(broken, early.outcome == "source not ready", f"early: {early.outcome}")
    check(broken, _morning(desk, TUESDAY).outcome == "delivered", "Tuesday was not delivered with the right clock")
    check(broken, len(desk.status(MONDAY).deliveries) == 1, "Monday was delivered twice")
    return "nothing delivered twice or early; the next date goes with the right clock"


@contextlib.contextmanager
def _file_system(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def _at_create(count: int, action: Callable[[], None]) -> Iterator[None]:
    original, left = LocalStore.create, [count]

    def create(self: LocalStore, *arguments: Any, **options: Any) -> bool:
        left[0] -= 1
        if left[0] == 0:
            action()
        return original(self, *arguments, **options)

    LocalStore.create = create  # type: ignore[method-assign]
    try:
        yield
    finally:
        LocalStore.create = original  # type: ignore[method-assign]


def _store_lost(desk: Desk, broken: Broken, lose: Callable[[Path], None], regain: Callable[[Path], None]) -> str:
    if os.getuid() != 0:
        return "not tried: mounting a file system needs root"
    desk.two_customers(MONDAY)
    home, messages = desk.runtime.settings.home, set()
    for at in (1, 12, 30, 42):
        place = home / str(at)
        with _file_system(place / "store") as folder, at_a_desk(desk.runtime.engine, place) as item:
            with _at_create(at, lambda folder=folder: lose(folder)):  # type: ignore[misc]
                report = _morning(item, MONDAY)
            check(broken, report.outcome != "delivered", f"create {at}: {report.outcome}")
            check(broken, "cannot be written" in report.message, f"create {at}: {report.message}")
            messages.add(str(report.outcome))
            regain(folder)
            after = _morning(item, MONDAY, fresh_snapshot=at % 2 == 0)
            check(broken, after.outcome == "delivered", f"create {at}, afterwards: {after.message}")
            check(broken, len(item.status(MONDAY).deliveries) == 1, f"create {at}: not delivered once")
            problems = list(verify_feed(item.runtime.store, FEED, item.feed(FEED).format).problems)
            check(broken, not problems, f"create {at}: {problems[:1]}")
    return f"4 places: {', '.join(sorted(messages))}; then delivered once, and it verifies"


def read_only(desk: Desk, broken: Broken) -> str:
    """Make the store read-only half-way."""
    return _store_lost(desk, broken, lambda at: _remount(at, "ro"), lambda at: _remount(at, "rw"))


def disk_full(desk: Desk, broken: Broken) -> str:
    """Fill up a small real file system half-way."""

    def fill(folder: Path) -> None:
        with (folder / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"\0" * (1 << 16))
                filler.flush()

    return _store_lost(desk, broken, fill, lambda folder: (folder / "filler").unlink())


def _two_revisions(desk: Desk, broken: Broken) -> Path:
    desk.two_customers()
    for day in (MONDAY, TUESDAY):
        desk.bigsite.end_of_day(day)
    desk.bigsite.save()
    check(broken, _morning(desk, MONDAY).outcome == "delivered", "Monday was not delivered")
    _sql(desk, "UPDATE bigsite.security_price SET close_price = close_price + 1 WHERE price_date = DATE '2026-03-02'")
    check(broken, _morning(desk, MONDAY, fresh_snapshot=True).outcome == "delivered", "no revision 1")
    store = desk.runtime.store
    assert isinstance(store, LocalStore)
    return Path(store.root)


def _must_stop(desk: Desk, broken: Broken, what: str) -> str:
    report = _morning(desk, TUESDAY)
    check(broken, report.outcome == "stopped", f"{what}: {report.outcome}: {report.message}")
    check(broken, not desk.status(TUESDAY).deliveries, f"{what}: Tuesday was delivered on top of it")
    check(
        broken, bool(list(verify_feed(desk.runtime.store, FEED, desk.feed(FEED).format).problems)), f"{what}: verifies"
    )
    return str(report.message)


def older_folder(desk: Desk, broken: Broken) -> str:
    """Copy an older revision's folder over a newer one."""
    root = _two_revisions(desk, broken)
    folder = root / delivered_prefix(FEED, _day(MONDAY))
    shutil.rmtree(folder / "r1")
    shutil.copytree(folder / "r0", folder / "r1")
    return f"stopped: {_must_stop(desk, broken, 'folder')[:90]}"


def edited_by_hand(desk: Desk, broken: Broken) -> str:
    """Edit a manifest, then an entry of the chain, by hand."""
    root = _two_revisions(desk, broken)
    manifest = root / manifest_key(FEED, _day(MONDAY), 1)
    entries = sorted((root / "chain" / FEED).glob("*.json"))
    for path, label in ((manifest, "manifest"), (entries[-1], "chain entry")):
        before = path.read_bytes()
        path.write_bytes(before.replace(b'"revision":1', b'"revision":0', 1).replace(b'"attempt', b'"Attempt', 1))
        check(broken, path.read_bytes() != before, f"{label}: was not changed")
        _must_stop(desk, broken, label)
        path.write_bytes(before)
    check(broken, _morning(desk, TUESDAY).outcome == "delivered", "Tuesday was not delivered after the repair")
    return "stopped both times; delivered once both were put back"


def store_restored(desk: Desk, broken: Broken) -> str:
    """Restore the store from an older backup: a delivered date must not go again."""
    desk.two_customers()
    for day in (MONDAY, TUESDAY):
        desk.bigsite.end_of_day(day)
    desk.bigsite.save()
    _morning(desk, MONDAY)
    store = desk.runtime.settings.home / "store"
    shutil.copytree(store, store.with_name("backup"))
    check(broken, _morning(desk, TUESDAY).outcome == "delivered", "Tuesday was not delivered")
    shutil.rmtree(store)
    store.with_name("backup").rename(store)
    report = _morning(desk, TUESDAY)
    check(broken, report.outcome == "stopped", f"{report.outcome}: {report.message}")
    check(broken, not desk.status(TUESDAY).deliveries, "Tuesday went again")
    return f"stopped: {report.message[:90]}"


def bigsite_restored(desk: Desk, broken: Broken) -> str:
    """Restore bigsite from an older backup, whose ledger gives a delivered row's id to another row."""
    desk.runtime.settings = desk.runtime.settings.model_copy(update={"max_held_back_share": Decimal(1)})
    first_customer, other = desk.two_customers()
    lost = first_customer.deposit("50.00", MONDAY)
    desk.end_of_day(MONDAY)
    check(broken, _morning(desk, MONDAY).outcome == "delivered", "Monday was not delivered")
    for rows in (desk.bigsite.rows, first_customer.ledger):
        rows[tables.cash_transaction].remove(lost)
    _sql(desk, f"DELETE FROM bigsite.cash_transaction WHERE cash_transaction_id = {lost.id}")
    reused = other.deposit("50.00", TUESDAY)
    reused.values["cash_transaction_id"] = lost.id
    desk.end_of_day(TUESDAY)
    report = _morning(desk, TUESDAY)
    sent = (
        desk.records(TUESDAY)["movement_transactions"]["transaction_id"].to_list()
        if report.outcome == "delivered"
        else []
    )
    hold = sorted(entry.number for entry in desk.status(TUESDAY).quarantined)
    check(broken, f"C{lost.id}" not in sent, f"C{lost.id} was sent for two portfolios")
    check(broken, hold == [first_customer.number, other.number], f"held back: {hold}")
    return "both portfolios are held back; no TransactionId goes twice"


def concurrent_commands(folder: Path, broken: Broken) -> str:
    """Start ``run`` and two ``reconcile`` at once, under the daemon of ``classfeed up`` and on the local warehouse."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLASSFEED_", "DAGSTER_"))}
    environment = {**kept, "CLASSFEED_HOME": str(folder / "home"), "CLASSFEED_SIMULATION_PORTFOLIOS": "4"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "classfeed_dagster.cli.app", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ended(process: subprocess.Popen[str], what: str) -> None:
        output, _ = process.communicate(timeout=900)
        check(broken, process.returncode == 0, f"{what}: exit code {process.returncode}: {output[-300:]}")

    for arguments in (("simulate", "--days", "2"), ("run", "--date", "2023-01-03")):
        ended(start(*arguments), arguments[0])
    services = start("up", "--port", "0")
    assert services.stdout is not None
    check(broken, any("The Dagster UI" in line for line in services.stdout), "the services did not start")
    began = time.monotonic()
    reconciling = ("reconcile", "--date", "2023-01-03")
    together = [
        (start(*reconciling), "one"),
        (start(*reconciling), "another"),
        (start("run", "--date", "2023-01-04"), "run"),
    ]
    for process, label in together:
        ended(process, label)
    seconds = time.monotonic() - began
    check(broken, services.poll() is None, "the services stopped")
    services.terminate()
    ended(services, "up")
    from classfeed_dagster.local import embedded_postgres, snowflake_server

    snowflake_server.stop(folder / "home")
    embedded_postgres.stop(folder / "home")
    return f"all three end well under the daemon, in {seconds:.0f} s"


ON_A_DESK: dict[str, Callable[[Desk, Broken], str]] = {
    "store read-only half-way": read_only,
    "disk full on a small file system": disk_full,
    "clock set back": clock_set_back,
    "older revision's folder over a newer one": older_folder,
    "manifest and chain entry edited by hand": edited_by_hand,
    "store restored from an older backup": store_restored,
    "bigsite restored, ids reused": bigsite_restored,
    "5,000 portfolios in quarantine": quarantined,
    "a portfolio larger than a page": large_portfolio,
}
IN_A_FOLDER: dict[str, Callable[[Path, Broken], str]] = {
    "run beside two reconciliations and the daemon": concurrent_commands,
    "many revisions of one date": revisions,
    "nightly audit of a sample": sampled_audit,
}


def attack(budget: Budget, folder: Path, url: str, only: str = "") -> Iterator[Row]:
    """Try the cases in order while the budget lasts; at least the first four."""
    for at, name in enumerate([*ON_A_DESK, *IN_A_FOLDER]):
        if (budget.left < 0 and at >= 4) or only not in name:
            continue
        place = folder / str(at)
        place.mkdir(parents=True)
        broken: Broken = []
        with measured() as peak:
            outcome = _try(name, place, url, broken)
        check(broken, peak.megabytes < MEGABYTES, f"{peak.megabytes} MB")
        yield Row("extremes", name, 1, f"{outcome} ({peak} in all)", broken)


def _try(name: str, folder: Path, url: str, broken: Broken) -> str:
    if name in IN_A_FOLDER:
        return IN_A_FOLDER[name](folder, broken)
    engine = sa.create_engine(url)
    names = ", ".join(f"bigsite.{table.name}" for table in tables.metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {names} CASCADE"))
    try:
        with at_a_desk(engine, folder) as desk:
            return ON_A_DESK[name](desk, broken)
    finally:
        engine.dispose()


def main() -> None:
    """Try the cases whose name contains the argument."""
    import tempfile

    from classfeed_dagster_tests.torture.outcome import table
    from classfeed_dagster_tests.torture.servers import bigsite_server

    only = sys.argv[1] if len(sys.argv) > 1 else ""
    with bigsite_server() as url, tempfile.TemporaryDirectory(prefix="classfeed-extremes-") as folder:
        for row in attack(Budget(3600), Path(folder), url, only):
            print(table([row]).splitlines()[-1], *row.broken, sep="\n", flush=True)


if __name__ == "__main__":
    main()
