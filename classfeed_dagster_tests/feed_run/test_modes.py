"""Effects of the switches on a business date, through the real job: off, shadow, live, and the live gate."""

from __future__ import annotations

import pytest
from dagster import AssetKey

from classfeed_dagster.delivery.feed_mode import shadow_key
from classfeed_dagster.orchestration.run_date import Outcome
from classfeed_dagster_tests.fixtures.delivering import csv_text
from classfeed_dagster_tests.fixtures.desk import Desk
from classfeed_dagster_tests.fixtures.prepared_desks import DeskAfter

MONDAY, TUESDAY = "2026-03-02", "2026-03-03"
TRADE = "class_trade"


def trade(desk: Desk) -> None:
    """Create two customers with a contract note each on the first date."""
    bhp = desk.bigsite.security("BHP", price={MONDAY: "45.50"})
    for number in ("SW00000001", "SW00000002"):
        portfolio = desk.bigsite.portfolio(number).consent(granted_at="2026-02-20T00:00:00Z")
        portfolio.deposit("10000.00", "2026-02-23")
        portfolio.buy(bhp, "100", "45.00", MONDAY)
    desk.end_of_day(MONDAY)


def deliver_in_shadow(desk: Desk) -> None:
    """Deliver the contract notes, which are not sent to the recipient."""
    trade(desk)
    report = desk.run(MONDAY, feed=TRADE)
    assert report.outcome is Outcome.DELIVERED, report
    assert "shadow: not sent to the recipient" in report.message


@pytest.fixture
def market(desk: Desk) -> Desk:
    """Return the two customers before any delivery."""
    trade(desk)
    return desk


def test_mode_off_ends_cleanly_and_writes_nothing(market: Desk) -> None:
    market.switch(mode={TRADE: "off"})
    report = market.run(MONDAY, feed=TRADE)
    assert (report.outcome, report.message) == (Outcome.NOTHING_TO_DO, "class_trade is switched off")
    assert report.failed_checks == ()
    for prefix in ("delivered/", "shadow/", "staged/", "quarantine/"):
        assert list(market.runtime.store.list(prefix)) == []
    assert market.instance.get_latest_materialization_event(AssetKey([TRADE, "delivery"])) is None
    market.switch()
    assert market.run(MONDAY, feed=TRADE).outcome is Outcome.DELIVERED


def test_mode_shadow_delivers_under_the_shadow_prefix_only(desk_after: DeskAfter) -> None:
    market = desk_after(deliver_in_shadow)
    store = market.runtime.store
    assert list(store.list("delivered/")) == []
    key = f"delivered/{TRADE}/{MONDAY}/r0/class_trade_20260302_r0.csv"
    text = store.read(shadow_key(key)).decode()
    assert text.startswith(f"H,class_trade,{MONDAY},1,0,")
    assert text.count("\r\nD,") == 2
    assert text.endswith("T,2,AUD:9019.00\r\n")
    status = market.status(MONDAY, TRADE)
    assert (status.shadow, status.complete) == ((0,), True)
    manifest = market.manifest(MONDAY, feed=TRADE)
    assert manifest.flags["mode"] == "shadow"
    assert {"live_gate", "one_live_feed"} <= {verdict.check for verdict in manifest.verdicts}
    assert market.run(MONDAY, feed=TRADE).outcome is Outcome.NOTHING_TO_DO


def test_mode_live_before_parity_needs_a_recorded_override(market: Desk) -> None:
    others = {"class_super": "off", "class_cash": "off"}
    market.switch(mode={TRADE: "live", **others})
    refused = market.run(MONDAY, feed=TRADE)
    assert refused.outcome is Outcome.STOPPED_BY_CHECKS
    assert refused.failed_checks == ("live_gate",)
    assert market.status(MONDAY, TRADE).deliveries == ()

    why = "A. Person: agreed with Class on 2 March"
    market.switch(mode={TRADE: "live", **others}, live_override={TRADE: why})
    assert market.run(MONDAY, feed=TRADE).outcome is Outcome.DELIVERED
    manifest = market.manifest(MONDAY, feed=TRADE)
    assert manifest.flags["live-override"] == why
    assert market.status(MONDAY, TRADE).shadow == ()


