"""One customer's feeds: consents, deliveries, holds and the next delivery, for support and for a privacy officer.

Deliveries are read from the portfolio files of the delivered ledger, never from documents. Nothing here contains a
name, an account number or a figure. The record has consents given, amended and withdrawn, and the disclosures made
under them, following rule 9.3 of the Competition and Consumer (Consumer Data Right) Rules 2020.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from classfeed_dagster.acknowledgements.inbox import acknowledgements
from classfeed_dagster.acknowledgements.mapping import RecordState
from classfeed_dagster.bigsite.consent import Consent, consent_query, consents_from, standings
from classfeed_dagster.bigsite.portfolio_number import require_portfolio
from classfeed_dagster.bigsite.tables import portfolio
from classfeed_dagster.delivery.delivery_history import latest_date
from classfeed_dagster.delivery.feed_mode import FeedMode, shadow_key
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.delivery.state import withheld_key
from classfeed_dagster.domains.rules import LEDGER_RULES, RULES
from classfeed_dagster.errors import DataError
from classfeed_dagster.feed_run.expiry_notices import latest_notice, sharing_end
from classfeed_dagster.feed_run.flags import flag_values
from classfeed_dagster.ledger.files import ledger_prefix
from classfeed_dagster.service_levels.service_levels import due, latest_due
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import find_record, manifest_key, quarantine_key
from classfeed_dagster.support.portfolio_search import PortfolioSearch, switches_of
from classfeed_dagster.trading_days import SYDNEY, cutoff
from classfeed_dagster.transmission.send import receipt_key

if TYPE_CHECKING:
    import polars as pl

    from classfeed_dagster.feeds.feed import Feed
    from classfeed_dagster.feeds.portfolios import Portfolios
    from classfeed_dagster.runtime import Runtime

_READERS = 8  # dates read at the same time
_SEARCHED_DATES = 10  # dates searched for the first delivery in full
_NOT_SENT = "not sent yet"
_PART = re.compile(r"r(\d+)/(\w+)-(\d+)\.parquet")
_EARLIEST, _LATEST = dt.datetime(1901, 1, 1, tzinfo=dt.UTC), dt.datetime(9998, 1, 1, tzinfo=dt.UTC)
_TITLES = {rule.name: rule.title for rule in RULES} | {rule.name: rule.title for rule in LEDGER_RULES}


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One delivery of the portfolio to a recipient."""

    business_date: dt.date
    revision: int
    shadow: bool  # delivered to the shadow: the recipient did not receive it
    change: str
    extract: str
    recipient_reference: str
    history_from: dt.date | None
    consent_ids: tuple[int, ...]
    arrival: str  # sending and the recipient's answer, in words; empty if the feed has neither
    manifest: str  # key of the manifest, which the feed's chain names by its hash


@dataclass(frozen=True, slots=True)
class HeldBackDate:
    """One business date on which the portfolio was held back."""

    business_date: dt.date
    kind: str
    explanation: str  # for the customer
    since: dt.datetime
    released_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class CustomerFeed:
    """One feed of one customer."""

    feed: str
    recipient: str
    mode: str
    answer: str  # whether the recipient has the business date's data, and if not why
    business_date: dt.date
    next_at: dt.datetime | None  # start of the next run, UTC; None without consent or while the feed is off
    ends_at: dt.datetime | None  # end of the last active consent, UTC; None without consent or without an end
    noticed_on: dt.date | None  # date of the latest notice of that end to the broker's systems
    consents: tuple[Consent, ...]
    first_in_full: Disclosure | None  # the first delivery in full, whether listed or not
    disclosures: tuple[Disclosure, ...]  # newest first
    held_back: tuple[HeldBackDate, ...]  # newest first


@dataclass(frozen=True, slots=True)
class CustomerHistory:
    """Consents, deliveries and holds of one portfolio, for support."""

    portfolio_number: str
    since: dt.date | None
    feeds: tuple[CustomerFeed, ...]


def customer_history(
    runtime: Runtime,
    feeds: Iterable[Feed],
    number: str,
    *,
    now: dt.datetime,
    on: dt.date | None = None,
    dates: int | None = 20,
) -> CustomerHistory:
    """Return the history of one portfolio in ``feeds``.

    ``on``: the business date that the answer is about; default: the latest date that is due at ``now`` (UTC).
    ``dates``: number of latest delivered dates that are listed; None: all. Raises UnknownPortfolioError,
    and SourceReadError if bigsite cannot be reached.
    """
    feeds = tuple(feeds)
    _, consents = portfolio_consents(runtime, number, sorted({feed.recipient for feed in feeds}))
    histories = tuple(_feed_history(runtime, feed, number, consents, now, on, dates) for feed in feeds)
    disclosed = [entry.business_date for history in histories for entry in history.disclosures]
    return CustomerHistory(number, min(disclosed, default=None), histories)


