"""Simulated customers: personas, names, entity types, means, and their consents by recipient.

A customer depends only on the seed, its own number and whether it shares from the beginning, never on the number of
other customers.
"""

from __future__ import annotations

import datetime as dt
import enum
from bisect import bisect_left
from dataclasses import dataclass

from classfeed_dagster.simulation.identifiers import ID_BASE
from classfeed_dagster.simulation.random_draws import HashRandom
from classfeed_dagster.trading_days import business_days, cutoff

CLASS, OTHER_RECIPIENT = "CLASS", "BGL"
_EXPIRES_FOR_GOOD_FROM = 60  # as a number: in a small world one more removal would be an unusual share


class Persona(enum.StrEnum):
    """Behaviour of a customer."""

    SAVER = "saves weekly into ETFs"
    TRADER = "trades every day"
    PENSION = "trustees of a fund in pension phase"
    REINVESTOR = "reinvests dividends"
    ESTATE = "estate being transferred out"
    ADVISED = "follows an adviser"
    RETURNER = "consents, revokes and returns"
    PRIVATE = "never consents to Class"


# Twenty-five places that repeat. The returner comes late: with few shared portfolios, one removal would be an unusual
# share. No estate has a number ending in 9, because those numbers join later.
_PLACES = (
    Persona.SAVER, Persona.TRADER, Persona.PENSION, Persona.REINVESTOR, Persona.ADVISED,
    Persona.SAVER, Persona.PENSION, Persona.REINVESTOR, Persona.ESTATE, Persona.SAVER,
    Persona.PENSION, Persona.REINVESTOR, Persona.ADVISED, Persona.SAVER, Persona.TRADER,
    Persona.PENSION, Persona.SAVER, Persona.REINVESTOR, Persona.ADVISED, Persona.SAVER,
    Persona.PENSION, Persona.REINVESTOR, Persona.RETURNER, Persona.SAVER, Persona.ADVISED,
)  # fmt: skip

