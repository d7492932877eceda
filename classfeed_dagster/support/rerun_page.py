"""Web pages of the support door: re-run a business date, refresh a portfolio, look up a customer."""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime as dt
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from classfeed_dagster import html_page, logs, telemetry
from classfeed_dagster.bigsite.portfolio_number import UnknownPortfolioError
from classfeed_dagster.errors import UsageError
from classfeed_dagster.extras import require_extra
from classfeed_dagster.feed_run.flags import flag_values, is_live, start_flags
from classfeed_dagster.feeds import FEEDS
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.file_access import keep_private
from classfeed_dagster.html_page import escape
from classfeed_dagster.logs import get_logger
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels.service_levels import latest_due
from classfeed_dagster.support import refreshes, reruns, webserver_client
from classfeed_dagster.support.alb_identity import HEADER, NotIdentifiedError, identify, keys_of
from classfeed_dagster.support.customer import customer_history
from classfeed_dagster.support.customer_page import disclosure_page
from classfeed_dagster.support.reruns import record_lookup
from classfeed_dagster.tags import CORRELATION_TAG, LAUNCHED_BY_TAG, RERUN_TAG, new_correlation_id

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/rerun"  # the load balancer sends this path and those below it to the door
REFRESH_PATH, CUSTOMER_PATH = f"{PATH}/refresh", f"{PATH}/customer"
DATES_OFFERED = 60  # about three months of business dates; older ones need the on-call
_MAX_BODY = 4096
_BODY_SECONDS = 10  # for all of a form; people's browsers send it in one piece
_RERUN_FIELDS = frozenset({"feed", "date", "reason"})
_REFRESH_FIELDS = frozenset({"feed", "portfolio", "reason"})
_CUSTOMER_FIELDS = frozenset({"portfolio"})
_Action = Callable[[reruns.Requester, Mapping[str, str]], str]
_FORM_STYLE = """
form{max-width:34rem}label{display:block;font-weight:600;margin:1rem 0 .3rem}
select,textarea,input,button{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--soft)}
select,textarea,input,button{border-radius:4px;padding:.6rem .7rem;width:100%;min-height:2.75rem}
textarea{min-height:5.5rem;resize:vertical}button{cursor:pointer}
button,.button{background:var(--bar);border-color:var(--bar);color:var(--paper);font-weight:600;margin-top:1.2rem}
.button{display:inline-block;padding:.6rem 1rem;border-radius:4px;text-decoration:none}
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


class SlowRequestError(UsageError):
    """A form that does not arrive in time."""


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

    async def answer(request: Request, names: frozenset[str], status: int, act: _Action) -> Response:
        # Every form is answered in this order: person, origin, fields, permission.
        try:
            requester = await run_in_threadpool(requester_of, request)
            _require_same_origin(request.headers.getlist("origin"), request.headers.getlist("host"))
            fields = _read_form(await _read_body(request), names)
            return HTMLResponse(await run_in_threadpool(act, requester, fields), status, _HEADERS)
        except NotIdentifiedError as error:
            return refuse(401, str(error))
        except BadRequestError as error:
            return refuse(400, str(error))
        except SlowRequestError as error:
            return refuse(408, str(error))
        except reruns.RerunRefusedError as error:
            return refuse(403, str(error))
        except Exception as error:  # the store, a driver or the webserver: the person gets a sentence either way
            get_logger().error("request failed", error_type=type(error).__name__)
            return refuse(502, "a service did not answer: try again, or page the on-call")

    def rerun(requester: reruns.Requester, fields: Mapping[str, str]) -> str:
        feed, day = _feed_of(fields, feeds), _day_of(fields)
        key, run_id = grant(runtime, webserver, feed, day, requester, fields["reason"], clock())
        return _answer_page(runtime.settings.ui_url, f"{feed.title}, {_in_words(day)}", run_id, key)

    def refresh(requester: reruns.Requester, fields: Mapping[str, str]) -> str:
        feed, number = _feed_of(fields, feeds), _number_of(fields)
        key, run_id, day = grant_refresh(runtime, webserver, feed, number, requester, fields["reason"])
        what = f"{number} in full, {feed.title}, with {_in_words(day)}"
        return _answer_page(runtime.settings.ui_url, what, run_id, key)

    def customer(requester: reruns.Requester, fields: Mapping[str, str]) -> str:
        return look_up(runtime, _number_of(fields), requester, clock())

    async def submit(request: Request) -> Response:
        return await answer(request, _RERUN_FIELDS, 202, rerun)

    async def submit_refresh(request: Request) -> Response:
        return await answer(request, _REFRESH_FIELDS, 202, refresh)

    async def submit_customer(request: Request) -> Response:
        return await answer(request, _CUSTOMER_FIELDS, 200, customer)

    async def health(request: Request) -> Response:
        return PlainTextResponse("healthy\n", headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/health", health),
            Route(PATH, show, methods=["GET"]),
            Route(PATH, submit, methods=["POST"]),
            Route(REFRESH_PATH, submit_refresh, methods=["POST"]),
            Route(CUSTOMER_PATH, submit_customer, methods=["POST"]),
        ]
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
    return key, _launch(webserver, feed, day, key, correlation_id)


def grant_refresh(
    runtime: Runtime, webserver: WebserverActions, feed: Feed, number: str, requester: reruns.Requester, reason: str
) -> tuple[str, str, dt.date]:
    """Record a refresh and launch its run; return the record's key, the run id and the date. RerunRefusedError."""
    correlation_id = new_correlation_id()
    key, day = refreshes.request_refresh(
        runtime,
        feed,
        number,
        requester,
        reason,
        under_way=lambda date: webserver.under_way(feed.name, date),
        mode=flag_values(feed, runtime.settings.env).mode,
        correlation_id=correlation_id,
    )
    return key, _launch(webserver, feed, day, key, correlation_id), day