def consent_rows(feed: CustomerFeed, zone: str = "") -> list[tuple[str, ...]]:
    """Return a row per consent: id, granted, expires, revoked, start of the history. ``zone`` follows each time."""
    return [
        (
            str(consent.consent_id),
            instant_text(consent.granted_at, zone),
            instant_text(consent.expires_at, zone),
            instant_text(consent.revoked_at, zone),
            "all" if consent.history_from is None else consent.history_from.isoformat(),
        )
        for consent in feed.consents
    ]


def instant_text(at: dt.datetime | None, zone: str = "") -> str:
    """Return a time in UTC to the minute, or nothing."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}{zone}"


def portfolio_consents(runtime: Runtime, number: str, recipients: Sequence[str]) -> tuple[dt.datetime, list[Consent]]:
    """Return the present (UTC, by bigsite's clock or the rehearsal's) and every consent of a portfolio.

    Raise UnknownPortfolioError, and SourceReadError if bigsite cannot be reached.
    """
    runtime.require_bigsite()
    with runtime.engine.connect() as connection:
        portfolio_id = require_portfolio(connection, number)
        query = consent_query(recipients, _EARLIEST, _LATEST).where(portfolio.c.portfolio_id == portfolio_id)
        now = runtime.settings.now or connection.execute(sa.select(sa.func.current_timestamp())).scalar_one()
        return now.astimezone(dt.UTC), consents_from(connection.execute(query).all())


def _feed_history(
    runtime: Runtime,
    feed: Feed,
    number: str,
    consents: Sequence[Consent],
    now: dt.datetime,
    on: dt.date | None,
    dates: int | None,
) -> CustomerFeed:
    audience = feed.audience(runtime.settings.first_business_date)
    mode = flag_values(feed, runtime.settings.env).mode
    of_recipient = tuple(consent for consent in consents if consent.recipient == feed.recipient)
    last_due = latest_due(feed, audience, now, 1)
    last = last_due[-1].business_date if last_due else None
    latest = latest_date(runtime.store, feed.name)
    delivered = audience.dates_between(audience.first_business_date, latest) if latest else []
    listed = delivered if dates is None else delivered[-dates:]
    day = on or last or audience.first_business_date
    newest, *others = sorted({*listed, day}, reverse=True)
    search = PortfolioSearch(runtime.store, number)
    with ThreadPoolExecutor(_READERS) as pool:
        reads = [read_date(runtime.store, feed, newest, search)]  # the others begin at its place
        reads += pool.map(lambda date: read_date(runtime.store, feed, date, search), others)
    disclosures = sorted(
        (entry for disclosed, _ in reads for entry in disclosed),
        key=lambda entry: (entry.business_date, entry.revision),
    )
    held_back = sorted((entry for _, entry in reads if entry), key=lambda entry: entry.business_date)
    shares_now = bool(standings(of_recipient, feed.recipient, now))
    ends_at = sharing_end(of_recipient, now)
    following = next((date for date in audience.dates() if last is None or date > last), None)
    return CustomerFeed(
        feed=feed.name,
        recipient=feed.recipient,
        mode=mode.value,
        answer=_answer(runtime, feed, number, day, of_recipient, disclosures, held_back),
        business_date=day,
        next_at=due(feed, following).starts_at if following and shares_now and mode is not FeedMode.OFF else None,
        ends_at=ends_at,
        noticed_on=latest_notice(runtime.store, number, feed.recipient, ends_at) if ends_at else None,
        consents=of_recipient,
        first_in_full=_first_in_full(runtime.store, feed, search, of_recipient, delivered, disclosures, listed),
        disclosures=tuple(reversed(disclosures)),
        held_back=tuple(reversed(held_back)),
    )


def read_date(
    store: ObjectStore, feed: Feed, day: dt.date, search: PortfolioSearch
) -> tuple[list[Disclosure], HeldBackDate | None]:
    """Return the portfolio's deliveries of one business date by revision, and its hold, if the date lacks its data."""
    number = search.number
    entries = [
        _with_arrival(store, feed, search, entry)
        for revision, parts in sorted(_delivered_parts(store, feed.name, day).items())
        for entry in _disclosures(store, feed.name, day, search.rows(parts), revision)
    ]
    disclosures = [entry for entry in entries if entry]
    record = find_record(store, Quarantined, quarantine_key(feed.name, day, number))
    if record is None:
        return disclosures, None
    if record.status == "HELD" and not record.lacks_data:
        return disclosures, None  # delivered; only a later attempt would hold it back
    explanation = _explanation(record, feed)
    return disclosures, HeldBackDate(day, record.held_back.kind, explanation, record.held_since, record.released_at)


