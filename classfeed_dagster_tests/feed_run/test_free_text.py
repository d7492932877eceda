"""A tax file number, card number or e-mail address that somebody typed: masked or held back, and never a break."""

from __future__ import annotations

import pytest

from classfeed_dagster.bigsite import tables
from classfeed_dagster.delivery.delivery_history import live_and_shadow
from classfeed_dagster.settings import FreeText
from classfeed_dagster_tests.feed_run.test_bad_values import DAY, assert_reconciled, deliver
from classfeed_dagster_tests.fixtures.desk import Desk

pytestmark = pytest.mark.slow

SECRETS = ("123456782", "123 456 782", "jane.citizen@example.com", "4111111111111111")


@pytest.fixture
def typed(desk: Desk) -> Desk:
    """Prepare a desk whose first customer's name, account name and narrative contain identifiers."""
    desk.two_customers()
    rows = desk.bigsite.rows
    rows[tables.portfolio][0]["portfolio_name"] = "CITIZEN SF TFN 123 456 782"
    rows[tables.cash_account][0]["account_name"] = "Visa 4111111111111111"
    rows[tables.cash_transaction][0]["description"] = "BPAY ATO ref 123456782, jane.citizen@example.com"
    desk.end_of_day(DAY)
    return desk


def _delivered_text(desk: Desk, feed: str) -> str:
    store = live_and_shadow(desk.runtime.store, feed)
    (page,) = desk.manifest(DAY, feed=feed).pages
    with store.local_file(page.key) as path:
        frames = desk.feed(feed).format.read(path)
    return " ".join(str(frame.to_dicts()) for frame in frames.values())


@pytest.mark.parametrize("feed", ["class_super", "class_cash"])
def test_mask_identifier_in_free_text_reaches_no_document(typed: Desk, feed: str) -> None:
    deliver(typed, feed=feed)
    text = _delivered_text(typed, feed)
    assert not [secret for secret in SECRETS if secret in text]
    assert "BPAY ATO ref *********, ***" in text
    assert typed.rules(DAY, feed=feed)["identifier_in_narrative"] == 1
    assert typed.rules(DAY, feed=feed)["identifier_in_name"] == 2
    if feed == "class_super":
        assert_reconciled(typed)


def test_hold_back_identifier_in_free_text_holds_one_portfolio_back(typed: Desk) -> None:
    typed.runtime.settings = typed.runtime.settings.model_copy(update={"free_text": FreeText.HOLD_BACK})
    deliver(typed)
    (hold,) = typed.manifest(DAY).held_back
    assert hold.number == "SW00000001"
    assert {rule.rule for rule in hold.rules} == {"identifier_in_name", "identifier_in_narrative"}
    assert not [secret for secret in SECRETS if secret in hold.model_dump_json()]
    assert_reconciled(typed)


def test_hold_back_spares_a_feed_that_carries_no_free_text(typed: Desk) -> None:
    typed.runtime.settings = typed.runtime.settings.model_copy(update={"free_text": FreeText.HOLD_BACK})
    deliver(typed, feed="class_trade")
    assert typed.manifest(DAY, feed="class_trade").held_back == ()