def look_up(runtime: Runtime, number: str, requester: reruns.Requester, at: dt.datetime) -> str:
    """Record the look-up of a customer and return the page about it. RerunRefusedError if refused. ``at`` is UTC."""
    settings = runtime.settings
    record_lookup(runtime.store, number, requester, reruns.RerunPolicy.of(settings), settings.lookup_budget, at)
    get_logger().info("customer looked up", correlation_id=new_correlation_id())
    try:
        return disclosure_page(runtime.store, customer_history(runtime, FEEDS, number, now=at), at, hashes=False)
    except UnknownPortfolioError as error:
        raise BadRequestError(str(error)) from None


def _launch(webserver: WebserverActions, feed: Feed, day: dt.date, key: str, correlation_id: str) -> str:
    tags = {LAUNCHED_BY_TAG: reruns.LAUNCHED_BY, RERUN_TAG: key, CORRELATION_TAG: correlation_id}
    run_id = webserver.launch(feed.name, day, tags)
    get_logger().info(
        "support re-run", feed=feed.name, business_date=day.isoformat(), run_id=run_id, correlation_id=correlation_id
    )
    return run_id


def _offered(runtime: Runtime) -> dict[str, Feed]:
    # Feeds that customers receive are listed first.
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


def _require_same_origin(origins: Sequence[str], hosts: Sequence[str]) -> None:
    # The load balancer's cookie is sent with a form that another site posts; the Origin header distinguishes them.
    try:
        (origin,), (host,) = origins, hosts
        is_own = bool(host) and urlsplit(origin).netloc == host
    except ValueError:  # none, several, or not an address
        is_own = False
    if not is_own:
        raise BadRequestError("Form sent from another site: send it from this page")


async def _read_body(request: Request) -> bytes:
    # The announced length is checked before reading, the real one while reading.
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > _MAX_BODY:
        raise BadRequestError("the form is too large")
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise BadRequestError("the form is too large")
    except TimeoutError:
        raise SlowRequestError(f"The form did not arrive within {_BODY_SECONDS} seconds: send it again") from None
    return body


