"""HTML record of the disclosures of one customer's data, with the hashes that prove it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from classfeed_dagster.html_page import escape, facts, page, table
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import stored_facts
from classfeed_dagster.support.customer import CustomerFeed, CustomerHistory, Disclosure, consent_rows, instant_text

_ZONE = " UTC"


def disclosure_page(store: ObjectStore, history: CustomerHistory, now: dt.datetime, *, hashes: bool = True) -> str:
    """Return the record of disclosures: per feed the consents, and every listed delivery with its manifest.

    ``hashes``: with the SHA-256 of each manifest, which is read for it. ``now`` is UTC. The page states the
    portfolio's number and no other personal data.
    """
    since = "no business date" if history.since is None else history.since.isoformat()
    parts = [
        facts(
            [("Portfolio", history.portfolio_number), ("Listed since", since), ("Made at", instant_text(now, _ZONE))]
        ),
        *(part for feed in history.feeds for part in _feed_parts(feed, store if hashes else None)),
    ]
    about = (
        "Each delivery is named by its manifest, which holds the hashes of its files. The manifests form a chain: "
        "classfeed verify proves that none is missing or changed."
    )
    return page(f"Disclosures of {history.portfolio_number}", parts, about)


def _feed_parts(feed: CustomerFeed, store: ObjectStore | None) -> Iterator[str]:
    yield f"<h2>{escape(feed.feed)} to {escape(feed.recipient)}</h2>"
    yield f"<p>{escape(feed.answer)}</p>"
    yield facts(
        [
            ("First in full", _first(feed)),
            ("Next run", "none" if feed.next_at is None else instant_text(feed.next_at, _ZONE)),
            ("Sharing ends", "no date set" if feed.ends_at is None else instant_text(feed.ends_at, _ZONE)),
            ("Notice of the end", "none yet" if feed.noticed_on is None else feed.noticed_on.isoformat()),
        ]
    )
    if feed.consents:
        yield _consents(feed)
    live = [disclosure for disclosure in feed.disclosures if not disclosure.shadow]
    if live:
        yield _deliveries(feed, live, store)
    else:
        yield f"<p>No data of this customer was delivered to {escape(feed.recipient)} by this feed.</p>"


def _consents(feed: CustomerFeed) -> str:
    return table(
        f"Consents of {feed.feed}",
        ["consent", "granted", "expires", "withdrawn", "history from"],
        consent_rows(feed, _ZONE),
    )


def _deliveries(feed: CustomerFeed, live: Sequence[Disclosure], store: ObjectStore | None) -> str:
    proof = "manifest" if store is None else "manifest's SHA-256"
    return table(
        f"Deliveries of {feed.feed} to {feed.recipient}",
        ["business date", "revision", "change", "extract", "fund at the recipient", "consents", "arrival", proof],
        [
            (
                disclosure.business_date.isoformat(),
                disclosure.revision,
                disclosure.change,
                disclosure.extract,
                disclosure.recipient_reference,
                ", ".join(map(str, disclosure.consent_ids)),
                disclosure.arrival,
                disclosure.manifest if store is None else stored_facts(store, disclosure.manifest)[1],
            )
            for disclosure in live
        ],
        numeric=(1,),
    )


def _first(feed: CustomerFeed) -> str:
    first = feed.first_in_full
    return "not yet" if first is None else f"{first.business_date.isoformat()}, revision {first.revision}"
