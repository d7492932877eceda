"""Incidents as Slack messages (Block Kit), and their sender: one message an incident, its thread for the end.

The client is dagster-slack's. Limits of Slack: 3,000 characters a section, 10 fields, 50 blocks; ours stay far below.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classfeed_dagster.alerting.incidents import OFFENDERS_SHOWN, Incident, Messenger, Thread
from classfeed_dagster.logs import get_logger
from classfeed_dagster.settings import Environment, Settings

if TYPE_CHECKING:
    from slack_sdk.web.client import WebClient

_MAX_TEXT = 2900
_DATES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Links:
    """Where a message's links lead: Dagster's UI and the runbook; None leaves the link out."""

    ui: str | None
    runbook: str

    @classmethod
    def of(cls, settings: Settings) -> Links:
        """The links of this deployment."""
        return cls(settings.ui_url.rstrip("/") if settings.ui_url else None, settings.runbook_url)


def first_line(incident: Incident) -> str:
    """What is wrong and what it means, as a notification shows it."""
    return f"{_sentence(incident.what)} {incident.means}"


def blocks(incident: Incident, links: Links, *, recovered_after: dt.timedelta | None = None) -> list[dict[str, Any]]:
    """The message. ``recovered_after``: it is over, and lasted that long."""
    over = recovered_after is not None
    sign = ":white_check_mark:" if over else ":rotating_light:" if incident.page else ":warning:"
    title = f"{sign} *{_text(_sentence(incident.what))}* {_text(incident.means)}"
    if recovered_after is not None:
        title = f"{sign} *Recovered* after {duration(recovered_after)}. ~{_text(incident.what)}~"
    made: list[dict[str, Any]] = [_section(title)]
    facts = _facts(incident)
    if facts:
        made.append({"type": "section", "fields": [_mrkdwn(f"*{name}*\n{value}") for name, value in facts.items()]})
    if incident.doing and not over:
        made.append(_section(f"*What the system is doing*\n{_text(incident.doing)}"))
    made.append({"type": "context", "elements": [_mrkdwn(" · ".join(_links(incident, links)))]})
    return made


def duration(span: dt.timedelta) -> str:
    """A span for people: 45 s, 12 min, 3 h 05 min, 2 days."""
    seconds = int(span.total_seconds())
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} days"


class SlackMessenger:
    """Tells incidents in one channel."""

    def __init__(self, client: WebClient, channel: str, links: Links) -> None:
        self._client, self._channel, self._links = client, channel, links

    def announce(self, incident: Incident) -> Thread:
        """See Messenger."""
        answer = self._client.chat_postMessage(
            channel=self._channel,
            text=_text(first_line(incident)),
            blocks=blocks(incident, self._links),
            unfurl_links=False,
        )
        return Thread(channel=str(answer["channel"]), ts=str(answer["ts"]))

    def revise(self, thread: Thread, incident: Incident) -> None:
        """See Messenger."""
        self._client.chat_update(
            channel=thread.channel, ts=thread.ts, text=_text(first_line(incident)), blocks=blocks(incident, self._links)
        )

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        """See Messenger. The reply comes first: it is what people are notified of."""
        text = f"Recovered after {duration(lasted)}. It was: {_text(incident.what)}"
        self._client.chat_postMessage(channel=thread.channel, thread_ts=thread.ts, text=text)
        self._client.chat_update(
            channel=thread.channel,
            ts=thread.ts,
            text=text,
            blocks=blocks(incident, self._links, recovered_after=lasted),
        )


class LogMessenger:
    """Without a token: the same incidents, in the log."""

    def announce(self, incident: Incident) -> Thread:
        """See Messenger."""
        get_logger().warning(f"incident: {first_line(incident)}", key=incident.key, outcome=incident.doing)
        return Thread(channel="log", ts="log")

    def revise(self, thread: Thread, incident: Incident) -> None:
        """See Messenger."""
        get_logger().warning(f"incident, still: {first_line(incident)}", key=incident.key, outcome=incident.doing)

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        """See Messenger."""
        get_logger().warning(f"recovered after {duration(lasted)}: {incident.what}", key=incident.key)


def messenger(settings: Settings) -> Messenger:
    """Slack if a token is set, else the log. Production has a channel of its own."""
    if settings.slack_token is None:
        return LogMessenger()
    from slack_sdk import WebClient

    client = WebClient(settings.slack_token.get_secret_value(), base_url=settings.slack_url, timeout=10)
    production = settings.env is Environment.PROD
    channel = settings.slack_channel if production else settings.slack_channel_nonprod
    return SlackMessenger(client, channel, Links.of(settings))


def _facts(incident: Incident) -> Mapping[str, str]:
    facts: dict[str, str] = {}
    if incident.dates:
        facts["Business date" if len(incident.dates) == 1 else "Business dates"] = _listed(
            [day.isoformat() for day in incident.dates], _DATES_SHOWN
        )
    if incident.feeds:
        facts["Feed" if len(incident.feeds) == 1 else "Feeds"] = _text(", ".join(incident.feeds))
    # The dates stand above, unless there are many.
    counts = {name: n for name, n in incident.counts.items() if name != "dates" or n > _DATES_SHOWN}
    if counts:
        facts["Counts"] = _text(", ".join(_counted(count, name) for name, count in counts.items()))
    if incident.offenders:
        facts["Portfolios"] = _listed(list(incident.offenders), OFFENDERS_SHOWN)
    return facts


def _counted(count: int, plural: str) -> str:
    return f"{count:,} {plural.removesuffix('s') if count == 1 else plural}"


def _links(incident: Incident, links: Links) -> list[str]:
    made = [f"<{links.runbook}#{incident.runbook}|Runbook>"]
    if incident.run_id is not None:
        run = incident.run_id
        made.insert(0, f"<{links.ui}/runs/{run}|Run {run[:8]}>" if links.ui else f"Run {run[:8]}")
    return made


def _listed(values: Sequence[str], shown: int) -> str:
    more = f" and {len(values) - shown} more" if len(values) > shown else ""
    return _text(", ".join(values[:shown]) + more)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"}


def _text(text: str) -> str:
    # Slack's three control characters; what stands in a message must not become a mention or a link.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