def _read_form(body: bytes, names: frozenset[str]) -> dict[str, str]:
    try:
        values = parse_qs(
            body.decode("utf-8"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=10
        )
    except (UnicodeDecodeError, ValueError):
        raise BadRequestError("not a form") from None
    if set(values) != names or any(len(value) != 1 for value in values.values()):
        raise BadRequestError(f"The form must have exactly {', '.join(sorted(names))}")
    return {name: value[0] for name, value in values.items()}


def _feed_of(fields: Mapping[str, str], feeds: Mapping[str, Feed]) -> Feed:
    if fields["feed"] not in feeds:
        raise BadRequestError(f"feeds that can be re-run: {', '.join(feeds)}")
    return feeds[fields["feed"]]


def _day_of(fields: Mapping[str, str]) -> dt.date:
    try:
        return dt.date.fromisoformat(fields["date"])
    except ValueError:
        raise BadRequestError("the date is written YYYY-MM-DD") from None


def _number_of(fields: Mapping[str, str]) -> str:
    number = fields["portfolio"].strip()
    if not reruns.is_number(number):
        raise BadRequestError("the portfolio number has letters, digits and . _ : -, at most 64")
    return number


def _in_words(day: dt.date) -> str:
    return f"{day:%A} {day.day} {day:%B %Y}"


def _page(title: str, parts: Sequence[str]) -> str:
    return html_page.page(title, parts, style=_FORM_STYLE)


def _form_page(feeds: Mapping[str, Feed], runtime: Runtime, now: dt.datetime) -> str:
    env = runtime.settings.env
    feed_options = "".join(
        f'<option value="{escape(name)}">{escape(feed.title.partition(":")[0])} '
        f"({'live' if is_live(feed, env) else 'not live'})</option>"
        for name, feed in feeds.items()
    )
    date_options = "".join(
        f'<option value="{day.isoformat()}">{_in_words(day)}</option>' for day in _dates(feeds, runtime, now)
    )
    return _page(
        "Run a business date again",
        [
            "<p>Safe at any time: nothing is delivered twice. Your name and the reason are recorded.</p>",
            f'<form method="post" action="{PATH}">',
            f'<label for="feed">Feed</label><select id="feed" name="feed">{feed_options}</select>',
            f'<label for="date">Business date</label><select id="date" name="date" required>{date_options}</select>',
            _reason("reason"),
            "<button>Run it again</button></form>",
            '<p class="soft">Another date or feed: page the on-call.</p>',
            "<h2>Send one portfolio in full</h2>",
            "<p>With the latest delivered business date. The customer must consent now.</p>",
            f'<form method="post" action="{REFRESH_PATH}">',
            f'<label for="refresh-feed">Feed</label><select id="refresh-feed" name="feed">{feed_options}</select>',
            _portfolio("refresh-portfolio"),
            _reason("refresh-reason"),
            "<button>Send it in full</button></form>",
            "<h2>Look up a customer</h2>",
            "<p>Consents, deliveries and holds. Your name and the portfolio are recorded.</p>",
            f'<form method="post" action="{CUSTOMER_PATH}">',
            _portfolio("customer-portfolio"),
            "<button>Look it up</button></form>",
        ],
    )


def _portfolio(name: str) -> str:
    return (
        f'<label for="{name}">Portfolio number</label><input id="{name}" name="portfolio" maxlength="64" required '
        'autocomplete="off">'
    )


def _reason(name: str) -> str:
    return (
        f'<label for="{name}">Reason</label><textarea id="{name}" name="reason" minlength="10" maxlength="500" '
        f'required aria-describedby="{name}-help"></textarea>'
        f'<p class="soft" id="{name}-help">10 to 500 characters on one line. Leave out names, e-mail addresses and '
        "account numbers.</p>"
    )


def _answer_page(ui_url: str | None, what: str, run_id: str, key: str) -> str:
    run = f"<code>{escape(run_id)}</code>"
    link = ""
    if ui_url:
        address = escape(f"{ui_url.rstrip('/')}/runs/{run_id}")
        link = f'<p><a class="button" href="{address}">Open the run</a></p>'
    return _page(
        "The run has started",
        [
            f'<p class="verdict good" role="status"><b>started</b> <span>{escape(what)}</span></p>',
            link,
            f"<p>Run {run}, recorded as <code>{escape(key)}</code>.</p>",
            f'<p><a href="{PATH}">Back to the forms</a></p>',
        ],
    )


def _refusal_page(text: str) -> str:
    return _page(
        "Nothing was done",
        [
            f'<p class="verdict error" role="alert"><b>Refused:</b> <span>{escape(text)}</span></p>',
            f'<p><a href="{PATH}">Back to the forms</a></p>',
        ],
    )


def serve(app: Starlette, host: str, port: int) -> None:  # pragma: no cover - in a process of its own
    """Serve the application until stopped."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, access_log=False)


def main() -> None:  # pragma: no cover - a process of its own; its parts are tested
    """Serve the page until stopped."""
    require_extra("The support door", "production", "jwt")
    keep_private()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    runtime = Runtime()
    logs.configure(runtime.settings.log_format)
    telemetry.start(runtime.settings)
    url = runtime.settings.operate_url
    if url is None:
        raise SystemExit("CLASSFEED_OPERATE_URL is not set: set it to the writable webserver that starts runs")
    start_flags(runtime.settings, FEEDS)
    webserver = WebserverActions(
        lambda feed, day: webserver_client.under_way(url, feed, day),
        lambda feed, day, tags: webserver_client.launch(url, feed, day, tags),
    )
    keys = keys_of(os.environ.get("AWS_REGION", "ap-southeast-2"))
    app = application(runtime, webserver, keys, lambda: dt.datetime.now(dt.UTC))
    serve(app, "0.0.0.0", parser.parse_args().port)  # noqa: S104 - in a container


if __name__ == "__main__":  # pragma: no cover
    main()
