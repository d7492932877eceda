"""Pages through PagerDuty's Events API v2."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from classfeed_dagster.alerting.incidents import Incident, NotAcceptedError, Pager
from classfeed_dagster.alerting.slack import Links
from classfeed_dagster.settings import Environment, Settings

_SECONDS = 10


class PagerDutyError(NotAcceptedError):
    """PagerDuty did not accept an event."""


class PagerDuty(Pager):
    """Pages through PagerDuty. The incident's key is PagerDuty's deduplication key, so that repeating has no effect."""

    def __init__(self, url: str, routing_key: str, links: Links) -> None:
        self._url, self._routing_key, self._links = f"{url.rstrip('/')}/v2/enqueue", routing_key, links

    def trigger(self, incident: Incident) -> None:
        """Page a person."""
        links = [{"href": f"{self._links.runbook}#{incident.runbook}", "text": "Runbook"}]
        if incident.run_id is not None and self._links.ui is not None:
            links.append({"href": f"{self._links.ui}/runs/{incident.run_id}", "text": "Run"})
        self._send(
            {
                "event_action": "trigger",
                "dedup_key": incident.key,
                "payload": {
                    "summary": incident.headline[:1024],
                    "source": "classfeed",
                    "severity": "critical",
                    "custom_details": {
                        "feeds": list(incident.feeds),
                        "business dates": [day.isoformat() for day in incident.dates],
                        **incident.counts,
                        "what the system is doing": incident.doing,
                    },
                },
                # PagerDuty requires absolute links.
                "links": [link for link in links if link["href"].startswith("http")],
            }
        )

    def resolve(self, incident: Incident) -> None:
        """Resolve the page."""
        self._send({"event_action": "resolve", "dedup_key": incident.key})

    def _send(self, event: dict[str, Any]) -> None:
        body = json.dumps({"routing_key": self._routing_key, **event}).encode()
        request = urllib.request.Request(  # noqa: S310 - the settings' own address
            self._url, body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                answer.read()
        except (urllib.error.URLError, OSError) as error:
            status = getattr(error, "code", None)
            reason = f"status {status}" if status else type(error).__name__
            raise PagerDutyError(
                f"PagerDuty did not accept the {event['event_action']} event of {event['dedup_key']} ({reason}); it "
                "will be retried",
                reason,
            ) from None


def pager(settings: Settings) -> Pager:
    """Return the pager: PagerDuty in production if its key is set, else the log."""
    if settings.pagerduty_key is None or settings.env is not Environment.PROD:
        return Pager()
    return PagerDuty(settings.pagerduty_url, settings.pagerduty_key.get_secret_value(), Links.of(settings))
