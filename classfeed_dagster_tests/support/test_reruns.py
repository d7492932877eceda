"""The support door: what it grants, what it refuses, and that every request is on record."""

from __future__ import annotations

import asyncio
import datetime as dt
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import graphql
import jwt
import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dagster_graphql.schema import create_schema

from classfeed_dagster.errors import StoreError
from classfeed_dagster.feeds.class_super import FEED
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.settings import Settings
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.support import webserver_client as operate
from classfeed_dagster.support.alb_identity import HEADER, NotIdentifiedError, identify, keys_of
from classfeed_dagster.support.rerun_page import WebserverActions, application
from classfeed_dagster.support.reruns import (
    Requester,
    RerunPolicy,
    RerunRefusedError,
    RerunRequest,
    request_rerun,
    requests,
)

FIRST = dt.date(2026, 3, 2)
DAY = dt.date(2026, 3, 4)
NOW = dt.datetime(2026, 3, 5, 0, 0, tzinfo=dt.UTC)  # 11:00 in Sydney
PAT = Requester("pat", frozenset({"classfeed-support"}))
REASON = "the recipient says that the file of today is missing"
SIGNER = "arn:aws:elasticloadbalancing:ap-southeast-2:444455556666:loadbalancer/app/classfeed-prod-web/"
KEY_ID = "11111111-2222-3333-4444-555555555555"


def ask(
    store: ObjectStore, day: dt.date = DAY, who: Requester = PAT, reason: str = REASON, **options: Any
) -> RerunRequest:
    rules = RerunPolicy("classfeed-support", 3, frozenset({"class_super"}))
    defaults: dict[str, Any] = {"at": NOW, "under_way": lambda: False, "correlation_id": "c" * 32, "rules": rules}
    return request_rerun(store, FEED, FIRST, day, who, reason, **(defaults | options))[1]


def test_granted_request_is_recorded_with_person_and_reason(store: ObjectStore) -> None:
    granted = ask(store)
    assert granted == requests(store, "class_super")[0]
    assert (granted.requested_by, granted.business_date, granted.reason) == ("pat", DAY, REASON)
    assert granted.outcome == "ACCEPTED"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"who": Requester("pat", frozenset({"analysts"}))}, "only members of classfeed-support"),
        ({"who": Requester("", frozenset({"classfeed-support"}))}, "only members"),
        ({"who": Requester("pat\nroot", frozenset({"classfeed-support"}))}, "only members"),
        ({"reason": "because"}, "a reason of 10 to 500"),
        ({"reason": "x" * 501}, "a reason of 10 to 500"),
        ({"reason": "two lines\nof a reason"}, "on one line"),
        ({"reason": "asked by jo.citizen@example.com today"}, "leave it out"),
        ({"reason": "account 062-000 1234 5678 is missing"}, "leave it out"),
        ({"day": dt.date(2026, 3, 7)}, "not a date of class_super"),
        ({"day": dt.date(2026, 2, 27)}, "not a date of class_super"),
        ({"day": dt.date(2026, 3, 5)}, "not due yet"),
        ({"under_way": lambda: True}, "is in progress"),
        ({"rules": RerunPolicy("classfeed-support", 3, frozenset({"class_cash"}))}, "only class_cash"),
    ],
)
def test_refused_request_is_recorded(local_store: ObjectStore, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RerunRefusedError, match=says):
        ask(local_store, **options)
    (record,) = requests(local_store, "class_super")
    assert record.outcome == "REFUSED"
    assert says in (record.refusal or "")
    assert "@example" not in record.model_dump_json()
    assert "1234" not in record.model_dump_json()


def test_budget_covers_a_day_without_refusals(local_store: ObjectStore) -> None:
    for _ in range(2):
        with pytest.raises(RerunRefusedError):
            ask(local_store, reason="short")
    for _ in range(3):
        ask(local_store)
    with pytest.raises(RerunRefusedError, match="which is the limit"):
        ask(local_store)
    assert ask(local_store, at=NOW + dt.timedelta(hours=24, seconds=1)).outcome == "ACCEPTED"


