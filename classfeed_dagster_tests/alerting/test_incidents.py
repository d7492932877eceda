"""Incidents as people see them, in Slack and PagerDuty: once, in one thread, edited in place, recovered."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import re
from pathlib import Path

import pytest
import structlog

from classfeed_dagster.alerting import alerts, incidents
from classfeed_dagster.alerting.incidents import (
    WATCHDOG,
    Incident,
    NotificationError,
    duration,
    open_incidents,
    raise_incident,
    raised,
    settle_incident,
    sync_incidents,
)
from classfeed_dagster.alerting.pagerduty import PagerDuty, PagerDutyError, pager
from classfeed_dagster.alerting.slack import Links, blocks, messenger
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import InvalidKeyError, ObjectStore
from classfeed_dagster.wording import counted
from classfeed_dagster_tests.fixtures.sample_incidents import LINKS, PAGE, picture_name, samples, write
from classfeed_dagster_tests.fixtures.switchboard import Switchboard

NOW = dt.datetime(2026, 3, 2, 20, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
LATE = Incident(
    key="late.2026-03-02",
    what="class_super is late: past the deadline of 09:00 Sydney",
    means="Customers' funds at the recipient still show the last delivered business date.",
    feeds=("class_super",),
    dates=(dt.date(2026, 3, 2),),
    counts={"dates": 1, "portfolios": 12345},
    offenders=tuple(f"SW{n:06d}" for n in range(7)),
    doing="Working: a run is in progress.",
    run_id="0c9d6f3e-aaaa-bbbb-cccc-000000000000",
    runbook="late",
    page=True,
)
BREAK = Incident(key="breaks.class_super", what="2 < 3 & <!channel>", means="Some funds may not balance.", runbook="b")


def settings(board: Switchboard) -> Settings:
    return Settings(
        env="prod",
        store_url="s3://bucket",
        first_business_date=dt.date(2026, 3, 2),
        slack_token="xoxb-local",
        slack_url=f"{board.url}/api/",
        pagerduty_key="key",
        pagerduty_url=board.url,
        ui_url="https://dagster.example/",
        runbook_url="https://docs.example/alerts",
    )


def say(store: ObjectStore, board: Switchboard, *current: Incident, after: int = 0) -> tuple[int, int, int]:
    chosen = settings(board)
    return sync_incidents(store, current, (messenger(chosen), pager(chosen)), NOW + after * MINUTE)


@pytest.mark.parametrize(
    ("count", "noun", "says"), [(1, "file", "1 file"), (1200, "delivery", "1,200 deliveries"), (2, "day", "2 days")]
)
def test_headlines_count_in_words(count: int, noun: str, says: str) -> None:
    assert counted(count, noun) == says
    assert says in str(blocks(BREAK.model_copy(update={"counts": {counted(2, noun)[2:]: count}}), LINKS))


def test_counts_of_zero_are_left_out_of_a_message() -> None:
    text = str(blocks(BREAK.model_copy(update={"counts": {"deliveries": 0, "sensors": 2}}), LINKS))
    assert "2 sensors" in text
    assert "0 deliveries" not in text
    assert "*Counts*" not in str(blocks(BREAK.model_copy(update={"counts": {"offenders": 0}}), LINKS))


def test_incident_texts_have_no_optional_plural() -> None:
    texts = [path.read_text() for path in Path(alerts.__file__).parent.glob("*.py")]
    assert [match for text in texts for match in re.findall(r"what=.*\((?:s|ies|es)\)|missing.*\(ies\)", text)] == []


def test_incident_is_one_message_and_one_page_until_it_recovers(
    local_store: ObjectStore, switchboard: Switchboard
) -> None:
    assert say(local_store, switchboard, LATE) == (1, 0, 0)
    assert say(local_store, switchboard, LATE, after=1) == (0, 0, 0)
    assert len(switchboard.calls) == 2  # one message, one page, and not a word more
    (message,) = switchboard.messages
    assert message.channel == "#classfeed"
    assert message.text == f"{LATE.what}. {LATE.means}"
    first, *rest = message.seen.split("\n")
    assert first == f":rotating_light: *{LATE.what}.* {LATE.means}"
    observed = "\n".join(rest)
    assert "2026-03-02" in observed
    assert "12,345 portfolios" in observed
    assert "SW000000, SW000001, SW000002, SW000003, SW000004 and 2 more" in observed
    assert "Working: a run is in progress." in observed
    assert f"<https://dagster.example/runs/{LATE.run_id}|Run 0c9d6f3e>" in observed
    assert "<https://docs.example/alerts#late|Runbook>" in observed
    page = switchboard.pages[LATE.key]
    assert page["payload"]["summary"] == message.text
    assert [link["text"] for link in page["links"]] == ["Runbook", "Run"]

    worse = LATE.model_copy(update={"dates": (dt.date(2026, 3, 2), dt.date(2026, 3, 3)), "counts": {"dates": 2}})
    assert say(local_store, switchboard, worse, after=60) == (0, 1, 0)
    assert len(switchboard.messages) == 1
    assert "2026-03-02, 2026-03-03" in message.seen

    assert say(local_store, switchboard, after=85) == (0, 0, 1)
    assert message.replies == [f"Recovered after 85 min. It was: {LATE.what}"]
    assert message.seen.startswith(f":white_check_mark: *Recovered* after 85 min. ~{LATE.what}~")
    assert switchboard.pages == {}
    assert open_incidents(local_store) == {}
    assert say(local_store, switchboard, after=99) == (0, 0, 0)
    # The same trouble another day is another thread.
    assert say(local_store, switchboard, LATE, after=2000) == (1, 0, 0)
    assert len(switchboard.messages) == 2


def test_failed_notification_is_retried_and_does_not_block_others(
    local_store: ObjectStore, switchboard: Switchboard
) -> None:
    switchboard.fails = True
    with pytest.raises(NotificationError, match=r"3 notifications.*late.2026-03-02 to PagerDuty \(status 503\)"):
        say(local_store, switchboard, LATE, BREAK)
    switchboard.fails = False
    assert say(local_store, switchboard, LATE, BREAK, after=1) == (2, 0, 0)
    switchboard.fails = True
    with pytest.raises(NotificationError, match="late"):
        say(local_store, switchboard, BREAK, after=2)
    with pytest.raises(NotificationError, match="breaks"):
        say(local_store, switchboard, LATE, BREAK.model_copy(update={"page": False, "counts": {"b": 1}}), after=2)
    switchboard.fails = False
    assert say(local_store, switchboard, after=3) == (0, 0, 2)
    assert [len(message.replies) for message in switchboard.messages] == [1, 1]


def test_failed_notification_states_the_services_own_reason(local_store: ObjectStore, switchboard: Switchboard) -> None:
    switchboard.errors["/api/chat.postMessage"] = "invalid_auth"
    with pytest.raises(NotificationError, match=r"breaks.class_super to Slack \(invalid_auth\)"):
        say(local_store, switchboard, BREAK)


def test_long_text_is_cut_to_what_slack_edits(local_store: ObjectStore, switchboard: Switchboard) -> None:
    long = BREAK.model_copy(update={"what": "<ä>" * 2000})
    say(local_store, switchboard, long)
    say(local_store, switchboard, long.model_copy(update={"counts": {"breaks": 2}}))
    say(local_store, switchboard)
    (message,) = switchboard.messages
    (reply,) = message.replies
    assert all(3800 < len(text.encode()) < 4000 for text in (message.text, reply))


def test_failed_recovery_message_does_not_page_again(
    local_store: ObjectStore, switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(local_store, switchboard, LATE)
    chosen = settings(switchboard)
    silent = messenger(chosen.model_copy(update={"slack_url": "http://127.0.0.1:1/api/"}))
    with pytest.raises(NotificationError, match="Slack"):
        sync_incidents(local_store, [], (silent, pager(chosen)), NOW)
    assert switchboard.pages == {}
    assert say(local_store, switchboard) == (0, 0, 1)


@pytest.mark.parametrize("error", ["message_not_found", "cant_update_message", "edit_window_closed", "is_archived"])
def test_message_that_cannot_be_edited_is_sent_anew(
    local_store: ObjectStore, switchboard: Switchboard, error: str
) -> None:
    say(local_store, switchboard, LATE)
    switchboard.errors["/api/chat.update"] = error
    worse = LATE.model_copy(update={"counts": {"portfolios": 2}})
    assert say(local_store, switchboard, worse, after=1) == (0, 1, 0)
    assert say(local_store, switchboard, worse, after=2) == (0, 0, 0)
    assert ["\n2 portfolios" in message.seen for message in switchboard.messages] == [False, True]
    assert say(local_store, switchboard, after=3) == (0, 0, 1)
    assert [len(message.replies) for message in switchboard.messages] == [0, 1]
    assert open_incidents(local_store) == {}


def test_recovery_is_reported_once_though_its_message_is_late(
    local_store: ObjectStore, switchboard: Switchboard
) -> None:
    say(local_store, switchboard, LATE)
    switchboard.errors["/api/chat.update"] = "ratelimited"
    for minute in (1, 2):
        with pytest.raises(NotificationError, match="Slack"):
            say(local_store, switchboard, after=minute)
    del switchboard.errors["/api/chat.update"]
    assert say(local_store, switchboard, after=3) == (0, 0, 1)
    assert len(switchboard.messages[0].replies) == 1


def test_incident_without_its_thread_recovers(local_store: ObjectStore, switchboard: Switchboard) -> None:
    say(local_store, switchboard, LATE)
    switchboard.errors |= {"/api/chat.update": "channel_not_found", "/api/chat.postMessage": "channel_not_found"}
    assert say(local_store, switchboard, after=1) == (0, 0, 1)
    assert open_incidents(local_store) == {}


def test_slow_slack_delays_no_page_and_no_evaluation(
    local_store: ObjectStore, switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each of Slack's answers takes seven of an evaluation's fifteen seconds.
    monkeypatch.setattr(incidents, "monotonic", lambda: 7 * sum("/api/" in call for call in switchboard.calls))
    current = [LATE.model_copy(update={"key": f"late.{n}"}) for n in range(5)]
    with pytest.raises(NotificationError, match=r"2 notifications.*late.4 to Slack \(slow\)"):
        say(local_store, switchboard, *current)
    assert len(switchboard.pages) == 5
    assert switchboard.calls == ["/v2/enqueue"] * 5 + ["/api/chat.postMessage"] * 3
    assert say(local_store, switchboard, *current, after=1) == (0, 2, 0)
    assert len(switchboard.messages) == 5


def test_lost_answer_of_slack_is_not_repeated_at_once(local_store: ObjectStore, switchboard: Switchboard) -> None:
    switchboard.drops = True
    with pytest.raises(NotificationError, match="Slack"):
        say(local_store, switchboard, BREAK)
    assert switchboard.calls == ["/api/chat.postMessage"]


def test_alert_text_neither_mentions_nor_links(switchboard: Switchboard, local_store: ObjectStore) -> None:
    say(local_store, switchboard, BREAK)
    message = switchboard.messages[0]
    assert "2 &lt; 3 &amp; &lt;!channel&gt;" in message.seen
    assert "2 &lt; 3 &amp; &lt;!channel&gt;" in message.text  # what a notification shows
    say(local_store, switchboard, BREAK.model_copy(update={"means": "<!here> again."}))
    assert "&lt;!here&gt; again." in message.text
    assert "<!" not in message.text
    assert switchboard.pages == {}


def test_alert_text_is_verbatim_and_has_no_hidden_characters(
    switchboard: Switchboard, local_store: ObjectStore
) -> None:
    hostile = BREAK.model_copy(
        update={
            "what": "@channel \u202elennahc\u202c \u2066x\u2069 \u200b\x00 https://evil.example",
            "offenders": ("SW\u202e1",),
        }
    )
    say(local_store, switchboard, hostile)
    message = switchboard.messages[0]
    for text in (message.seen, message.text):
        assert not {"\u202e", "\u202c", "\u2066", "\u2069", "\u200b", "\x00"} & set(text)
    elements = [
        element
        for block in message.blocks
        for element in (block.get("text"), *block.get("fields", ()), *block.get("elements", ()))
        if element
    ]
    assert {(element["type"], element["verbatim"]) for element in elements} == {("mrkdwn", True)}
    say(local_store, switchboard, after=1)
    assert not {"\u202e", "\u200b"} & set("".join(message.replies))


def test_production_alone_has_its_own_channel_and_pages(switchboard: Switchboard, local_store: ObjectStore) -> None:
    staging = settings(switchboard).model_copy(update={"env": "stg"})
    sync_incidents(local_store, [LATE], (messenger(staging), pager(staging)), NOW)
    assert [message.channel for message in switchboard.messages] == ["#classfeed-nonprod"]
    assert switchboard.pages == {}


def test_incident_without_tokens_is_logged(local_store: ObjectStore) -> None:
    speaks = (messenger(Settings()), pager(Settings()))
    with structlog.testing.capture_logs() as logged:
        sync_incidents(local_store, [LATE], speaks, NOW)
        sync_incidents(local_store, [LATE.model_copy(update={"counts": {}})], speaks, NOW)
        sync_incidents(local_store, [], speaks, NOW + MINUTE)
    events = [line["event"] for line in logged]
    assert events == [
        f"would page: {LATE.what}. {LATE.means}",
        f"incident: {LATE.what}. {LATE.means}",
        f"incident, still open: {LATE.what}. {LATE.means}",
        f"resolved: {LATE.what}",
        f"recovered after 60 s: {LATE.what}",
    ]


def test_incident_of_another_package_is_raised_and_settled(local_store: ObjectStore) -> None:
    raise_incident(local_store, BREAK)
    raise_incident(local_store, BREAK)
    assert raised(local_store) == (BREAK,)
    settle_incident(local_store, BREAK.key)
    settle_incident(local_store, BREAK.key)
    assert raised(local_store) == ()
    with pytest.raises(InvalidKeyError):
        raise_incident(local_store, BREAK.model_copy(update={"key": "../x"}))


def test_watchdog_incident_is_separate_from_the_sensors(local_store: ObjectStore, switchboard: Switchboard) -> None:
    chosen = settings(switchboard)
    speaks = (messenger(chosen), pager(chosen))
    watched = BREAK.model_copy(update={"key": WATCHDOG})
    sync_incidents(local_store, [watched], speaks, NOW, only=WATCHDOG)
    say(local_store, switchboard, LATE)
    assert set(open_incidents(local_store)) == {WATCHDOG, LATE.key}
    sync_incidents(local_store, [], speaks, NOW, only=WATCHDOG)
    assert set(open_incidents(local_store)) == {LATE.key}


def test_pagerduty_that_does_not_answer_is_an_error_without_the_key() -> None:
    with pytest.raises(
        PagerDutyError, match=r"did not accept the trigger event of late.2026-03-02 \(URLError\)"
    ) as caught:
        PagerDuty("http://127.0.0.1:1", "secret", Links(None, "docs/alerts.md")).trigger(LATE)
    assert "secret" not in str(caught.value)


def test_incident_of_many_portfolios_counts_those_not_listed() -> None:
    numbers = tuple(f"SW{number:08d}" for number in range(10_000))
    incident = alerts.reconciliation_breaks("class_super", dt.date(2026, 3, 2), 12_345, numbers)
    again = Incident.model_validate_json(incident.model_dump_json())
    for many in (incident, again):
        assert "SW00000004 and 9,995 more'" in str(blocks(many, LINKS))
    assert len(incident.model_dump_json()) < 1000
    few = alerts.reconciliation_breaks("class_super", dt.date(2026, 3, 2), 12_345, numbers[:5])
    assert "SW00000004'" in str(blocks(few, LINKS))


def test_alert_images_show_every_message() -> None:
    spec = importlib.util.spec_from_file_location("alert_images", PAGE.parents[1] / "scripts" / "alert_images.py")
    assert spec is not None
    assert spec.loader is not None
    alert_images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alert_images)
    pages = dict(alert_images.pages())
    assert {f"alert-{picture_name(title)}" for title in samples()} | {"alert-recovered"} == pages.keys()
    recovery = re.sub("<[^>]+>", "", pages["alert-recovered"])
    assert "(edited)1 reply" in recovery
    assert recovery.endswith(
        "Recovered after 2 h 09 min. It was: class_super is late: past the deadline of 09:00 Sydney"
    )


def test_incident_message_stays_within_slack_limits_without_ui_links() -> None:
    long = LATE.model_copy(update={"what": "x" * 5000, "doing": "", "dates": (), "feeds": ("a", "b"), "counts": {}})
    created = blocks(long, Links(None, "docs/alerts.md"))
    assert all(len(block["text"]["text"]) < 3000 for block in created if "text" in block)
    assert "Run 0c9d6f3e · " in created[-1]["elements"][0]["text"]
    bare = Incident(key="k", what="Something!", means="Nothing.")
    assert [block["type"] for block in blocks(bare, Links(None, "r"))] == ["section", "context"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (11100, "3 h 05 min"), (200_000, "2 days")]
)
def test_duration_is_written_for_people(seconds: int, text: str) -> None:
    assert duration(dt.timedelta(seconds=seconds)) == text


def test_alerts_page_shows_messages_as_sent(tmp_path: Path) -> None:
    copy = tmp_path / "alerts.md"
    copy.write_text(PAGE.read_text())
    write(copy)
    assert copy.read_text() == PAGE.read_text(), "run: python -m classfeed_dagster_tests.fixtures.sample_incidents"


def test_incident_of_a_newer_version_keeps_its_thread(store: ObjectStore, switchboard: Switchboard) -> None:
    services = (messenger(settings(switchboard)), pager(settings(switchboard)))
    sync_incidents(store, [BREAK], services, NOW)
    (key,) = store.list("incidents/")
    newer = json.loads(store.read(key))
    newer["field"] = newer["incident"]["field"] = "of a newer version"
    store.put(key, json.dumps(newer).encode())
    assert sync_incidents(store, [BREAK], services, NOW + MINUTE) == (0, 0, 0)
    assert sync_incidents(store, [], services, NOW + 2 * MINUTE) == (0, 0, 1)
    assert list(store.list("incidents/")) == []


def test_unreadable_incident_does_not_silence_the_others(store: ObjectStore, switchboard: Switchboard) -> None:
    services = (messenger(settings(switchboard)), pager(settings(switchboard)))
    store.put("incidents/other.json", b"{")
    store.put("raised-incidents/other.json", b"{")
    assert sync_incidents(store, [BREAK, *raised(store)], services, NOW) == (1, 0, 0)
    assert len(switchboard.messages) == 1
