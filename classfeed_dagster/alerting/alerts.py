"""Which incidents there are, from what was observed. Pure. Each says what is wrong, what it means, and what is done.

Dates that fail for one cause are one incident; dates that only wait for an earlier one belong to that one's.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from classfeed_dagster.alerting.incidents import OFFENDERS_SHOWN, Incident
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.feed_run.ssm_flags import FlagsProblem
from classfeed_dagster.repair.causes import SCHEMA_ERRORS, CauseKind
from classfeed_dagster.repair.decisions import Action, Decision
from classfeed_dagster.repair.run_events import CheckOutcome
from classfeed_dagster.trading_days import SYDNEY

if TYPE_CHECKING:
    from classfeed_dagster.repair.facts import Gathered, Observed

# Failing these means that something may have left, or nearly left, that must not.
_BREACHES = frozenset({"everyone_consented"})
_COUNTED = re.compile(r"\b(\d+) (\w+)\(s\)")
CheckKey = tuple[str, str]  # asset as a/b, check


def incidents(
    gathered: Gathered,
    decisions: Sequence[Decision],
    checks: Mapping[tuple[str, dt.date], DateChecks],
    *,
    held_back_alert: int,
) -> list[Incident]:
    """Everything wrong at the moment, ordered by key. ``checks``: by feed and date, what its checks said last."""
    found = [
        *_gave_up(gathered, decisions, checks),
        *_late(gathered, decisions),
        *_failed_checks(gathered, checks),
        *_unevaluated(checks),
        *_held_back(gathered, held_back_alert),
    ]
    return sorted(found, key=lambda incident: incident.key)


class DateChecks:
    """What the checks of one date of a feed said last: the newest evaluation of each, over all its runs."""

    def __init__(self, expected: Collection[CheckKey], outcomes: Iterable[tuple[str, CheckOutcome]]) -> None:
        """``outcomes``: (run id, outcome), the oldest first."""
        self.latest: dict[CheckKey, tuple[str, CheckOutcome]] = {}
        for run_id, outcome in outcomes:
            self.latest[outcome.asset, outcome.name] = (run_id, outcome)
        self.missing = sorted(set(expected) - self.latest.keys())

    @property
    def failed(self) -> list[tuple[str, CheckOutcome]]:
        """Those of ERROR severity that failed, with the run that said so."""
        return [(run, one) for run, one in self.latest.values() if one.error and not one.passed]


def schema_drift(
    summary: str, differences: int, run_id: str | None = None, *, stopped: Sequence[Observed] = ()
) -> Incident:
    """bigsite's schema no longer keeps its contract. ``summary`` names tables and columns, never values.

    ``stopped``: the dates that it has stopped so far; a live one must wake someone.
    """
    return Incident(
        key="schema-drift",
        what=f"bigsite's schema changed: {summary}",
        means="No feed is extracted until the contract and the schema agree, so customers' funds get nothing new.",
        feeds=tuple(sorted({one.feed.name for one in stopped})),
        dates=_dates(stopped),
        counts={"differences": differences},
        doing="Extraction stops before it reads anything. Once the schema agrees, the waiting dates run by themselves.",
        run_id=run_id,
        runbook="schema-drift",
        page=any(one.live and not one.facts.delivered for one in stopped),
    )


def reconciliation_breaks(
    feed: str, day: dt.date, breaks: int, offenders: Sequence[str], run_id: str | None = None, *, doing: str = ""
) -> Incident:
    """What was delivered is not what bigsite, or the warehouse, has. ``offenders``: portfolio numbers."""
    return Incident(
        key=f"breaks.{feed}",
        what=f"Reconciliation found {breaks} {_plural(breaks, 'break')} in {feed}",
        means="Some customers' funds at the recipient may not balance.",
        feeds=(feed,),
        dates=(day,),
        counts={"breaks": breaks},
        offenders=tuple(offenders),
        doing=doing or "The date is reconciled again after the next delivery; re-issues follow if bigsite changes.",
        run_id=run_id,
        runbook="reconciliation-breaks",
    )


def dead_letters(count: int) -> Incident:
    """Consent events that could not be read wait in the dead-letter queue."""
    return Incident(
        key="dead-letters",
        what=f"{count} consent {_plural(count, 'event')} could not be read",
        means="Nobody's data is at risk: consent is read from bigsite itself. A grant may be noticed a little later.",
        counts={"dead letters": count},
        doing="The other events went on. These wait in the dead-letter queue, each with its reason.",
        runbook="dead-letters",
    )


def unreadable_switches(problem: FlagsProblem) -> Incident:
    """Return the incident of switches that cannot be read."""
    return Incident(
        key="unreadable-switches",
        what=f"The feeds' switches cannot be read: {problem.reason}",
        means="Deliveries continue as last switched; a switch turned now has no effect."
        if problem.serving
        else "Every feed is off until they can be read: the dates stay pending.",
        doing="They are read again every few seconds.",
        runbook="unreadable-switches",
        page=not problem.serving,
    )


def _gave_up(
    gathered: Gathered, decisions: Sequence[Decision], checks: Mapping[tuple[str, dt.date], DateChecks]
) -> list[Incident]:
    groups: dict[str, list[tuple[Decision, Observed]]] = defaultdict(list)
    for decision, one in _pairs(gathered, decisions):
        said = checks.get((decision.feed, decision.business_date))
        by_check = decision.cause is not None and decision.cause.kind is CauseKind.DATA and said and said.failed
        by_schema = gathered.drift and decision.cause is not None and decision.cause.error in SCHEMA_ERRORS
        # The failed check, or the schema's difference, is the incident then.
        if decision.action is Action.GIVE_UP and not by_check and not by_schema:
            groups[decision.cause.error if decision.cause else "earlier-date"].append((decision, one))
    found: list[Incident] = []
    for error, members in groups.items():
        decision, first = members[0]
        feeds = tuple(sorted({one.feed.name for _, one in members}))
        customers = [one for _, one in members if one.live]
        undelivered = any(not one.facts.delivered for _, one in members)
        found.append(
            Incident(
                key=f"gave-up.{error}",
                what=f"Repair gave up on {_and(feeds)}: {decision.reason}",
                means=_means(bool(customers), undelivered=undelivered),
                feeds=feeds,
                dates=_dates(one for _, one in members),
                counts={"dates": len(members), "attempts": sum(len(one.facts.runs) for _, one in members)},
                doing=_after_giving_up(decision),
                run_id=_last_run(first),
                runbook="repair-gave-up",
                page=bool(customers) and undelivered,
            )
        )
    return found


def _late(gathered: Gathered, decisions: Sequence[Decision]) -> list[Incident]:
    # By the first date that is late of each feed; feeds late with the same date are one incident.
    groups: dict[dt.date, list[list[tuple[Decision, Observed]]]] = defaultdict(list)
    by_feed: dict[str, list[tuple[Decision, Observed]]] = defaultdict(list)
    for decision, one in _pairs(gathered, decisions):
        if one.live and not one.facts.delivered and one.due.target_at < gathered.at:
            by_feed[one.feed.name].append((decision, one))
    for members in by_feed.values():
        groups[members[0][1].due.business_date].append(members)
    found: list[Incident] = []
    for late in groups.values():
        feeds = tuple(sorted(members[0][1].feed.name for members in late))
        past_deadline = any(one.due.deadline_at < gathered.at for members in late for _, one in members)
        decision, one = late[0][0]
        found.append(
            Incident(
                # Not named after the date: while a backlog is worked off, the first late date moves on every minute.
                key=f"late.{'.'.join(feeds)}",
                what=f"{_and(feeds)} {'is' if len(feeds) == 1 else 'are'} late: {_how_late(one, past_deadline)}",
                means=_means(True, undelivered=True),
                feeds=feeds,
                dates=_dates(one for members in late for _, one in members),
                counts={"dates": sum(map(len, late))},
                doing=_doing(decision),
                run_id=_last_run(one),
                runbook="late",
                page=past_deadline,
            )
        )
    return found


def _failed_checks(gathered: Gathered, checks: Mapping[tuple[str, dt.date], DateChecks]) -> list[Incident]:
    groups: dict[CheckKey, list[tuple[Observed, str, CheckOutcome]]] = defaultdict(list)
    for one in gathered.dates:
        said = checks.get((one.feed.name, one.due.business_date))
        for run_id, outcome in said.failed if said else ():
            groups[outcome.asset, outcome.name].append((one, run_id, outcome))
    found: list[Incident] = []
    for (asset, name), members in groups.items():
        latest, run_id, outcome = members[-1]
        numbers = sorted({number for one, _, _ in members for number in _broken(one, name)})
        stopped = [one for one, _, _ in members if not one.facts.delivered]
        if stopped:
            means = _means(any(one.live for one in stopped), undelivered=True)
        elif numbers:
            means = "The portfolios concerned are held back from the recipient; everyone else's data went."
        else:
            means = "The documents went; some of what is in them deserves a look."
        found.append(
            Incident(
                key=f"check.{asset.replace('/', '.')}.{name}",
                what=f"Check {name} of {asset} failed: {_in_words(outcome.summary, latest.due.business_date)}",
                means=means,
                feeds=tuple(sorted({one.feed.name for one, _, _ in members})),
                dates=_dates(one for one, _, _ in members),
                counts={"dates": len({one.due.business_date for one, _, _ in members}), "offenders": outcome.offenders},
                offenders=tuple(numbers[:OFFENDERS_SHOWN]),
                doing="The dates run again by themselves once bigsite's rows are mended."
                if latest.facts.delivered
                else "Nothing leaves. The date runs again by itself once the source changes or new code is deployed.",
                run_id=run_id,
                runbook=name.replace("_", "-"),
                page=name in _BREACHES or any(one.live for one in stopped),
            )
        )
    return found


def _unevaluated(checks: Mapping[tuple[str, dt.date], DateChecks]) -> list[Incident]:
    groups: dict[CheckKey, list[tuple[str, dt.date]]] = defaultdict(list)
    for where, said in checks.items():
        for missed in said.missing:
            groups[missed].append(where)
    # All that one date lacks is one trouble: a run that skipped its checks skipped many.
    sets: dict[tuple[tuple[str, dt.date], ...], list[CheckKey]] = defaultdict(list)
    for missed, places in groups.items():
        sets[tuple(sorted(places))].append(missed)
    found: list[Incident] = []
    for where_missing, keys in sets.items():
        named = sorted(name for _, name in keys)
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        found.append(
            Incident(
                key=f"unchecked.{min(day for _, day in where_missing).isoformat()}.{named[0]}",
                what=f"Delivered without being checked: {_and(named[:3])}{more} "
                f"{'was' if len(named) == 1 else 'were'} not evaluated",
                means="What was delivered obeys the gate, but faults that only these checks see would go unnoticed.",
                feeds=tuple(sorted({feed for feed, _ in where_missing})),
                dates=tuple(sorted({day for _, day in where_missing})),
                counts={"checks": len(named)},
                doing="Nothing by itself: run the date again, which delivers nothing twice and evaluates every check.",
                runbook="unchecked",
            )
        )
    return found


def _held_back(gathered: Gathered, threshold: int) -> list[Incident]:
    by_feed: dict[str, list[Observed]] = defaultdict(list)
    for one in gathered.dates:
        if sum(map(_lacks_data_for_a_rule, one.held)) > threshold:
            by_feed[one.feed.name].append(one)
    found: list[Incident] = []
    for feed, members in by_feed.items():
        numbers = sorted({record.number for one in members for record in one.held if _lacks_data_for_a_rule(record)})
        found.append(
            Incident(
                key=f"held-back.{feed}",
                what=f"{len(numbers)} {_plural(len(numbers), 'portfolio')} of {feed} held back, above the threshold of "
                f"{threshold}",
                means="These customers' funds get nothing new until bigsite's rows are mended.",
                feeds=(feed,),
                dates=_dates(members),
                counts={"portfolios": len(numbers), "dates": len(members)},
                offenders=tuple(numbers[:OFFENDERS_SHOWN]),
                doing="Each goes by itself, with the dates after it, once its rows are mended.",
                run_id=_last_run(members[-1]),
                runbook="held-back",
            )
        )
    return found


def _lacks_data_for_a_rule(record: Quarantined) -> bool:
    return record.lacks_data and record.held_back.kind == "RULE"


def _pairs(gathered: Gathered, decisions: Sequence[Decision]) -> list[tuple[Decision, Observed]]:
    observed = {(one.feed.name, one.due.business_date): one for one in gathered.dates}
    return [(decision, observed[decision.feed, decision.business_date]) for decision in decisions]


def _means(customers: bool, *, undelivered: bool) -> str:
    if not customers:
        return "No customer notices: the feed is rehearsed beside the old one."
    if undelivered:
        return "Customers' funds at the recipient stay at the last business date that was delivered."
    return "Customers have the date's data; what changed in bigsite since has not reached them."


def _after_giving_up(decision: Decision) -> str:
    if decision.cause is not None and not decision.cause.kind.retried:
        return "It starts again by itself when bigsite's rows change, new code is deployed, or a person releases it."
    gap = decision.cause is not None and decision.cause.kind is CauseKind.UNKNOWN
    return "It tries again from the next morning's start on, or at once when a person starts it." + (
        " The error is not in the table of causes: add it." if gap else ""
    )


def _how_late(one: Observed, past_deadline: bool) -> str:
    if past_deadline:
        return f"past the deadline of {_local(one.due.deadline_at)}"
    return f"not delivered by {_local(one.due.target_at)}, due by {_local(one.due.deadline_at)} at the latest"


def _doing(decision: Decision) -> str:
    at = f", next at {_local(decision.not_before)}" if decision.not_before else ""
    return {
        Action.LEAVE: f"Working on it: {decision.reason}.",
        Action.RUN: f"Starting it again: {decision.reason}.",
        Action.WAIT: f"Waiting: {decision.reason}{at}.",
        Action.GIVE_UP: f"It gave up: {decision.reason}.",
        Action.NOTHING: "Nothing.",
    }[decision.action]


def _broken(one: Observed, rule: str) -> list[str]:
    return [record.number for record in one.held if any(rule == broken.rule for broken in record.held_back.rules)]


def _last_run(one: Observed) -> str | None:
    return one.facts.runs[-1].run_id if one.facts.runs else None


def _dates(members: Iterable[Observed]) -> tuple[dt.date, ...]:
    return tuple(sorted({one.due.business_date for one in members}))


def _local(instant: dt.datetime) -> str:
    return f"{instant.astimezone(SYDNEY):%H:%M} Sydney"


def _in_words(summary: str, day: dt.date) -> str:
    # The date stands in the message's own line; "2 finding(s)" is for machines.
    return _COUNTED.sub(
        lambda found: f"{found[1]} {_plural(int(found[1]), found[2])}", summary.removeprefix(f"{day.isoformat()}: ")
    )


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
