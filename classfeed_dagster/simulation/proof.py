"""Proof of a rehearsal: the deliveries, added up as the recipient does, against the customers' own books."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import polars as pl

from classfeed_dagster.delivery.delivery_history import date_status
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.delivery.verify import verify_feed
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.simulation.recipient import Books, DeliveredPage, load
from classfeed_dagster.store import ObjectStore

if TYPE_CHECKING:
    from classfeed_dagster.simulation.books import CustomersBooks
    from classfeed_dagster.simulation.world import World

Position = tuple[str, str, str]  # portfolio number; exchange and ISIN, or account number and currency


@dataclass(frozen=True, slots=True)
class Proof:
    """A required property of the deliveries, and its truth."""

    statement: str
    holds: bool


def delivered_pages(store: ObjectStore, feed: Feed, dates: Iterable[dt.date]) -> Iterator[DeliveredPage]:
    """Yield every page delivered for some dates, in the order of delivery."""
    manifests = [manifest for day in dates for manifest in delivered_state(store, feed.name, day).deliveries]
    for manifest in sorted(manifests, key=lambda each: each.chain_position):
        for page in manifest.pages:
            with store.local_file(page.key) as path:
                yield DeliveredPage(manifest.business_date, manifest.revision, feed.format.read(path))


def prove(store: ObjectStore, feed: Feed, world: World, last: dt.date, pages: Sequence[DeliveredPage]) -> list[Proof]:
    """Return the proofs over ``pages``, all pages delivered up to ``last``, and over the chain of manifests."""
    return [_documents(store, feed), *prove_books(store, feed, world, last, pages)]


def prove_books(
    store: ObjectStore, feed: Feed, world: World, last: dt.date, pages: Sequence[DeliveredPage]
) -> list[Proof]:
    """Return the proofs over the content of ``pages``: consent and sums."""
    books = load(pages, last)
    # A portfolio held back has a prefix of its history at the recipient: correct, but not up to date.
    complete = set(books.portfolios) - _behind(store, feed, last)
    return [
        _only_consented(world, pages),
        _all_consented(store, feed, world, last, pages),
        _agrees(
            "movements sent add up to the customers' own books",
            _sums(books, "loaded", complete),
            _own(world.books(last), complete),
        ),
        _agrees(
            "holdings and balances sent equal the customers' own books",
            _sums(books, "stated", complete),
            _own(world.books(last, known_before=world.end_of_day(last)), complete),
        ),
        _balanced(world, books, last, complete),
    ]


def _documents(store: ObjectStore, feed: Feed) -> Proof:
    verification = verify_feed(store, feed.name, feed.format)
    return Proof(
        f"{verification.pages} documents are valid, hashes and control totals agree, and {verification.manifests} "
        "manifests form an unbroken chain",
        verification.sound,
    )


def _only_consented(world: World, pages: Sequence[DeliveredPage]) -> Proof:
    strangers: set[str] = set()
    sent: set[str] = set()
    for page in pages:
        accounts = page.frames["accounts"]
        inside = set(accounts.filter(pl.col("consent") != "REMOVED")["portfolio_number"])
        strangers |= inside - world.sharing(page.business_date)
        sent |= inside
    return Proof(f"{len(sent)} portfolios were sent, each with consent on its date", not strangers)


def _all_consented(
    store: ObjectStore, feed: Feed, world: World, last: dt.date, pages: Sequence[DeliveredPage]
) -> Proof:
    sent = {
        number
        for page in pages
        if page.business_date == last
        for number in page.frames["accounts"].filter(pl.col("consent") != "REMOVED")["portfolio_number"]
    }
    behind = _behind(store, feed, last)
    missing = world.sharing(last) - sent - behind
    held_back = f", {len(behind)} of them held back with a reason" if behind else ""
    return Proof(
        f"{len(world.sharing(last))} portfolios share on {last}{held_back}, and all others were sent", not missing
    )


def _behind(store: ObjectStore, feed: Feed, last: dt.date) -> set[str]:
    status = date_status(store, feed.name, last)
    return {entry.number for entry in status.held_back} | {entry.number for entry in status.quarantined}


def _agrees(statement: str, actual: Mapping[Position, Decimal], expected: Mapping[Position, Decimal]) -> Proof:
    return Proof(f"{statement} ({len(expected)} holdings and accounts)", actual == expected)


def _balanced(world: World, books: Books, last: dt.date, complete: set[str]) -> Proof:
    # Movements are sent up to the cut-off. bigsite's end of day runs later and may include more rows, which are sent
    # with the next date. Everything else must balance.
    at_cutoff = _own(world.books(last), complete)
    at_end_of_day = _own(world.books(last, known_before=world.end_of_day(last)), complete)
    late = {key for key in {*at_cutoff, *at_end_of_day} if at_cutoff.get(key) != at_end_of_day.get(key)}
    loaded, stated = _sums(books, "loaded", complete), _sums(books, "stated", complete)
    apart = {key for key in {*loaded, *stated} if loaded.get(key) != stated.get(key)}
    after = "holdings and balances with rows recorded after the cut-off, which are sent with the next date"
    waiting = f"; {after}: {len(late)}" if late else ""
    return Proof(
        f"{len(complete)} portfolios' movements add up to their holdings and balances on {last}{waiting}", apart == late
    )


def _sums(books: Books, side: str, portfolios: set[str]) -> dict[Position, Decimal]:
    units = books.units.select("portfolio_number", "exchange", "security", side)
    cash = books.cash.select("portfolio_number", "account_number", "currency", side)
    return {
        (number, where, what): value
        for number, where, what, value in (*units.iter_rows(), *cash.iter_rows())
        if value and number in portfolios
    }


def _own(books: CustomersBooks, portfolios: set[str]) -> dict[Position, Decimal]:
    return {key: value for key, value in {**books.units, **books.cash}.items() if key[0] in portfolios}
