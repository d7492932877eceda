"""Web page for re-runs on request: one form with one action, and its answer."""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from classfeed_dagster import html_page
from classfeed_dagster.errors import UsageError
from classfeed_dagster.extras import require_extra
from classfeed_dagster.feed_run.flags import is_live
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.file_access import keep_private
from classfeed_dagster.html_page import escape
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.due import latest_due
from classfeed_dagster.support import reruns, webserver_client
from classfeed_dagster.support.alb_identity import HEADER, NotIdentifiedError, identify, keys_of
from classfeed_dagster.tags import CORRELATION_TAG, LAUNCHED_BY_TAG, RERUN_TAG, new_correlation_id

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/rerun"
DATES_OFFERED = 60  # about three months of business dates; older ones need the on-call
_MAX_BODY = 4096
_FIELDS = {"feed", "date", "reason"}
_FORM_STYLE = """
form{max-width:34rem}label{display:block;font-weight:600;margin:1rem 0 .3rem}
select,textarea,button{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--soft)}
select,textarea,button{border-radius:4px;padding:.6rem .7rem;width:100%;min-height:2.75rem}
textarea{min-height:5.5rem;resize:vertical}button{cursor:pointer}
button,.button{background:var(--bar);border-color:var(--bar);color:var(--paper);font-weight:600;margin-top:1.2rem}
.button{display:inline-block;padding:.6rem 1rem;border-radius:4px;text-decoration:none}a{color:var(--bar)}
"""
_STYLES = (html_page.STYLE, _FORM_STYLE)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; style-src "
    + " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" for style in _STYLES),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class WebserverActions:
    """Calls to the writable webserver: query and launch a date's run."""

    under_way: Callable[[str, dt.date], bool]
    launch: Callable[[str, dt.date, Mapping[str, str]], str]


class BadRequestError(UsageError):
    """A request that the page's own form cannot send."""


def application(
    runtime: Runtime, webserver: WebserverActions, public_key: Callable[[str], str], clock: Callable[[], dt.datetime]
) -> Starlette:
    """Return the web application. ``public_key`` gives the load balancer's keys; ``clock`` gives UTC."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    feeds = _offered(runtime)

    def requester_of(request: Request) -> reruns.Requester:
        return identify(request.headers.getlist(HEADER), runtime.settings.door_signer or "", public_key)

    def refuse(status: int, text: str) -> Response:
        return HTMLResponse(_refusal_page(text), status, _HEADERS)

    async def show(request: Request) -> Response:
        try:
            await run_in_threadpool(requester_of, request)
        except NotIdentifiedError as error:
            return refuse(401, str(error))
        return HTMLResponse(_form_page(feeds, runtime, clock()), headers=_HEADERS)

    async def submit(request: Request) -> Response:
        try:
            requester = await run_in_threadpool(requester_of, request)
            _require_same_origin(request.headers.get("origin"), request.headers.get("host"))
            feed, day, reason = _read_form(await _read_body(request), feeds)
            key, run_id = await run_in_threadpool(grant, runtime, webserver, feed, day, requester, reason, clock())
        except NotIdentifiedError as error:
            return refuse(401, str(error))
        except BadRequestError as error:
            return refuse(400, str(error))
        except reruns.RerunRefusedError as error:
            return refuse(403, str(error))
        except Exception as error:  # the store, a driver or the webserver: the person gets a sentence either way
            get_logger().error("re-run failed", error_type=type(error).__name__)
            return refuse(502, "the re-run could not be started: try again, or page the on-call")
        return HTMLResponse(_answer_page(runtime.settings.ui_url, feed, day, run_id, key), 202, _HEADERS)

    async def health(request: Request) -> Response:
        return PlainTextResponse("healthy\n", headers=_HEADERS)

    return Starlette(
        routes=[Route("/health", health), Route(PATH, show, methods=["GET"]), Route(PATH, submit, methods=["POST"])]
    )


def grant(
    runtime: Runtime,
    webserver: WebserverActions,
    feed: Feed,
    day: dt.date,
    requester: reruns.Requester,
    reason: str,
    at: dt.datetime,
) -> tuple[str, str]:
    """Record the request and launch the run; return the record's key and the run id. RerunRefusedError if refused."""
    settings, correlation_id = runtime.settings, new_correlation_id()
    key, _ = reruns.request_rerun(
        runtime.store,
        feed,
        settings.first_business_date,
        day,
        requester,
        reason,
        rules=reruns.RerunPolicy.of(settings),
        under_way=lambda: webserver.under_way(feed.name, day),
        at=at,
        correlation_id=correlation_id,
    )
    tags = {LAUNCHED_BY_TAG: reruns.LAUNCHED_BY, RERUN_TAG: key, CORRELATION_TAG: correlation_id}
    run_id = webserver.launch(feed.name, day, tags)
    get_logger().info(
        "support re-run", feed=feed.name, business_date=day.isoformat(), run_id=run_id, correlation_id=correlation_id
    )
    return key, run_id


def _offered(runtime: Runtime) -> dict[str, Feed]:
    # Feeds that customers receive come first.
    offered = reruns.RerunPolicy.of(runtime.settings).feeds
    feeds = [feed for feed in FEEDS if feed.name in offered]
    unknown = offered - {feed.name for feed in feeds}
    if unknown:
        raise UsageError(f"CLASSFEED_RERUN_FEEDS names unknown feeds {', '.join(sorted(unknown))}: correct it")
    env = runtime.settings.env
    return {feed.name: feed for feed in sorted(feeds, key=lambda feed: (not is_live(feed, env), feed.name))}