class LedgerGapError(DataError):
    """A delivered revision lacks ledger files, so that its disclosures are not known."""

    def __init__(self, location: str) -> None:
        super().__init__(
            f"{location} lacks ledger files of a delivered revision, so that its deliveries are not known: run "
            "`classfeed ledger rebuild`"
        )


def _delivered_parts(store: ObjectStore, feed: str, day: dt.date) -> dict[int, list[str]]:
    """Return the keys of each revision's portfolios; LedgerGapError if a delivered revision lacks some."""
    parts, gap = _listed_parts(store, feed, day)
    if gap:  # or a delivery was made between the questions
        parts, gap = _listed_parts(store, feed, day)
    if gap:
        raise LedgerGapError(store.location(ledger_prefix(feed, day).removesuffix("/")))
    return parts


def _listed_parts(store: ObjectStore, feed: str, day: dt.date) -> tuple[dict[int, list[str]], bool]:
    prefix = ledger_prefix(feed, day)
    parts: dict[int, list[str]] = {}
    stored: set[tuple[int, int]] = set()  # revision and part
    listed: set[tuple[int, int]] = set()
    for key in store.list(prefix):  # a revision's parts in order
        if (name := _PART.fullmatch(key.removeprefix(prefix))) is not None:
            at = int(name[1]), int(name[3])
            stored.add(at)
            if name[2] == "portfolios":
                listed.add(at)
                parts.setdefault(at[0], []).append(key)
    following = max(parts, default=-1) + 1
    suspect = {revision for revision, _ in stored - listed} | set(range(following)) - parts.keys() | {following}
    return parts, any(_delivered_manifest(store, feed, day, revision) for revision in suspect)


def _delivered_manifest(store: ObjectStore, feed: str, day: dt.date, revision: int) -> str | None:
    live = manifest_key(feed, day, revision)
    return next((place for place in (live, shadow_key(live)) if store.exists(place)), None)


def _disclosures(
    store: ObjectStore, feed: str, day: dt.date, rows: pl.DataFrame | None, revision: int
) -> list[Disclosure]:
    if rows is None:
        return []
    manifest = _delivered_manifest(store, feed, day, revision)
    if manifest is None:
        return []  # without its manifest an attempt has delivered nothing
    return [
        Disclosure(
            business_date=day,
            revision=revision,
            shadow=manifest != manifest_key(feed, day, revision),
            change=row["change"],
            extract=row["extract"],
            recipient_reference=row["recipient_reference"],
            history_from=row["history_from"],
            consent_ids=tuple(row["consent_ids"] or ()),
            arrival="",
            manifest=manifest,
        )
        for row in rows.iter_rows(named=True)
    ]


def _with_arrival(store: ObjectStore, feed: Feed, search: PortfolioSearch, entry: Disclosure) -> Disclosure | None:
    # None if the portfolio's file is withheld: nothing of it was disclosed.
    day, revision = entry.business_date, entry.revision
    if entry.shadow or not (feed.sends_on(day) or feed.acknowledgements):
        return entry
    page = search.page(entry.manifest)
    if store.exists(withheld_key(feed.name, day, revision, page)):
        return None
    if feed.sends_on(day) and not store.exists(receipt_key(feed.name, day, revision, page)):
        return replace(entry, arrival=_NOT_SENT)
    if feed.acknowledgements is None:
        return replace(entry, arrival="sent")
    answers = [answer for answer in acknowledgements(store, feed.name, day) if answer.message_id == page]
    codes = sorted(
        {
            record.code or "no code"
            for answer in answers
            for record in answer.records
            if record.portfolio_number == search.number and record.state is RecordState.REJECTED
        }
    )
    words = [
        *dict.fromkeys(answer.state.value for answer in answers),
        *([f"rejected: {', '.join(codes)}"] * bool(codes)),
    ]
    return replace(entry, arrival=", ".join(words) or "not acknowledged")


def _first_in_full(
    store: ObjectStore,
    feed: Feed,
    search: PortfolioSearch,
    consents: Sequence[Consent],
    delivered: Sequence[dt.date],
    disclosures: Sequence[Disclosure],
    listed: Sequence[dt.date],
) -> Disclosure | None:
    # Unlisted dates are read from the first whose cut-off follows a consent. Refreshes may be a date earlier.
    granted = min((consent.granted_at for consent in consents if consent.granted_at is not None), default=None)
    unlisted = delivered[: len(delivered) - len(listed)]
    following = [at for at, day in enumerate(unlisted) if granted is not None and cutoff(day) > granted]
    if following:
        start = max(following[0] - 1, 0)
        for day in unlisted[start : start + _SEARCHED_DATES]:
            for entry in read_date(store, feed, day, search)[0]:
                if entry.extract == "FULL" and not entry.shadow:
                    return entry
    return next((entry for entry in disclosures if entry.extract == "FULL" and not entry.shadow), None)