def test_two_feeds_with_the_same_movements_are_never_live_for_a_portfolio(market: Desk) -> None:
    anyway: dict[str, bool | str] = {TRADE: "A. Person: rehearsal"}
    market.switch(mode={TRADE: "live"}, live_override=anyway)
    for feed in (TRADE, "class_super"):
        report = market.run(MONDAY, feed=feed)
        assert (report.outcome, report.failed_checks) == (Outcome.STOPPED_BY_CHECKS, ("one_live_feed",))

    apart: dict[str, bool | str] = {TRADE: "SW00000001", "class_super": "!SW00000001"}
    market.switch(mode={TRADE: "live"}, live_override=anyway, portfolios=apart)
    for feed, number in ((TRADE, "SW00000001"), ("class_super", "SW00000002")):
        assert market.run(MONDAY, feed=feed).outcome is Outcome.DELIVERED
        assert [portfolio.number for portfolio in market.manifest(MONDAY, feed=feed).portfolios] == [number]

    # A portfolio delivered by one feed is not delivered by the other, with any later switches.
    market.switch(mode={TRADE: "off"})
    again = market.run(MONDAY)
    assert again.outcome is Outcome.NOTHING_TO_DO, again
    (hold,) = market.status(MONDAY).quarantined
    assert (hold.number, hold.held_back.reason) == ("SW00000001", "breaks delivered_by_another_feed (once)")


def test_old_apps_file_is_compared_when_it_lands(desk_after: DeskAfter) -> None:
    market = desk_after(deliver_in_shadow)
    requests, why_not = market.tick("class_trade_parity")
    assert requests == []
    assert "no date of class_trade has both" in why_not

    with_all = [line.split(",") for line in _shadow_file(market).decode().splitlines()]
    store = market.runtime.store
    store.put(f"legacy/{TRADE}/{MONDAY}/old.csv", csv_text(with_all))
    store.put(f"legacy/{TRADE}/notes/readme.txt", b"not a date")
    (request,), _ = market.tick("class_trade_parity")
    assert market.carry_out(request).success
    metadata = _parity_metadata(market)
    assert (metadata["clean_dates_in_a_row"], metadata.get("unexplained", 0), metadata["equal_lines"]) == (1, 0, 2)
    assert market.tick("class_trade_parity") == (
        [],
        "every date is compared, being compared, or waits for its next attempt",
    )

    changed = [[cell.replace("4509.50", "4509.51") for cell in line] for line in with_all]
    store.put(f"legacy/{TRADE}/{MONDAY}/old.csv", csv_text(changed))
    result = market.carry_out(request)
    assert result.success
    metadata = _parity_metadata(market)
    assert (metadata.get("clean_dates_in_a_row", 0), metadata["unexplained"]) == (0, 2)
    assert "| D | SW00000001 | 1 | differs | net_amount | 4509.51 | 4509.50 |" in str(
        metadata["unexplained_differences"]
    )
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("parity", False)


def test_failed_comparison_is_requested_again_after_a_wait(desk_after: DeskAfter) -> None:
    market, keys = desk_after(deliver_in_shadow), list[str | None]()
    store, key, content = market.runtime.store, f"legacy/{TRADE}/{MONDAY}/old.csv", _shadow_file(market)
    for instant, present in (("08:00", False), ("08:30", True)):
        store.put(key, content)
        with market.at(f"2026-03-03T{instant}:00+11:00"):
            (request,), _ = market.tick("class_trade_parity")
            keys.append(request.run_key)
            if not present:
                store.delete(key)
            assert market.carry_out(request).success is present
            store.put(key, content)
            assert market.tick("class_trade_parity")[0] == []
    assert keys[1] == f"{keys[0]}-2"


def _shadow_file(desk: Desk) -> bytes:
    return desk.runtime.store.read(shadow_key(f"delivered/{TRADE}/{MONDAY}/r0/class_trade_20260302_r0.csv"))


def _parity_metadata(desk: Desk) -> dict[str, object]:
    event = desk.instance.get_latest_materialization_event(AssetKey([TRADE, "parity"]))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}