def test_refusals_take_no_number_and_do_not_fill_the_store(local_store: ObjectStore) -> None:
    for minute in range(40):
        with pytest.raises(RerunRefusedError):
            ask(local_store, reason="short", at=NOW + dt.timedelta(minutes=minute))
    ask(local_store, at=NOW + dt.timedelta(minutes=50))
    assert list(local_store.list("reruns/class_super/")) == ["reruns/class_super/00000001.json"]
    assert len(list(local_store.list("reruns/"))) == 2
    assert [item.outcome for item in requests(local_store, "class_super")] == ["REFUSED", "ACCEPTED"]


def test_racing_requests_cannot_overdraw_the_budget(local_store: ObjectStore) -> None:
    def one(_: int) -> bool:
        try:
            ask(local_store)
        except RerunRefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(one, range(8)))
    assert sum(granted) == 3
    outcomes = [item.outcome for item in requests(local_store, "class_super")]
    assert sorted(outcomes) == ["ACCEPTED"] * 3 + ["REFUSED"]


def test_store_that_always_conflicts_is_an_error(local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_store, "create", lambda *_, **__: False)
    with pytest.raises(Exception, match="request it again"):
        ask(local_store)


# The page.

_SECRET = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = _SECRET.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
).decode()  # fmt: skip


def signed(
    groups: object = ("classfeed-support",), *, signer: str = f"{SIGNER}abc", secret: Any = _SECRET, **claims: Any
) -> str:
    body = {
        "preferred_username": "pat",
        "groups": list(groups) if isinstance(groups, tuple) else groups,
        "exp": 4_000_000_000,
    } | claims
    return jwt.encode(body, secret, "ES256", headers={"kid": KEY_ID, "signer": signer})


@dataclass
class Answer:
    status_code: int
    text: str
    headers: dict[str, str]


class Page:
    """Asks the application as a server would."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: str | bytes = b"",
        receive: Any = None,
    ) -> Answer:
        sent: list[dict[str, Any]] = []
        body = content.encode() if isinstance(content, str) else content
        lines = {"host": "classfeed.broker.example"} | dict(headers or {})
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
            "scheme": "https", "server": ("classfeed.broker.example", 443), "client": ("10.0.0.1", 1), "root_path": "",
            "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip

        async def whole() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive or whole, send))
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], b"".join(record.get("body", b"") for record in sent[1:]).decode(), answered)


class Webserver:
    """Fake of the writable webserver that records the requested starts."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dt.date, dict[str, str]]] = []
        self.error: Exception | None = None

    def launch(self, feed: str, day: dt.date, tags: Any) -> str:
        if self.error:
            raise self.error
        self.started.append((feed, day, dict(tags)))
        return "run-1"


@pytest.fixture
def webserver() -> Webserver:
    return Webserver()


@pytest.fixture
def page(tmp_path: Any, webserver: Webserver) -> Page:
    settings = Settings(store_url=str(tmp_path), first_business_date=FIRST, door_signer=SIGNER)
    app = application(
        Runtime(settings), WebserverActions(lambda *_: False, webserver.launch), lambda _: PUBLIC_KEY, lambda: NOW
    )
    return Page(app)


def post(
    page: Page,
    token: str | None = None,
    *,
    origin: str | None = "https://classfeed.broker.example",
    body: Any = None,
    **fields: str,
) -> Any:
    form = {"feed": "class_super", "date": "2026-03-04", "reason": REASON} | fields
    headers = {HEADER: token or signed()} | ({"origin": origin} if origin else {})
    return page.request("POST", "/rerun", content=body if body is not None else urlencode(form), headers=headers)


def test_page_starts_the_date_with_the_record_in_the_tags(page: Page, webserver: Webserver) -> None:
    answer = post(page)
    assert answer.status_code == 202, answer.text
    ((feed, day, tags),) = webserver.started
    assert (feed, day) == ("class_super", DAY)
    assert tags["classfeed/launched_by"] == "support"
    assert tags["classfeed/rerun"] == "reruns/class_super/00000001.json"
    assert "pat" not in json.dumps(tags)


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 401),
        ("nonsense", 401),
        (signed(secret=ec.generate_private_key(ec.SECP256R1())), 401),
        (signed(signer="arn:aws:elasticloadbalancing:ap-southeast-2:999999999999:loadbalancer/app/other/1"), 401),
        (signed(exp=1), 401),
        (
            jwt.encode(
                {"groups": ["classfeed-support"]}, "k" * 32, "HS256", headers={"kid": KEY_ID, "signer": f"{SIGNER}a"}
            ),
            401,
        ),
        (jwt.encode({"exp": 4_000_000_000}, _SECRET, "ES256", headers={"kid": "../../x", "signer": f"{SIGNER}a"}), 401),
        (signed(("analysts",)), 403),
        (signed("classfeed-support"), 403),
        (signed(preferred_username="", sub=""), 403),
    ],
)
def test_unauthorised_person_starts_no_run(page: Page, webserver: Webserver, token: str, status: int) -> None:
    assert post(page, token or " ").status_code == status
    assert webserver.started == []


