"""Planted names, numbers and secrets are searched for in everything that a day of work leaves behind but the data itself."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from dagster import DagsterInstance
from dagster_shared.serdes import serialize_value
from pydantic import SecretStr

from classfeed_dagster import logs
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.switchboard import Switchboard

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
PERSONAL = {
    "portfolio name": "Zyxwvut Family Super Fund",
    "account name": "Zyxwvut ATF Retirement",
    "given name": "Given1",
    "family name": "Family1",
    "e-mail": "owner1@example.invalid",
    "account number": "91827364",  # what every planted number begins with
    "abn": "51824753556",
    "hin": "X009876543",  # what every planted HIN begins with: no two portfolios may have the same
}
SECRETS = {
    "database password": "planted-password-1f9a",
    "slack token": "xoxb-planted-77aa",
    "pager key": "planted-pager-key-33cc",
}
# Keys under which customers' data belongs; everything else must hold none.
DATA = re.compile(r"landing/.*\.parquet|domains/.*\.parquet|(staged|delivered)/.*\.(xml|csv)(\.gz)?")
# The delivered ledger has the account numbers that the recipient knows, and nothing else of a person.
LEDGER = re.compile(r"(ledger|staged)/.*\.parquet")


def plant(desk: Desk, switchboard: Switchboard) -> None:
    settings = desk.runtime.settings
    assert settings.bigsite_url is not None
    url = sa.make_url(settings.bigsite_url.get_secret_value()).set(password=SECRETS["database password"])
    values = {
        "bigsite_url": url.render_as_string(hide_password=False),
        "slack_token": SECRETS["slack token"],
        "slack_url": f"{switchboard.url}/api/",
        "pagerduty_key": SECRETS["pager key"],
        "pagerduty_url": switchboard.url,
        "held_back_alert": 0,
    }
    desk.runtime.settings = type(settings).model_validate({**settings.model_dump(), **values})
    bhp = desk.bigsite.security("BHP", price={"2026-02-27": "45.10", MONDAY: "45.50"})
    for at in range(1, 9):
        portfolio = desk.bigsite.portfolio(
            f"SW0000000{at}",
            portfolio_name=PERSONAL["portfolio name"],
            abn=PERSONAL["abn"],
            hin=f"{PERSONAL['hin']}{at}",
        )
        portfolio.cash_account(
            account_number=f"{PERSONAL['account number']}{at}", account_name=PERSONAL["account name"]
        )
        portfolio.consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(bhp, "100", "45.00", "2026-02-24")
    # One that can't be written, one that has an impossible HIN: findings name fields, not their values.
    desk.bigsite.portfolios[2].row["portfolio_name"] = PERSONAL["portfolio name"] + "\x0b"
    desk.bigsite.portfolios[3].row["hin"] = PERSONAL["hin"]
    desk.bigsite.end_of_day(MONDAY)
    desk.break_units(desk.bigsite.portfolios[1], MONDAY)
    desk.bigsite.save()


def events(instance: DagsterInstance) -> Iterator[tuple[str, str]]:
    for run in instance.get_runs():
        yield f"run {run.run_id}", serialize_value(run)
        for number, entry in enumerate(instance.all_logs(run.run_id)):
            yield f"event {number} of {run.run_id}", serialize_value(entry)


def objects(store: ObjectStore) -> Iterator[tuple[str, str]]:
    for key in store.list(""):
        if LEDGER.fullmatch(key):
            yield key, pl.read_parquet(store.read(key)).write_json()
        elif not DATA.fullmatch(key):
            data = store.read(key)
            yield key, (gzip.decompress(data) if key.endswith(".gz") else data).decode("utf-8", "replace")


def test_logs_of_a_days_work_hold_no_customer_data_and_no_secret(
    desk: Desk, switchboard: Switchboard, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json")
    plant(desk, switchboard)
    delivered = desk.run(MONDAY, verbose=True)
    assert delivered.outcome is Outcome.DELIVERED, delivered
    assert len(desk.manifest(MONDAY).held_back) == 3
    # A day that the drift of a table stops, and then one that fails in the driver's own words.
    desk.end_of_day(TUESDAY)
    with desk.runtime.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bigsite.cash_transaction RENAME TO cash_transaction_gone"))
    stopped = desk.run(TUESDAY, verbose=True)
    assert stopped.outcome is Outcome.STOPPED_BY_CHECKS, stopped
    settings = desk.runtime.settings
    assert settings.bigsite_url is not None
    away = sa.make_url(settings.bigsite_url.get_secret_value()).set(host="127.0.0.1", port=9, query={})
    desk.runtime.close()
    desk.runtime.settings = settings.model_copy(update={"bigsite_url": SecretStr(away.render_as_string(False))})
    failed = desk.run(TUESDAY, verbose=True)
    assert failed.outcome is Outcome.UNAVAILABLE, failed
    with desk.at("2026-03-04T09:30:00+11:00"):
        for sensor in ("repair", "alerts", "measures"):
            desk.tick(sensor)
    assert switchboard.messages

    output = capfd.readouterr()
    left: list[tuple[str, str]] = [
        ("standard output", output.out),
        ("standard error", output.err),
        ("reports", repr((delivered, stopped, failed))),
        *events(desk.instance),
        *objects(desk.runtime.store),
        *(
            (f"message {number}", f"{message.text} {message.seen} {message.replies}")
            for number, message in enumerate(switchboard.messages)
        ),
    ]
    assert len(left) > 100
    assert any("SW00000003" in text for _, text in left)  # the portfolio is mentioned
    matches = [
        (label, where)
        for where, text in left
        for label, planted in {**PERSONAL, **SECRETS}.items()
        if planted in text and not (label == "account number" and LEDGER.fullmatch(where))
    ]
    assert matches == []


def test_leak_search_finds_planted_data(desk: Desk) -> None:
    """The same search over the data finds the names: the test above could fail."""
    desk.bigsite.portfolio("SW00000001", portfolio_name=PERSONAL["portfolio name"]).consent(
        granted_at="2026-02-20T00:00:00Z"
    ).deposit("1.00", "2026-02-23")
    desk.end_of_day(MONDAY)
    assert desk.run(MONDAY).outcome is Outcome.DELIVERED
    texts: list[Any] = [
        gzip.decompress(desk.runtime.store.read(key)).decode()
        for key in desk.runtime.store.list("delivered/")
        if key.endswith(".xml.gz")
    ]
    assert any(PERSONAL["portfolio name"] in text for text in texts)
