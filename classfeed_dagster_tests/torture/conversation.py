"""Sending and answers in a process that may die: what the victims do, and what must be equal afterwards.

Files are sent to an HTTP endpoint in the attacking process, which outlives its victims.
"""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3

from classfeed_dagster.acknowledgements.inbox import read_inbox
from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.simulation.recipient_answers import AnswerFault, put_answers
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.transmission.destination import HttpsUpload
from classfeed_dagster.transmission.send import ConsentEndedError, Transmission, awaiting_reissue
from classfeed_dagster_tests.fixtures.delivery_pipeline import ASKED_AT, AUDIENCE, DAY1, FEED, Day, deliver, simple
from classfeed_dagster_tests.fixtures.upload_server import Upload
from classfeed_dagster_tests.torture.deaths import Reaper

_MAPPING = AnswerMapping()
upload_url = ""  # of the victim's store, set before it works


@contextmanager
def endpoint() -> Iterator[str]:
    """Run the recipient's endpoint; yield its address."""
    Upload.files, Upload.status, Upload.stated = {}, 201, None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upload)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def wire_uploads(reaper: Reaper) -> None:
    """Make each upload a point of death: before it, and after it arrived but before its answer."""
    request = urllib3.PoolManager.request

    def mortal(*args: Any, **kwargs: Any) -> Any:
        reaper.point("before an upload")
        answer = request(*args, **kwargs)
        reaper.point("after an upload")
        return answer

    urllib3.PoolManager.request = mortal  # type: ignore[method-assign]


def _transmission(store: ObjectStore, day: Day) -> Transmission:
    return Transmission(
        store, FEED, day.date, HttpsUpload(upload_url), AUDIENCE, {}, lambda: day.consenting, lambda: ASKED_AT, "try-1"
    )


def send(store: ObjectStore) -> None:
    """Send a delivered date."""
    _transmission(store, simple()).send()


def send_after_consent_ended(store: ObjectStore) -> None:
    """Send a delivered date without the portfolio whose consent ended since."""
    day = simple().without("P2")
    for _ in range(2):
        if awaiting_reissue(store, FEED, DAY1) - {"P2"}:
            deliver(store, day)
        try:
            _transmission(store, day).send()
        except ConsentEndedError:
            continue


def answered(store: ObjectStore) -> None:
    """Deliver a date whose recipient answered with every fault."""
    deliver(store, simple())
    _answer(store)


def converse(store: ObjectStore) -> None:
    """Send a delivered date, let the recipient answer, and read the answers."""
    send(store)
    _answer(store)
    read_answers(store)


def _answer(store: ObjectStore) -> None:
    for manifest in delivered_state(store, FEED, DAY1).deliveries:
        for page in manifest.pages:
            put_answers(store, manifest, page, _MAPPING, faults=set(AnswerFault))


def read_answers(store: ObjectStore) -> None:
    """Read the inbox."""
    read_inbox(store, FEED, _MAPPING, ASKED_AT)


def conversation(store: ObjectStore, path: str) -> object:
    """Return what was sent and kept. ``path`` is that of the store's uploads."""
    records = {
        key: {
            name: value for name, value in json.loads(store.read(key)).items() if name not in ("answer", "destination")
        }
        for prefix in (f"transmitted/{FEED}/", f"acknowledged/{FEED}/")
        for key in store.list(prefix)
        if not key.endswith(".part")
    }
    contents = sorted(key for key in store.list(f"acknowledged-content/{FEED}/") if not key.endswith(".part"))
    return records, contents, _uploads(path)


def uploaded(path: str) -> Counter[bytes]:
    """Return the records of portfolios that the recipient has, with the number of files that hold each."""
    lines: Counter[bytes] = Counter()
    for body in _uploads(path).values():
        lines.update(set(gzip.decompress(body).splitlines()))
    return lines


def _uploads(path: str) -> dict[str, bytes]:
    start = f"/{path}/"
    return {name.removeprefix(start): body for name, (body, _) in list(Upload.files.items()) if name.startswith(start)}
