"""Open tickets by label, time from review to merge, and jobs of a run, from GitHub's REST API.

The standard library's client honours the proxy variables. The token is sent to the API's own address only, and appears
in no message.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import statistics
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

API = "https://api.github.com"
LABELS = {"open_tech_debt": "tech-debt", "open_bugfixes": "bugfix"}  # label by number
MERGED_WITHIN = dt.timedelta(days=30)
_ATTEMPTS = 4
_LONGEST_WAIT = 60  # seconds
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class ForgeError(Exception):
    """The forge did not answer as expected. The message states what to do."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # The standard handler sends the token to whatever address the answer names.
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Forge:
    """One repository at a forge.

    Attributes:
        repository: ``owner/name``.
        token: token that may read actions, issues and pull requests.
        sleep: waits for a number of seconds.
    """

    repository: str
    token: str = field(repr=False)
    api: str = API
    sleep: Callable[[float], None] = time.sleep

    def open_issues(self, label: str) -> int:
        """Return the number of open issues with a label. Pull requests are not counted."""
        issues = self._pages("issues", state="open", labels=label)
        return sum("pull_request" not in issue for issue in issues)

    def review_to_merge(self, since: dt.datetime) -> list[float]:
        """Return the seconds from first review to merge of each pull request merged since ``since``.

        The author's own comments are no review. Pull requests without a review are left out.
        """
        seconds = []
        for pull in self._pages("pulls", state="closed", sort="updated", direction="desc"):
            if dt.datetime.fromisoformat(pull["updated_at"]) < since:
                break
            if pull["merged_at"] is None or (merged := dt.datetime.fromisoformat(pull["merged_at"])) < since:
                continue
            reviews = [
                dt.datetime.fromisoformat(review["submitted_at"])
                for review in self._pages(f"pulls/{pull['number']}/reviews")
                if review.get("submitted_at") and _login(review) != _login(pull)
            ]
            if reviews and min(reviews) <= merged:
                seconds.append((merged - min(reviews)).total_seconds())
        return seconds

    def run_jobs(self, workflow: str, run: int | None = None) -> list[Any]:
        """Return the jobs of a workflow's run, by default of its latest successful one on main."""
        if run is None:
            runs = self._pages(f"actions/workflows/{workflow}/runs", "workflow_runs", branch="main", status="success")
            latest = next(runs, None)
            if latest is None:
                raise ForgeError(f"{self.repository}: {workflow} has no successful run on main: give --run")
            run = int(latest["id"])
        return list(self._pages(f"actions/runs/{run}/jobs", "jobs"))

    def _pages(self, path: str, member: str = "", **parameters: str) -> Iterator[Any]:
        asked = urllib.parse.urlencode({**parameters, "per_page": "100"})
        url: str | None = f"{self.api}/repos/{self.repository}/{path}?{asked}"
        while url is not None:
            if not url.startswith(f"{self.api}/"):
                raise ForgeError(f"the next page of {path} is at another address than {self.api}: not followed")
            body, headers = self._get(url)
            yield from body[member] if member else body
            following = _NEXT.search(headers.get("Link") or "")
            url = following[1] if following else None

    def _get(self, url: str) -> tuple[Any, Message]:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/vnd.github+json",
                   "X-GitHub-Api-Version": "2022-11-28", "User-Agent": "classfeed"}  # fmt: skip
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the API's address, see _pages
        place = url.partition("?")[0]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with urllib.request.build_opener(_NoRedirect).open(request, timeout=30) as answer:
                    return json.load(answer), answer.headers
            except urllib.error.HTTPError as error:
                error.close()
                wait = _wait(error, attempt)
                if wait is None or attempt == _ATTEMPTS:
                    raise ForgeError(_explanation(error, place)) from None
            except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
                wait = 2.0**attempt
                if attempt == _ATTEMPTS:
                    reason = getattr(error, "reason", error)
                    raise ForgeError(f"{place} cannot be read ({reason}): check the network and the proxy") from None
            self.sleep(wait)
        raise AssertionError("unreachable")


def forge_values(forge: Forge, now: dt.datetime) -> dict[str, float]:
    """Return the numbers by name; ``review_to_merge_seconds`` only if a pull request was reviewed and merged."""
    values: dict[str, float] = {name: forge.open_issues(label) for name, label in LABELS.items()}
    seconds = forge.review_to_merge(now - MERGED_WITHIN)
    return values | ({"review_to_merge_seconds": round(statistics.median(seconds))} if seconds else {})


def _login(record: Any) -> str | None:
    return (record.get("user") or {}).get("login")


def _limited(error: urllib.error.HTTPError) -> bool:
    return error.code == 429 or (
        error.code == 403 and (error.headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in error.headers)
    )


def _reset(error: urllib.error.HTTPError) -> int:
    # Unix time from which requests are served again; 0 if it is not stated.
    stated = error.headers.get("X-RateLimit-Reset") or ""
    return int(stated) if stated.isdigit() else 0


def _wait(error: urllib.error.HTTPError, attempt: int) -> float | None:
    # Seconds until the next attempt; None if another one is useless.
    if _limited(error):
        stated = error.headers.get("Retry-After") or ""
        seconds = float(stated) if stated.isdigit() else _reset(error) - time.time()
        return max(1.0, seconds) if seconds <= _LONGEST_WAIT else None
    return 2.0**attempt if error.code >= 500 else None


def _explanation(error: urllib.error.HTTPError, place: str) -> str:
    if _limited(error):
        reset = _reset(error)
        until = f" until {dt.datetime.fromtimestamp(reset, dt.UTC):%H:%M} UTC" if reset else ""
        return f"{place}: the rate limit is used up{until}. Run it again after that"
    remedy = {
        401: "the token is missing, wrong or expired",
        403: "the token may not read actions, issues and pull requests: grant them for reading",
        404: "no such repository, or the token may not see it: check owner/name",
        301: "the repository has moved: give its new owner/name",
    }.get(error.code, "try again later")
    return f"{place} answers {error.code}: {remedy}"