def _dates(feeds: Mapping[str, Feed], runtime: Runtime, now: dt.datetime) -> list[dt.date]:
    # Business dates whose run should have started, newest first.
    first = runtime.settings.first_business_date
    dues = (latest_due(feed, feed.audience(first), now, DATES_OFFERED) for feed in feeds.values())
    return sorted({date.business_date for dates in dues for date in dates}, reverse=True)[:DATES_OFFERED]


def _require_same_origin(origin: str | None, host: str | None) -> None:
    # The load balancer's cookie is sent with a form that another site posts; the Origin header distinguishes them.
    if not origin or not host or urlsplit(origin).netloc != host:
        raise BadRequestError("Form sent from another site: send it from this page")


async def _read_body(request: Request) -> bytes:
    # The announced length is checked before reading, the real one while reading.
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > _MAX_BODY:
        raise BadRequestError("the form is too large")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise BadRequestError("the form is too large")
    return body


def _read_form(body: bytes, feeds: Mapping[str, Feed]) -> tuple[Feed, dt.date, str]:
    try:
        values = parse_qs(body.decode("utf-8"), keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except (UnicodeDecodeError, ValueError):
        raise BadRequestError("not a form") from None
    if set(values) != _FIELDS or any(len(value) != 1 for value in values.values()):
        raise BadRequestError("The form must have exactly feed, date and reason")
    feed, date, reason = (values[name][0] for name in ("feed", "date", "reason"))
    if feed not in feeds:
        raise BadRequestError(f"feeds that can be re-run: {', '.join(feeds)}")
    try:
        day = dt.date.fromisoformat(date)
    except ValueError:
        raise BadRequestError("the date is written YYYY-MM-DD") from None
    return feeds[feed], day, reason


def _page(title: str, parts: Sequence[str]) -> str:
    return html_page.page(title, parts, style=_FORM_STYLE)


def _form_page(feeds: Mapping[str, Feed], runtime: Runtime, now: dt.datetime) -> str:
    env = runtime.settings.env
    feed_options = "".join(
        f'<option value="{escape(name)}">{escape(feed.title)} ({"live" if is_live(feed, env) else "not live"})</option>'
        for name, feed in feeds.items()
    )
    date_options = "".join(
        f'<option value="{day.isoformat()}">{day:%A} {day.day} {day:%B %Y}</option>'
        for day in _dates(feeds, runtime, now)
    )
    return _page(
        "Run a business date again",
        [
            "<p>Safe at any time: nothing is delivered twice. Your name and the reason are recorded.</p>",
            f'<form method="post" action="{PATH}">',
            f'<label for="feed">Feed</label><select id="feed" name="feed">{feed_options}</select>',
            f'<label for="date">Business date</label><select id="date" name="date" required>{date_options}</select>',
            '<label for="reason">Reason</label><textarea id="reason" name="reason" minlength="10" maxlength="500" '
            'required aria-describedby="reason-help"></textarea>',
            '<p class="soft" id="reason-help">10 to 500 characters on one line. Leave out names, e-mail addresses and '
            "account numbers.</p>",
            "<button>Run it again</button></form>",
            '<p class="soft">Another date or feed: page the on-call.</p>',
        ],
    )


def _answer_page(ui_url: str | None, feed: Feed, day: dt.date, run_id: str, key: str) -> str:
    run = f"<code>{escape(run_id)}</code>"
    link = ""
    if ui_url:
        address = escape(f"{ui_url.rstrip('/')}/runs/{run_id}")
        link = f'<p><a class="button" href="{address}">Open the run</a></p>'
    return _page(
        "The re-run has started",
        [
            f'<p class="verdict good" role="status"><b>started</b> <span>{escape(feed.title)}, {day:%A} {day.day} '
            f"{day:%B %Y}</span></p>",
            link,
            f"<p>Run {run}, recorded as <code>{escape(key)}</code>.</p>",
            f'<p><a href="{PATH}">Run another business date again</a></p>',
        ],
    )


def _refusal_page(text: str) -> str:
    return _page(
        "The re-run has not started",
        [
            f'<p class="verdict error" role="alert"><b>Not started:</b> <span>{escape(text)}</span></p>',
            f'<p><a href="{PATH}">Back to the form</a></p>',
        ],
    )


def main() -> None:  # pragma: no cover - a process of its own; its parts are tested
    """Serve the page until stopped."""
    require_extra("The support door", "production", "jwt")
    import uvicorn

    keep_private()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    runtime = Runtime()
    url = runtime.settings.operate_url
    if url is None:
        raise SystemExit("CLASSFEED_OPERATE_URL is not set: set it to the writable webserver that starts runs")
    webserver = WebserverActions(
        lambda feed, day: webserver_client.under_way(url, feed, day),
        lambda feed, day, tags: webserver_client.launch(url, feed, day, tags),
    )
    keys = keys_of(os.environ.get("AWS_REGION", "ap-southeast-2"))
    app = application(runtime, webserver, keys, lambda: dt.datetime.now(dt.UTC))
    uvicorn.run(app, host="0.0.0.0", port=parser.parse_args().port, access_log=False)  # noqa: S104 - in a container


if __name__ == "__main__":  # pragma: no cover
    main()
