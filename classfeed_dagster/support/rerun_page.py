"""The support door as a small web page: one form, one action. It knows of no other, so no other can be asked for."""

from __future__ import annotations

import argparse
import datetime as dt
import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from classfeed_dagster.errors import StoreError, UsageError
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.support import reruns
from classfeed_dagster.support import webserver_client as operate
from classfeed_dagster.support.alb_identity import HEADER, NotIdentifiedError, identify, keys_of
from classfeed_dagster.tags import CORRELATION_TAG, LAUNCHED_BY_TAG, RERUN_TAG, new_correlation_id

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/rerun"
_MAX_BODY = 4096
_FIELDS = {"feed", "date", "reason"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Operate:
    """What the door does with a granted request, through the writable webserver."""

    under_way: Callable[[str, dt.date], bool]
    launch: Callable[[str, dt.date, Mapping[str, str]], str]


class BadRequestError(UsageError):
    """The form isn't one of ours."""


def application(
    runtime: Runtime, operating: Operate, public_key: Callable[[str], str], clock: Callable[[], dt.datetime]
) -> Starlette:
    """The web application. ``public_key`` gives the load balancer's keys; ``clock`` gives UTC."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    feeds = {feed.name: feed for feed in FEEDS}

    def say(status: int, text: str) -> Response:
        return PlainTextResponse(text + "\n", status, _HEADERS)

    def who(request: Request) -> reruns.Requester:
        return identify(request.headers.getlist(HEADER), runtime.settings.door_signer or "", public_key)

    async def show(request: Request) -> Response:
        try:
            await run_in_threadpool(who, request)
        except NotIdentifiedError as error:
            return say(401, str(error))
        return HTMLResponse(_page(feeds), headers=_HEADERS)

    async def ask(request: Request) -> Response:
        try:
            requester = await run_in_threadpool(who, request)
            _require_same_origin(request.headers.get("origin"), request.headers.get("host"))
            feed, day, reason = _read_form(await request.body(), feeds)
            key, run_id = await run_in_threadpool(grant, runtime, operating, feed, day, requester, reason, clock())
        except NotIdentifiedError as error:
            return say(401, str(error))
        except BadRequestError as error:
            return say(400, str(error))
        except reruns.RerunRefusedError as error:
            return say(403, str(error))
        except (operate.OperateError, StoreError) as error:
            get_logger().error("door failed", error_type=type(error).__name__)
            return say(502, "the re-run could not be started: try again, or page the on-call")
        return say(202, f"started: run {run_id}, on record as {key}")

    async def health(request: Request) -> Response:
        return say(200, "healthy")

    return Starlette(
        routes=[Route("/health", health), Route(PATH, show, methods=["GET"]), Route(PATH, ask, methods=["POST"])]
    )


def grant(
    runtime: Runtime,
    operating: Operate,
    feed: Feed,
    day: dt.date,
    requester: reruns.Requester,
    reason: str,
    at: dt.datetime,
) -> tuple[str, str]:
    """Put the request on record and start it: the record's key and the run's id. RerunRefusedError if refused."""
    settings, correlation_id = runtime.settings, new_correlation_id()
    key, _ = reruns.request_rerun(
        runtime.store,
        feed,
        settings.first_business_date,
        day,
        requester,
        reason,
        rules=reruns.RerunPolicy(settings.support_group, settings.rerun_budget),
        under_way=lambda: operating.under_way(feed.name, day),
        at=at,
        correlation_id=correlation_id,
    )
    tags = {LAUNCHED_BY_TAG: reruns.LAUNCHED_BY, RERUN_TAG: key, CORRELATION_TAG: correlation_id}
    run_id = operating.launch(feed.name, day, tags)
    get_logger().info(
        "support re-run", feed=feed.name, business_date=day.isoformat(), run_id=run_id, correlation_id=correlation_id
    )
    return key, run_id


def _require_same_origin(origin: str | None, host: str | None) -> None:
    # The load balancer's cookie goes with a form that another site posts; the Origin header tells them apart.
    if not origin or not host or urlsplit(origin).netloc != host:
        raise BadRequestError("send the form from its own page")


def _read_form(body: bytes, feeds: Mapping[str, Feed]) -> tuple[Feed, dt.date, str]:
    if len(body) > _MAX_BODY:
        raise BadRequestError("the form is too large")
    try:
        values = parse_qs(body.decode("utf-8"), keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except (UnicodeDecodeError, ValueError):
        raise BadRequestError("not a form") from None
    if set(values) != _FIELDS or any(len(value) != 1 for value in values.values()):
        raise BadRequestError("feed, date and reason are needed, and nothing else")
    feed, date, reason = (values[name][0] for name in ("feed", "date", "reason"))
    if feed not in feeds:
        raise BadRequestError(f"the feeds are {', '.join(sorted(feeds))}")
    try:
        day = dt.date.fromisoformat(date)
    except ValueError:
        raise BadRequestError("the date is written YYYY-MM-DD") from None
    return feeds[feed], day, reason


def _page(feeds: Mapping[str, Feed]) -> str:
    options = "".join(f"<option>{html.escape(name)}</option>" for name in sorted(feeds))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Run a business date again</title>'
        "<h1>Run a business date again</h1><p>Safe at any time: what was delivered is never delivered again. Who "
        "asked, and why, goes on record. No names, e-mail addresses or account numbers in the reason, please.</p>"
        f'<form method="post" action="{PATH}"><p><label>Feed <select name="feed">{options}</select></label></p>'
        '<p><label>Business date <input type="date" name="date" required></label></p>'
        '<p><label>Reason <input name="reason" minlength="10" maxlength="500" size="80" required></label></p>'
        "<p><button>Run it again</button></p></form></html>"
    )


def main() -> None:  # pragma: no cover - a process of its own; what it is made of is tested
    """Serve the door until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    runtime = Runtime()
    url = runtime.settings.operate_url
    if url is None:
        raise SystemExit("CLASSFEED_OPERATE_URL is not set: there is nothing to start a run through")
    operating = Operate(
        lambda feed, day: operate.under_way(url, feed, day),
        lambda feed, day, tags: operate.launch(url, feed, day, tags),
    )
    keys = keys_of(os.environ.get("AWS_REGION", "ap-southeast-2"))
    app = application(runtime, operating, keys, lambda: dt.datetime.now(dt.UTC))
    uvicorn.run(app, host="0.0.0.0", port=parser.parse_args().port, access_log=False)  # noqa: S104 - in a container


if __name__ == "__main__":  # pragma: no cover
    main()
