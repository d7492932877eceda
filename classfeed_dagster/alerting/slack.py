"""Slack messages (Block Kit) of incidents, and their sender: one message an incident, with the recovery in its thread.

Slack allows 3,000 characters a section, 10 fields and 50 blocks; these messages stay far below.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classfeed_dagster.alerting.incidents import (
    Incident,
    Messenger,
    NotAcceptedError,
    Thread,
    duration,
    sentence,
)
from classfeed_dagster.settings import Environment, Settings
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from slack_sdk.web.client import WebClient
    from slack_sdk.web.slack_response import SlackResponse

_MAX_TEXT = 2900
_MAX_NOTIFICATION_BYTES = 3900  # Slack refuses to edit a message whose text has more than 4,000
# Answers by which Slack will never accept an edit of a message or a reply to it: somebody deleted it or archived its
# channel, another bot wrote it, or the workspace limits edits.
_FINAL = frozenset(
    {
        "message_not_found", "thread_not_found", "cannot_reply_to_message", "channel_not_found", "not_in_channel",
        "is_archived", "is_inactive", "cant_update_message", "edit_window_closed",
    }
)  # fmt: skip
_DATES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Links:
    """Base addresses of a message's links: Dagster's UI and the runbook. None omits the link."""

    ui: str | None
    runbook: str

    @classmethod
    def of(cls, settings: Settings) -> Links:
        """Return the links of this deployment."""
        return cls(settings.ui_url.rstrip("/") if settings.ui_url else None, settings.runbook_url)


def blocks(incident: Incident, links: Links, *, recovered_after: dt.timedelta | None = None) -> list[dict[str, Any]]:
    """Return the message. ``recovered_after``: the incident's duration, once it is resolved."""
    resolved = recovered_after is not None
    sign = ":white_check_mark:" if resolved else ":rotating_light:" if incident.page else ":warning:"
    title = f"{sign} *{_text(sentence(incident.what))}* {_text(incident.means)}"
    if recovered_after is not None:
        title = f"{sign} *Recovered* after {duration(recovered_after)}. ~{_text(incident.what)}~"
    result: list[dict[str, Any]] = [_section(title)]
    facts = _facts(incident)
    if facts:
        result.append({"type": "section", "fields": [_mrkdwn(f"*{name}*\n{value}") for name, value in facts.items()]})
    if incident.doing and not resolved:
        result.append(_section(f"*What the system is doing*\n{_text(incident.doing)}"))
    result.append({"type": "context", "elements": [_mrkdwn(" · ".join(_links(incident, links)))]})
    return result


class SlackError(NotAcceptedError):
    """Slack did not accept a message."""


class SlackMessenger(Messenger):
    """Messages in one Slack channel."""

    def __init__(self, client: WebClient, channel: str, links: Links) -> None:
        self._client, self._channel, self._links = client, channel, links

    def announce(self, incident: Incident) -> Thread:
        """Send a new message and return its thread."""
        answer = _call(
            self._client.chat_postMessage,
            channel=self._channel,
            text=_notification(incident.headline),
            blocks=blocks(incident, self._links),
            unfurl_links=False,
        )
        return Thread(channel=str(answer["channel"]), ts=str(answer["ts"]))

    def revise(self, thread: Thread, incident: Incident) -> Thread:
        """Edit the message in place, or send it anew if that is impossible; return its thread."""
        edited = _accepted(
            self._client.chat_update,
            channel=thread.channel,
            ts=thread.ts,
            text=_notification(incident.headline),
            blocks=blocks(incident, self._links),
        )
        return thread if edited else self.announce(incident)

    def recovered(self, thread: Thread, incident: Incident, lasted: dt.timedelta) -> None:
        """Mark the message, and report the recovery in its thread: last, as only the edit may be repeated."""
        text = _notification(f"Recovered after {duration(lasted)}. It was: {incident.what}")
        _accepted(
            self._client.chat_update,
            channel=thread.channel,
            ts=thread.ts,
            text=text,
            blocks=blocks(incident, self._links, recovered_after=lasted),
        )
        _accepted(
            self._client.chat_postMessage,
            channel=thread.channel,
            thread_ts=thread.ts,
            text=text,
            unfurl_links=False,
        )


def _call(method: Callable[..., SlackResponse], **arguments: object) -> SlackResponse:
    from slack_sdk.errors import SlackApiError

    try:
        return method(**arguments)
    except SlackApiError as refusal:
        reason = str(refusal.response.get("error"))
        raise SlackError(f"Slack did not accept a message ({reason}); it will be retried", reason) from None


def _accepted(method: Callable[..., SlackResponse], **arguments: object) -> bool:
    """Call Slack; return False if it will never accept the call."""
    try:
        _call(method, **arguments)
    except SlackError as refusal:
        if refusal.reason in _FINAL:
            return False
        raise
    return True


def messenger(settings: Settings) -> Messenger:
    """Return the messenger: Slack if a token is set, else the log. Production has its own channel."""
    if settings.slack_token is None:
        return Messenger()
    from slack_sdk import WebClient

    # The next evaluation retries. Retrying at once would send a message twice if only the answer to it was lost.
    token = settings.slack_token.get_secret_value()
    client = WebClient(token, base_url=settings.slack_url, timeout=10, retry_handlers=[])
    production = settings.env is Environment.PROD
    channel = settings.slack_channel if production else settings.slack_channel_nonprod
    return SlackMessenger(client, channel, Links.of(settings))


def _facts(incident: Incident) -> Mapping[str, str]:
    facts: dict[str, str] = {}
    if incident.dates:
        facts["Business date" if len(incident.dates) == 1 else "Business dates"] = _listed(
            [day.isoformat() for day in incident.dates[:_DATES_SHOWN]], len(incident.dates) - _DATES_SHOWN
        )
    if incident.feeds:
        facts["Feed" if len(incident.feeds) == 1 else "Feeds"] = _text(", ".join(incident.feeds))
    # The dates are listed above, unless there are many.
    counts = {name: n for name, n in incident.counts.items() if n > (_DATES_SHOWN if name == "dates" else 0)}
    if counts:
        facts["Counts"] = _text(", ".join(counted(count, _singular(name)) for name, count in counts.items()))
    if incident.offenders:
        facts["Portfolios"] = _listed(incident.offenders, incident.more_offenders)
    return facts


def _singular(plural: str) -> str:
    return f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")


def _links(incident: Incident, links: Links) -> list[str]:
    result = [f"<{links.runbook}#{incident.runbook}|Runbook>"]
    if incident.run_id is not None:
        run = incident.run_id
        result.insert(0, f"<{links.ui}/runs/{run}|Run {run[:8]}>" if links.ui else f"Run {run[:8]}")
    return result


def _listed(values: Sequence[str], more: int) -> str:
    return _text(", ".join(values) + (f" and {more:,} more" if more > 0 else ""))


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    # Verbatim: Slack makes no mention or link of a plain @channel or address.
    shown = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
    return {"type": "mrkdwn", "text": shown, "verbatim": True}


def _notification(text: str) -> str:
    return _text(text).encode()[:_MAX_NOTIFICATION_BYTES].decode(errors="ignore")


def _text(text: str) -> str:
    # Slack's three control characters are escaped, so that no text becomes a mention or a link. Characters that are not
    # shown, or that change the order of others, are replaced.
    shown = "".join(letter if letter.isprintable() or letter.isspace() else "\ufffd" for letter in text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