def test_identity_with_two_headers_or_no_signer_is_refused() -> None:
    for headers, signer in (([signed(), signed()], SIGNER), ([], SIGNER), ([signed()], "")):
        with pytest.raises(NotIdentifiedError):
            identify(headers, signer, lambda _: PUBLIC_KEY)


@pytest.mark.parametrize(
    "options",
    [
        {"origin": "https://evil.example"},
        {"origin": None},
        {"fresh_snapshot": "true"},
        {"run_config": "{}"},
        {"feed": "every_feed"},
        {"date": "yesterday"},
        {"body": b"\xff=1"},
        {"body": b"x" * 5000},
        {"body": b"feed=a&feed=b&date=2026-03-04&reason=x"},
        {"body": b""},
    ],
)
def test_rerun_request_other_than_the_form_is_refused(
    page: Page, webserver: Webserver, options: dict[str, Any]
) -> None:
    assert post(page, **options).status_code == 400
    assert webserver.started == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/rerun", "/graphql", "/operate/graphql", "/release", "/"])
def test_other_mutations_are_refused(page: Page, webserver: Webserver, method: str, path: str) -> None:
    assert page.request(method, path, headers={HEADER: signed()}).status_code in (404, 405)
    if path != "/rerun":
        assert page.request("POST", path, content=b"{}", headers={HEADER: signed()}).status_code == 404
    assert webserver.started == []


def test_form_is_shown_to_signed_in_users_only(page: Page) -> None:
    assert page.request("GET", "/rerun").status_code == 401
    answer = page.request("GET", "/rerun", headers={HEADER: signed()})
    assert answer.status_code == 200
    assert "class_super" in answer.text
    assert "'none'" in answer.headers["content-security-policy"]
    assert page.request("GET", "/health").status_code == 200


@pytest.mark.parametrize(
    "error", [operate.OperateError("down"), StoreError("down"), EndpointConnectionError(endpoint_url="https://secret")]
)
def test_launch_failure_is_reported_without_detail(page: Page, webserver: Webserver, error: Exception) -> None:
    webserver.error = error
    answer = post(page)
    assert answer.status_code == 502
    assert "page the on-call" in answer.text
    assert "secret" not in answer.text


def test_form_offers_allowed_feeds_and_due_business_dates(page: Page) -> None:
    answer = page.request("GET", "/rerun", headers={HEADER: signed()}).text
    offered = re.findall(r'<option value="([^"]+)">([^<]+)<', answer)
    assert [(value, text.rpartition("(")[2]) for value, text in offered[:2]] == [
        ("class_super", "live)"),
        ("class_cash", "not live)"),
    ]
    # The fourth is due on the morning of the fifth; the fifth is not due yet.
    assert [value for value, _ in offered[2:5]] == ["2026-03-04", "2026-03-03", "2026-03-02"]


def test_feed_that_is_not_offered_cannot_be_posted(page: Page, webserver: Webserver, tmp_path: Any) -> None:
    answer = post(page, feed="class_trade")
    assert answer.status_code == 400
    assert "class_super, class_cash" in answer.text
    assert webserver.started == []
    assert not (tmp_path / "reruns").exists()


def test_unknown_feed_in_the_setting_is_an_error(tmp_path: Any, webserver: Webserver) -> None:
    settings = Settings(store_url=str(tmp_path), rerun_feeds="class_super,class_sooper")
    with pytest.raises(Exception, match="CLASSFEED_RERUN_FEEDS names unknown feeds class_sooper"):
        application(
            Runtime(settings), WebserverActions(lambda *_: False, webserver.launch), lambda _: PUBLIC_KEY, lambda: NOW
        )