_ENTITIES = {
    Persona.SAVER: ("INDIVIDUAL", "INDIVIDUAL", "JOINT"),
    Persona.TRADER: ("INDIVIDUAL", "COMPANY"),
    Persona.PENSION: ("SMSF",),
    Persona.REINVESTOR: ("JOINT", "INDIVIDUAL", "TRUST"),
    Persona.ESTATE: ("INDIVIDUAL",),
    Persona.ADVISED: ("TRUST", "COMPANY", "SMSF"),
    Persona.RETURNER: ("INDIVIDUAL", "SMSF"),
    Persona.PRIVATE: ("INDIVIDUAL", "JOINT", "COMPANY", "TRUST", "SMSF"),
}
_GIVEN = (
    "Zoë", "Ngaire", "Søren", "Thảo", "François", "Aoife", "Jarrah", "Mei", "Łukasz", "Priya", "Óscar", "Kirra",
    "Håkon", "Leilani", "Siobhán", "Tjarrah", "Anaïs", "Wiremu", "Ayşe", "Rory",
)  # fmt: skip
_FAMILY = (
    "O'Brien", "Nguyễn", "Muñoz", "Van der Berg", "D’Arcy", "Smith-Jones", "Żukowski", "Papadopoulos", "McKenzie",
    "Åkesson", "Yılmaz", "St. John", "Tanaka", "Okafor", "Whitlam", "Çelik", "Fitzgerald", "Müller", "Ah Kee", "Rossi",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A person with the role in the portfolio. Several portfolios share an ``adviser``."""

    member_id: int
    given_name: str
    family_name: str
    role: str


@dataclass(frozen=True, slots=True)
class ConsentPlan:
    """A consent that the customer will give, and its end. Instants are UTC."""

    consent_id: int
    recipient: str
    reference: str
    history_from: dt.date | None
    granted_at: dt.datetime
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None

    def holds(self, at: dt.datetime) -> bool:
        """Return True if the customer shares data at ``at``; a change at exactly ``at`` counts afterwards."""
        ends = [end for end in (self.expires_at, self.revoked_at) if end is not None]
        return self.granted_at < at and all(end >= at for end in ends)


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer's portfolio and plan. Amounts are whole AUD."""

    number: int
    persona: Persona
    name: str
    entity_type: str
    members: tuple[Member, ...]
    opened_on: dt.date
    first_deposit: int
    saving: int
    deposits: int  # number of regular deposits before the savings are used up
    usd: bool
    leaves_on: dt.date | None
    consents: tuple[ConsentPlan, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Business days around the first day of interest, with ``history`` days before it."""

    first_day: dt.date
    history: int

    def day(self, offset: int) -> dt.date:
        """Return the business day ``offset`` after the first day (negative: before), at most the calendar's last."""
        days = business_days()
        return days[min(bisect_left(days, self.first_day) + offset, len(days) - 1)]


def customer(seed: int, number: int, *, shares: bool, timeline: Timeline) -> Customer:
    """Return customer ``number``. One that ``shares`` has a consent for Class at the first day's cut-off."""
    draw = HashRandom(seed, "customer", number)
    joins = not shares and number % 10 == 9
    persona = _PLACES[number % len(_PLACES)] if shares or joins else Persona.PRIVATE
    entity = draw.choice(_ENTITIES[persona])
    members = _members(draw, number, entity, advised=persona is Persona.ADVISED)
    opened = timeline.day(draw.below(max(1, timeline.history // 3)) - timeline.history)
    if joins and draw.one_in(2):
        opened = timeline.day(2 + draw.below(60))
    wealthy = persona in (Persona.PENSION, Persona.ESTATE, Persona.ADVISED)
    return Customer(
        number,
        persona,
        _name(draw, entity, members),
        entity,
        members,
        opened,
        draw.between(80, 900) * 1000 if wealthy else draw.between(5, 120) * 1000,
        draw.between(4, 25) * 100,
        draw.between(3, 40),
        persona in (Persona.TRADER, Persona.ADVISED) or draw.one_in(8),
        timeline.day(3 + draw.below(80)) if persona is Persona.ESTATE else None,
        _consents(draw, number, persona, timeline, opened if joins else None),
    )


def _members(draw: HashRandom, number: int, entity: str, *, advised: bool) -> tuple[Member, ...]:
    roles = {
        "INDIVIDUAL": ("OWNER",),
        "JOINT": ("OWNER", "JOINT"),
        "COMPANY": ("DIRECTOR",),
        "TRUST": ("TRUSTEE",),
        "SMSF": ("TRUSTEE", "TRUSTEE"),
    }[entity]
    family = draw.choice(_FAMILY)
    members = [
        Member(ID_BASE + 1000 + number * 4 + place, draw.choice(_GIVEN), family, role)
        for place, role in enumerate(roles)
    ]
    if advised:
        adviser = number % 7
        members.append(Member(ID_BASE + adviser, _GIVEN[adviser], _FAMILY[-adviser - 1], "ADVISER"))
    return tuple(members)


def _name(draw: HashRandom, entity: str, members: tuple[Member, ...]) -> str:
    first = members[0]
    if entity == "INDIVIDUAL":
        return f"{first.given_name} {first.family_name}"
    if entity == "JOINT":
        return f"{first.given_name} & {members[1].given_name} {first.family_name}"
    if entity == "COMPANY":
        return f"{first.family_name} {draw.choice(('Holdings', '<Trading>', '& Sons', '“Seaview”'))} Pty Ltd"
    if entity == "SMSF":
        return f"The {first.family_name} Super Fund"
    kind = draw.choice(('"Family" Trust', "Investment Trust", "Sunshine ☀😀 Trust"))
    return f"The {first.family_name} {kind}"


def _consents(
    draw: HashRandom, number: int, persona: Persona, timeline: Timeline, joins_after: dt.date | None
) -> tuple[ConsentPlan, ...]:
    first = ID_BASE + number * 40
    if persona is Persona.PRIVATE:
        if not draw.one_in(8):
            return ()
        return (ConsentPlan(first, OTHER_RECIPIENT, f"B{number:06d}", None, _some_time(draw, timeline.day(-1))),)
    reference = f"CL{number:06d}"
    if joins_after is not None:
        joins_on = max(timeline.day(1 + draw.below(60)), joins_after + dt.timedelta(days=1))
        return (ConsentPlan(first, CLASS, reference, None, _some_time(draw, joins_on)),)
    history = max(timeline.history, 3)
    granted = _some_time(draw, timeline.day(-draw.between(1, history * 2 // 3)))
    shared = timeline.day(-draw.between(1, history)) if draw.one_in(2) else None
    if persona is Persona.RETURNER:
        return _comes_and_goes(draw, number, timeline, granted, shared)
    plan = ConsentPlan(first, CLASS, reference, shared, granted)
    kind = draw.below(12)
    if kind == 0:  # two at once: the earlier history and the later reference count
        later = _some_time(draw, timeline.day(-1))
        return plan, ConsentPlan(first + 1, CLASS, reference + "-2", timeline.day(-2), later)
    if kind == 1:  # one that ended before anything was sent
        ended = _some_time(draw, timeline.day(-draw.between(history, history * 2)))
        old = ConsentPlan(first, CLASS, reference, None, ended - dt.timedelta(days=30), ended)
        return old, ConsentPlan(first + 1, CLASS, reference + "-2", shared, granted)
    if kind == 2:  # expires exactly at a cut-off, renewed some days before
        at = draw.between(4, 40)
        renewed = _some_time(draw, timeline.day(at - 2))
        plan = ConsentPlan(first, CLASS, reference, shared, granted, cutoff(timeline.day(at)))
        return plan, ConsentPlan(first + 1, CLASS, reference, shared, renewed)
    if kind == 3 and number >= _EXPIRES_FOR_GOOD_FROM and draw.one_in(4):  # expires exactly at a cut-off, for good
        return (ConsentPlan(first, CLASS, reference, shared, granted, cutoff(timeline.day(draw.between(2, 60)))),)
    return (plan,)


def _comes_and_goes(
    draw: HashRandom, number: int, timeline: Timeline, granted: dt.datetime, shared: dt.date | None
) -> tuple[ConsentPlan, ...]:
    # Every 28 business days: revoked, and given again some days later as a new consent; a revoked one is never revived.
    plans: list[ConsentPlan] = []
    for turn in range(30):
        revoked_on = timeline.day(3 + number // len(_PLACES) % 10 + 28 * turn)
        revoked = _some_time(draw, revoked_on)
        reference = f"CL{number:06d}-R{turn}"
        plans.append(ConsentPlan(ID_BASE + number * 40 + turn, CLASS, reference, shared, granted, revoked_at=revoked))
        returns_on = revoked_on + dt.timedelta(days=draw.between(1, 8))
        granted = _some_time(draw, returns_on)
    return tuple(plans)


def _some_time(draw: HashRandom, day: dt.date) -> dt.datetime:
    # Customers act from 06:30 to 23:30 Sydney.
    seconds = draw.between(6 * 3600 + 1800, 23 * 3600 + 1800)
    return cutoff(day - dt.timedelta(days=1)) + dt.timedelta(seconds=seconds, microseconds=draw.below(10**6))