def _explanation(record: Quarantined, feed: Feed) -> str:
    titles = _TITLES | {rule.name: rule.title for rule in feed.format.rules}
    entry = record.held_back
    if entry.kind == "CONSENT_ENDED":
        return "The consent ended before the data was sent."
    if entry.kind == "WAITING":
        return f"The data of {_day(entry.waiting_for)} has to be sent first." if entry.waiting_for else entry.reason
    rules = "; ".join(titles.get(rule.rule, rule.rule.replace("_", " ")) for rule in entry.rules)
    return f"Our records do not pass a check ({rules}). The data is sent automatically once they are corrected."


def _answer(
    runtime: Runtime,
    feed: Feed,
    number: str,
    day: dt.date,
    consents: Sequence[Consent],
    disclosures: Sequence[Disclosure],
    held_back: Sequence[HeldBackDate],
) -> str:
    flags = flag_values(feed, runtime.settings.env)
    of_day = [entry for entry in disclosures if entry.business_date == day]
    live = [entry for entry in of_day if not entry.shadow]
    if live and live[-1].change == "REMOVED":
        return f"{feed.recipient} was informed on {_day(day)} that sharing ended; it received no data."
    if live and live[-1].arrival == _NOT_SENT:
        return f"The data of {_day(day)} is ready, but has not reached {feed.recipient} yet: sending is tried again."
    if live:
        answer = f" {feed.recipient} answered: {live[-1].arrival}." if feed.acknowledgements else ""
        sent = f"{feed.recipient} was sent the data of {_day(day)} (revision {live[-1].revision})."
        return sent + answer + _left_out(feed, switches_of(runtime.store, live[-1].manifest))
    rehearsed = f"{feed.recipient} was sent nothing: the feed is in shadow mode, and its files are for rehearsal only."
    if of_day:
        return rehearsed
    reason = _consent_reason(feed, day, consents)
    if reason is not None:
        return reason
    if flags.mode is FeedMode.SHADOW:
        return rehearsed
    hold = next((entry for entry in held_back if entry.business_date == day and entry.released_at is None), None)
    if hold is not None:
        return f"Held back on {_day(day)}. {hold.explanation}"
    if number not in flags.portfolios:
        return (
            f"The feed is not switched on for this portfolio: the switch portfolios is {_selection(flags.portfolios)}."
        )
    if flags.mode is FeedMode.OFF:
        return "The feed is switched off. The dates stay pending and follow once it is switched on."
    return f"The data of {_day(day)} has not been sent yet."


def _left_out(feed: Feed, switches: Mapping[str, object]) -> str:
    # Records that a switch left out of a delivery.
    words = {
        "include-income": ("I", "dividends, distributions and interest are"),
        "include-drp": ("S", "units from reinvested dividends are"),
    }
    return "".join(
        f" By the switch {switch}, {what} left out."
        for switch, (ledger, what) in words.items()
        if switches.get(switch) is False and ledger in feed.format.ledgers
    )


def _selection(portfolios: Portfolios) -> str:
    # Without the numbers of other customers.
    return "all but some portfolios" if portfolios.all_but else "some portfolios only"


def _consent_reason(feed: Feed, day: dt.date, consents: Sequence[Consent]) -> str | None:
    # The reason for which consent excludes the portfolio on the date; None if it consents.
    at = cutoff(day)
    if not consents:
        return f"The customer never consented to sharing with {feed.recipient}."
    if standings(consents, feed.recipient, at):
        return None
    active = [consent for consent in consents if consent.active(at)]
    if active:
        ids = ", ".join(str(consent.consent_id) for consent in active)
        return f"Consent {ids} cannot be read: its reference, start or history is missing or contradictory in bigsite."
    later = [consent.granted_at for consent in consents if consent.granted_at is not None and consent.granted_at >= at]
    ended = [
        min(end for end in (consent.expires_at, consent.revoked_at) if end is not None)
        for consent in consents
        if consent.granted_at is not None and consent.granted_at < at
    ]
    if ended:
        return f"Consent ended on {_day(max(ended))}, before the cut-off of {_day(day)}."
    if later:
        return (
            f"The customer consented on {_day(min(later))}, after the cut-off of {_day(day)}: sharing begins with a "
            "later business date."
        )
    return "The customer's consent has no start in bigsite."


def _day(when: dt.date | dt.datetime | None) -> str:
    if isinstance(when, dt.datetime):
        when = when.astimezone(SYDNEY).date()
    return "an unknown day" if when is None else f"{when.day} {when:%B %Y}"
