"""The same doors with the real document: EPI pages through build, checks, publishing and verifying."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl

from classfeed_dagster.delivery.build import Build, build_delivery
from classfeed_dagster.delivery.checks import (
    control_totals_agree,
    document_valid,
    everyone_consented,
    examine_build,
    record_evaluation,
)
from classfeed_dagster.delivery.gate import record_verdict
from classfeed_dagster.delivery.publish import PublishOutcome, publish
from classfeed_dagster.delivery.verify import ProblemKind, verify_feed, verify_paths
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.domains.columns import (
    ACCOUNT_BALANCES,
    ACCOUNTS,
    CASH_ACCOUNTS,
    INVESTMENT_HOLDINGS,
    MOVEMENT_TRANSACTIONS,
    Frame,
)
from classfeed_dagster.store import LocalStore, ObjectStore
from classfeed_dagster_tests.fixtures.delivery_pipeline import (
    ASKED_AT,
    AUDIENCE,
    DAY1,
    DAY2,
    NOT_OF_BYTES,
    Day,
    no_sleep,
    plan,
    terms,
)

FEED = "class_super"


def rows(frame: Frame, records: list[dict[str, Any]]) -> pl.DataFrame:
    filled = [{name: record.get(name) for name in frame.schema} for record in records]
    return frame.conform(pl.DataFrame(filled, schema=frame.schema, orient="row"))


def frames(day: Day) -> Mapping[str, pl.DataFrame]:
    accounts: list[dict[str, Any]] = []
    cash_accounts, balances, movements = [], [], []
    for at, (number, (change, amounts)) in enumerate(day.content.items()):
        extract = {"NEW": "FULL", "CURRENT": "DELTA", "REMOVED": "NONE"}[change]
        account = {
            "portfolio_number": number,
            "recipient_reference": f"REF-{number}",
            "consent": change,
            "extract": extract,
        }
        if change == "REMOVED":
            accounts.append(account)
            continue
        opened = dt.date(2020, 1, 1)
        accounts.append(
            account
            | {
                "portfolio_name": "Müller & Søn <Super> 😀",
                "entity_type": "SMSF",
                "status": "ACTIVE",
                "opened_on": opened,
            }
        )
        key = {"portfolio_number": number, "account_number": f"90000{at}", "currency": "AUD"}
        cash_accounts.append(key | {"account_name": "Cash", "status": "ACTIVE", "opened_on": opened})
        total = sum((Decimal(amount) for amount in amounts), Decimal("0.00"))
        balances.append(key | {"as_at_date": day.date, "ledger_balance": total, "available_balance": total})
        movements += [
            key
            | {
                "transaction_id": f"C{day.date:%d}{at}{line}",
                "transaction_type": "CASH_DEPOSIT" if Decimal(amount) > 0 else "CASH_WITHDRAWAL",
                "transaction_date": day.date,
                "recorded_at": dt.datetime(2023, 1, day.date.day, 3, line, tzinfo=dt.UTC),
                "amount": Decimal(amount),
            }
            for line, amount in enumerate(amounts)
        ]
    return {
        "accounts": rows(ACCOUNTS, accounts),
        "cash_accounts": rows(CASH_ACCOUNTS, cash_accounts),
        "account_balances": rows(ACCOUNT_BALANCES, balances),
        "investment_holdings": rows(INVESTMENT_HOLDINGS, []),
        "movement_transactions": rows(MOVEMENT_TRANSACTIONS, movements),
    }


def deliver(store: ObjectStore, day: Day) -> tuple[Build, PublishOutcome]:
    planned = plan(store, day, AUDIENCE)
    context = terms(store, day, FEED, document_format=EPI, max_page_bytes=8192 + 2500)
    new_build = build_delivery(store, context, planned, [frames(day)])
    examined = examine_build(store, new_build, EPI)
    for evaluation in (
        document_valid(new_build, examined),
        everyone_consented(new_build, examined, day.consenting),
        control_totals_agree(new_build, examined),
    ):
        assert evaluation.passed, evaluation
        record_evaluation(store, new_build, evaluation, "try-1")
    for check in ("held_back_share", *NOT_OF_BYTES):
        record_verdict(store, new_build, check, True, "fine", "try-1")
    outcome = publish(
        store,
        new_build,
        consented_now=lambda: (ASKED_AT, day.consenting),
        audience=AUDIENCE,
        correlation_id="try-1",
        patience_seconds=0,
        sleep=no_sleep,
    )
    return new_build, outcome


def test_epi_documents_are_delivered_and_verified(local_store: LocalStore) -> None:
    content = {f"P{at}": ("NEW", ("100.00", "-0.01")) for at in range(6)}
    new_build, outcome = deliver(local_store, Day(DAY1, content))
    assert outcome.kind == "DELIVERED"
    assert len(new_build.pages) > 1
    second = {**{f"P{at}": ("CURRENT", ("5.00",)) for at in range(5)}, "P5": ("REMOVED", ())}
    # The state of the fake feed's dates isn't this feed's: the plan assumes that all were delivered.
    _, outcome = deliver(local_store, Day(DAY2, second))
    assert outcome.manifest is not None
    assert outcome.manifest.totals.currencies["AUD"].cash_credits == Decimal("25.00")
    assert [p.change for p in outcome.manifest.portfolios] == ["CURRENT"] * 5 + ["REMOVED"]

    problems = verify_feed(local_store, FEED, EPI)
    assert (problems.problems, problems.manifests) == ([], 2)
    copied = local_store.root / "delivered" / FEED
    assert verify_paths([copied], {FEED: EPI}).problems == []

    page = outcome.manifest.pages[0].key
    text = gzip.decompress(local_store.read(page)).replace(b">5.00<", b">6.00<", 1)
    local_store.put(page, gzip.compress(text))
    kinds = {problem.kind for problem in verify_feed(local_store, FEED, EPI).problems}
    assert kinds == {ProblemKind.PAGE_CHANGED, ProblemKind.CONTENT_DISAGREES}


def test_data_without_consent_in_the_bytes_is_detected(local_store: LocalStore) -> None:
    day = Day(DAY1, {"P1": ("NEW", ("1.00",)), "P2": ("NEW", ())})
    new_build, _ = deliver(local_store, day)
    result = everyone_consented(new_build, examine_build(local_store, new_build, EPI), {"P1"})
    assert result.offenders == (("P2", "does not consent now"),)