def test_rerun_answer_links_to_the_run_and_back(tmp_path: Any, webserver: Webserver) -> None:
    settings = Settings(
        store_url=str(tmp_path), first_business_date=FIRST, door_signer=SIGNER, ui_url="https://classfeed.example/"
    )
    actions = WebserverActions(lambda *_: False, webserver.launch)
    page = Page(application(Runtime(settings), actions, lambda _: PUBLIC_KEY, lambda: NOW))
    answer = post(page)
    assert 'href="https://classfeed.example/runs/run-1"' in answer.text
    refused = post(page, reason="short")
    for text in (answer.text, refused.text):
        assert 'href="/rerun"' in text


@pytest.mark.parametrize("announced", [None, "99999999", "-1", "many"])
def test_large_body_is_refused_before_it_is_read(page: Page, announced: str | None) -> None:
    chunks = 0

    async def receive() -> dict[str, Any]:
        nonlocal chunks
        chunks += 1
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}  # never ends

    headers = {HEADER: signed(), "origin": "https://classfeed.broker.example"}
    headers |= {} if announced is None else {"content-length": announced}
    assert page.request("POST", "/rerun", headers, receive=receive).status_code == 400
    assert chunks <= (0 if announced else 5)


# Through the webserver.


@pytest.fixture
def graphql_server() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    query: list[dict[str, Any]] = []
    answer: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer["raw"] if "raw" in answer else json.dumps({"data": answer}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/operate", query, answer
    server.shutdown()
    server.server_close()


def test_launching_names_the_job_the_date_and_no_configuration(graphql_server: Any) -> None:
    url, query, answer = graphql_server
    answer["launchRun"] = {"__typename": "LaunchRunSuccess", "run": {"runId": "r1"}}
    assert operate.launch(url, "class_super", DAY, {"classfeed/rerun": "k"}) == "r1"
    params = query[0]["variables"]["params"]
    assert query[0]["path"] == "/operate/graphql"
    assert params["selector"]["pipelineName"] == "class_super_job"
    assert params["runConfigData"] == {}
    assert {"key": "dagster/partition", "value": "2026-03-04"} in params["executionMetadata"]["tags"]


@pytest.mark.parametrize(("results", "busy"), [([], False), ([{"runId": "r"}], True)])
def test_run_in_progress_is_detected(graphql_server: Any, results: list[Any], busy: bool) -> None:
    url, query, answer = graphql_server
    answer["runsOrError"] = {"__typename": "Runs", "results": results}
    assert operate.under_way(url, "class_super", DAY) is busy
    assert query[0]["variables"]["filter"]["pipelineName"] == "class_super_job"


@pytest.mark.parametrize(
    "answer_", [{"launchRun": {"__typename": "PythonError", "message": "secret detail"}}, {}, {"raw": b"<html>"}]
)
def test_webserver_refusal_is_an_error_without_detail(graphql_server: Any, answer_: dict[str, Any]) -> None:
    url, _, answer = graphql_server
    answer |= answer_
    with pytest.raises(operate.OperateError) as caught:
        operate.launch(url, "class_super", DAY, {})
    assert "secret detail" not in str(caught.value)


def test_unreachable_webserver_is_an_error() -> None:
    with pytest.raises(operate.OperateError, match="did not answer"):
        operate.under_way("http://127.0.0.1:9", "class_super", DAY)


def test_queries_are_valid_in_dagsters_schema() -> None:
    schema = create_schema().graphql_schema
    for question in (operate.UNDER_WAY, operate.LAUNCH):
        assert graphql.validate(schema, graphql.parse(question)) == []


def test_signing_key_is_fetched_once_from_the_alb_region(monkeypatch: pytest.MonkeyPatch) -> None:
    query: list[str] = []

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        query.append(address)
        return io.BytesIO(PUBLIC_KEY.encode())

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    keys = keys_of("ap-southeast-2")
    assert keys(KEY_ID) == keys(KEY_ID) == PUBLIC_KEY
    assert query == [f"https://public-keys.auth.elb.ap-southeast-2.amazonaws.com/{KEY_ID}"]
