"""Incidents, derived from observations by pure functions.

Each incident states what is wrong, what it means for customers, and what the system is doing. Dates that fail for the
same cause form one incident. A date that only waits for an earlier date belongs to that date's incident.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from classfeed_dagster.alerting.incidents import WATCHDOG, Incident
from classfeed_dagster.delivery.quarantine import Quarantined
from classfeed_dagster.feed_run.ssm_flags import FlagsProblem
from classfeed_dagster.repair.causes import SCHEMA_ERRORS, CauseKind
from classfeed_dagster.repair.decisions import Action, Decision
from classfeed_dagster.repair.observations import CheckOutcome
from classfeed_dagster.service_levels.service_levels import Judgment
from classfeed_dagster.trading_days import SYDNEY
from classfeed_dagster.wording import counted

if TYPE_CHECKING:
    from classfeed_dagster.repair.observations import Observations, ObservedDate

# Checks whose failure means that data without consent may have left, or nearly left.
_CONSENT_CHECKS = frozenset({"everyone_consented"})
_STALE_DATA = "Customers' funds at the recipient still show the last delivered business date."
CheckKey = tuple[str, str]  # asset as a/b, check


def incidents(
    observations: Observations,
    decisions: Sequence[Decision],
    checks: Mapping[tuple[str, dt.date], DateChecks],
    *,
    held_back_alert: int,
) -> list[Incident]:
    """Return the current incidents, ordered by key. ``checks``: latest check results by feed and date."""
    current = [
        *_gave_up(observations, decisions, checks),
        *_late(observations, decisions),
        *_failed_checks(observations, checks),
        *_unevaluated(checks),
        *_held_back(observations, held_back_alert),
        *_not_sent(observations),
        *_refreshes(observations),
    ]
    return sorted(current, key=lambda incident: incident.key)


class DateChecks:
    """Latest evaluation of each check of one date of a feed, over all its runs."""

    def __init__(self, expected: Collection[CheckKey], outcomes: Iterable[tuple[str, CheckOutcome]]) -> None:
        """Keep the latest of ``outcomes``, which are (run id, outcome), oldest first."""
        self.latest: dict[CheckKey, tuple[str, CheckOutcome]] = {}
        for run_id, outcome in outcomes:
            self.latest[outcome.asset, outcome.name] = (run_id, outcome)
        self.missing = sorted(set(expected) - self.latest.keys())

    @property
    def failed(self) -> list[tuple[str, CheckOutcome]]:
        """Failed checks of ERROR severity, each with its run."""
        return [(run, outcome) for run, outcome in self.latest.values() if outcome.error and not outcome.passed]


def schema_drift(
    summary: str, differences: int, run_id: str | None = None, *, stopped: Sequence[ObservedDate] = ()
) -> Incident:
    """Return the incident of a schema that violates its contract. ``summary`` names tables and columns, never values.

    ``stopped``: the dates stopped so far. An undelivered live date pages.
    """
    return Incident(
        key="schema-drift",
        what=f"bigsite's schema changed: {summary}",
        means="No feed is extracted until the contract and the schema agree, so customers' funds get no new data.",
        feeds=tuple(sorted({date.feed.name for date in stopped})),
        dates=_dates(stopped),
        counts={"differences": differences},
        doing="Extraction stops before it reads any data. Waiting dates run automatically once the schema agrees.",
        run_id=run_id,
        runbook="schema-drift",
        page=any(date.live and not date.facts.delivered for date in stopped),
    )


def reconciliation_breaks(
    feed: str, day: dt.date, breaks: int, offenders: Sequence[str], run_id: str | None = None, *, doing: str = ""
) -> Incident:
    """Return the incident of deliveries that differ from bigsite or the warehouse. ``offenders``: portfolio numbers."""
    return Incident(
        key=f"breaks.{feed}",
        what=f"Reconciliation found {counted(breaks, 'break')} in {feed}",
        means="Some customers' funds at the recipient may not balance.",
        feeds=(feed,),
        dates=(day,),
        counts={"breaks": breaks},
        offenders=tuple(offenders),
        doing=doing or "The date is reconciled again after the next delivery. It is re-issued if bigsite changes.",
        run_id=run_id,
        runbook="reconciliation-breaks",
    )


def dead_letters(count: int) -> Incident:
    """Return the incident of unreadable consent events in the dead-letter queue."""
    return Incident(
        key="dead-letters",
        what=f"{counted(count, 'consent event')} could not be read",
        means="No data is at risk: consent is read from bigsite itself. A grant may take effect a little later.",
        counts={"dead letters": count},
        doing="The other events were processed. These wait in the dead-letter queue, each with its reason.",
        runbook="dead-letters",
    )


def unreadable_switches(problem: FlagsProblem) -> Incident:
    """Return the incident of switches that cannot be read."""
    return Incident(
        key="unreadable-switches",
        what=f"The feeds' switches cannot be read: {problem.reason}",
        means="Deliveries continue with the last values. A change of a switch has no effect for now."
        if problem.serving
        else "Every feed is off until they can be read. The dates stay pending.",
        doing="They are read again every few seconds.",
        runbook="unreadable-switches",
        page=not problem.serving,
    )


def watchdog_incident(missing: Sequence[Judgment], silent: Sequence[str]) -> Incident | None:
    """Return the incident of missing deliveries and silent sensors; None if there is neither."""
    if not missing and not silent:
        return None
    deliveries = f"{counted(len(missing), 'due delivery')} missing" if missing else ""
    return Incident(
        key=WATCHDOG,
        what=f"The watchdog outside Dagster reports: {'; '.join(part for part in (deliveries, *silent) if part)}",
        means=_STALE_DATA
        if missing
        else "No delivery is missing yet, but a missing one would be neither repaired nor reported.",
        feeds=tuple(sorted({judgment.feed for judgment in missing})),
        dates=tuple(sorted({judgment.due.business_date for judgment in missing})),
        counts={"deliveries": len(missing), "sensors": len(silent)},
        doing="Repair retries if the daemon runs. If the sensors are silent, start the daemon.",
        runbook="watchdog",
        page=True,
    )


def _gave_up(
    observations: Observations, decisions: Sequence[Decision], checks: Mapping[tuple[str, dt.date], DateChecks]
) -> list[Incident]:
    groups: dict[str, list[tuple[Decision, ObservedDate]]] = defaultdict(list)
    for decision, date in _pairs(observations, decisions):
        results = checks.get((decision.feed, decision.business_date))
        by_check = decision.cause is not None and decision.cause.kind is CauseKind.DATA and results and results.failed
        by_schema = observations.drift and decision.cause is not None and decision.cause.error in SCHEMA_ERRORS
        # Otherwise the failed check or the schema drift is the incident.
        if decision.action is Action.GIVE_UP and not by_check and not by_schema:
            groups[decision.cause.error if decision.cause else "earlier-date"].append((decision, date))
    result: list[Incident] = []
    for error, members in groups.items():
        decision, first = members[0]
        feeds = tuple(sorted({date.feed.name for _, date in members}))
        customers = [date for _, date in members if date.live]
        undelivered = any(not date.facts.delivered for _, date in members)
        result.append(
            Incident(
                key=f"gave-up.{error}",
                what=f"Repair gave up on {_and(feeds)}: {decision.reason}",
                means=_means(bool(customers), undelivered=undelivered),
                feeds=feeds,
                dates=_dates(date for _, date in members),
                counts={"dates": len(members), "attempts": sum(len(date.facts.runs) for _, date in members)},
                doing=_after_giving_up(decision),
                run_id=_last_run(first),
                runbook="repair-gave-up",
                page=bool(customers) and undelivered,
            )
        )
    return result


def _late(observations: Observations, decisions: Sequence[Decision]) -> list[Incident]:
    # Grouped by each feed's first late date: feeds that are late with the same date form one incident.
    groups: dict[dt.date, list[list[tuple[Decision, ObservedDate]]]] = defaultdict(list)
    by_feed: dict[str, list[tuple[Decision, ObservedDate]]] = defaultdict(list)
    for decision, date in _pairs(observations, decisions):
        if date.live and not date.facts.delivered and date.due.target_at < observations.at:
            by_feed[date.feed.name].append((decision, date))
    for members in by_feed.values():
        groups[members[0][1].due.business_date].append(members)
    result: list[Incident] = []
    for late in groups.values():
        feeds = tuple(sorted(members[0][1].feed.name for members in late))
        past_deadline = any(date.due.deadline_at < observations.at for members in late for _, date in members)
        decision, date = late[0][0]
        result.append(
            Incident(
                # The key does not name the date: the first late date changes while a backlog is processed.
                key=f"late.{'.'.join(feeds)}",
                what=f"{_and(feeds)} {'is' if len(feeds) == 1 else 'are'} late: {_how_late(date, past_deadline)}",
                means=_means(True, undelivered=True),
                feeds=feeds,
                dates=_dates(date for members in late for _, date in members),
                counts={"dates": sum(map(len, late))},
                doing=_doing(decision),
                run_id=_last_run(date),
                runbook="late",
                page=past_deadline,
            )
        )
    return result


def _failed_checks(observations: Observations, checks: Mapping[tuple[str, dt.date], DateChecks]) -> list[Incident]:
    groups: dict[CheckKey, list[tuple[ObservedDate, str, CheckOutcome]]] = defaultdict(list)
    for date in observations.dates:
        results = checks.get((date.feed.name, date.due.business_date))
        for run_id, outcome in results.failed if results else ():
            groups[outcome.asset, outcome.name].append((date, run_id, outcome))
    result: list[Incident] = []
    for (asset, name), members in groups.items():
        latest, run_id, outcome = members[-1]
        numbers = sorted({number for date, _, _ in members for number in _breaching(date, name)})
        stopped = [date for date, _, _ in members if not date.facts.delivered]
        if stopped:
            means = _means(any(date.live for date in stopped), undelivered=True)
        elif numbers:
            means = "The affected portfolios are held back from the recipient. All others were delivered."
        else:
            means = "The documents were delivered. Review the values that the check reports."
        on_date = f"{latest.due.business_date.isoformat()}: "  # the message has a line for the date
        result.append(
            Incident(
                key=f"check.{asset.replace('/', '.')}.{name}",
                what=f"Check {name} of {asset} failed: {outcome.summary.removeprefix(on_date)}",
                means=means,
                feeds=tuple(sorted({date.feed.name for date, _, _ in members})),
                dates=_dates(date for date, _, _ in members),
                counts={
                    "dates": len({date.due.business_date for date, _, _ in members}),
                    "offenders": outcome.offenders,
                },
                offenders=tuple(numbers),
                doing="The dates run again automatically once bigsite's rows are corrected."
                if latest.facts.delivered
                else "The date is not delivered. It runs again automatically once the source changes or new code is "
                "deployed.",
                run_id=run_id,
                runbook=name.replace("_", "-"),
                page=name in _CONSENT_CHECKS or any(date.live for date in stopped),
            )
        )
    return result


def _unevaluated(checks: Mapping[tuple[str, dt.date], DateChecks]) -> list[Incident]:
    groups: dict[CheckKey, list[tuple[str, dt.date]]] = defaultdict(list)
    for date, results in checks.items():
        for missed in results.missing:
            groups[missed].append(date)
    # Checks missing on the same dates form one incident: a run that skipped its checks skipped many.
    sets: dict[tuple[tuple[str, dt.date], ...], list[CheckKey]] = defaultdict(list)
    for missed, places in groups.items():
        sets[tuple(sorted(places))].append(missed)
    result: list[Incident] = []
    for where_missing, keys in sets.items():
        names = sorted(name for _, name in keys)
        more = [f"{len(names) - 3} more"] if len(names) > 3 else []
        result.append(
            Incident(
                key=f"unchecked.{min(day for _, day in where_missing).isoformat()}.{names[0]}",
                what=f"Delivered without all checks: {_and([*names[:3], *more])} "
                f"{'was' if len(names) == 1 else 'were'} not evaluated",
                means="The delivery passed the gate, but faults that only these checks detect may be unnoticed.",
                feeds=tuple(sorted({feed for feed, _ in where_missing})),
                dates=tuple(sorted({day for _, day in where_missing})),
                counts={"checks": len(names)},
                doing="No automatic action. Run the date again: it evaluates every check and delivers nothing twice.",
                runbook="unchecked",
            )
        )
    return result


def _not_sent(observations: Observations) -> list[Incident]:
    by_feed: dict[str, list[ObservedDate]] = defaultdict(list)
    for date in observations.dates:
        if date.facts.unsent and date.due.target_at < observations.at:
            by_feed[date.feed.name].append(date)
    return [
        Incident(
            key=f"not-sent.{feed}",
            what=f"{feed} is delivered but not sent: {counted(sum(date.facts.unsent for date in dates), 'file')}",
            means=_STALE_DATA,
            feeds=(feed,),
            dates=_dates(dates),
            counts={"files": sum(date.facts.unsent for date in dates), "dates": len(dates)},
            doing="Repair sends them again, date by date, as long as the cause can pass.",
            run_id=_last_run(dates[-1]),
            runbook="not-sent",
            page=any(date.live and date.due.deadline_at < observations.at for date in dates),
        )
        for feed, dates in by_feed.items()
    ]


def _refreshes(observations: Observations) -> list[Incident]:
    by_feed: dict[str, list[ObservedDate]] = defaultdict(list)
    for date in observations.dates:
        if date.refreshes:
            by_feed[date.feed.name].append(date)
    result: list[Incident] = []
    for feed, dates in by_feed.items():
        numbers = sorted({record.portfolio_number for date in dates for record in date.refreshes})
        pending = any(date.facts.refreshes is not None for date in dates)
        result.append(
            Incident(
                key=f"refresh-not-delivered.{feed}",
                what=f"{feed} did not send {counted(len(numbers), 'portfolio')} in full as granted",
                means="The recipient still lacks the history that support asked for.",
                feeds=(feed,),
                dates=_dates(dates),
                counts={"portfolios": len(numbers)},
                offenders=tuple(numbers),
                doing="Repair runs the date once more."
                if pending
                else "No automatic action: a later date was delivered first, so it has lapsed. Request it again.",
                run_id=_last_run(dates[-1]),
                runbook="refresh-not-delivered",
            )
        )
    return result


def _held_back(observations: Observations, threshold: int) -> list[Incident]:
    by_feed: dict[str, list[ObservedDate]] = defaultdict(list)
    for date in observations.dates:
        if sum(map(_lacks_data_by_rule, date.held)) > threshold:
            by_feed[date.feed.name].append(date)
    result: list[Incident] = []
    for feed, members in by_feed.items():
        numbers = sorted({record.number for date in members for record in date.held if _lacks_data_by_rule(record)})
        result.append(
            Incident(
                key=f"held-back.{feed}",
                what=f"{counted(len(numbers), 'portfolio')} of {feed} held back, above the threshold of {threshold}",
                means="These customers' funds get no new data until bigsite's rows are corrected.",
                feeds=(feed,),
                dates=_dates(members),
                counts={"portfolios": len(numbers), "dates": len(members)},
                offenders=tuple(numbers),
                doing="Each portfolio is delivered automatically, with its later dates, once its rows are corrected.",
                run_id=_last_run(members[-1]),
                runbook="held-back",
            )
        )
    return result


def _lacks_data_by_rule(record: Quarantined) -> bool:
    return record.lacks_data and record.held_back.kind == "RULE"


def _pairs(observations: Observations, decisions: Sequence[Decision]) -> list[tuple[Decision, ObservedDate]]:
    observed = {(date.feed.name, date.due.business_date): date for date in observations.dates}
    return [(decision, observed[decision.feed, decision.business_date]) for decision in decisions]


def _means(customers: bool, *, undelivered: bool) -> str:
    if not customers:
        return "No customer is affected: the feed runs in shadow."
    if undelivered:
        return _STALE_DATA
    return "Customers have the date's data, without later changes in bigsite."


def _after_giving_up(decision: Decision) -> str:
    if decision.cause is not None and not decision.cause.kind.retried:
        return "Repair retries when bigsite's rows change, new code is deployed, or a person approves unusual removals."
    unknown = decision.cause is not None and decision.cause.kind is CauseKind.UNKNOWN
    return "Repair retries from the next morning's start, or at once when a person starts the date." + (
        " The error is not in the table of causes: add it." if unknown else ""
    )


def _how_late(date: ObservedDate, past_deadline: bool) -> str:
    if past_deadline:
        return f"past the deadline of {_local(date.due.deadline_at)}"
    return f"not delivered by {_local(date.due.target_at)}, due by {_local(date.due.deadline_at)} at the latest"


def _doing(decision: Decision) -> str:
    at = f", next at {_local(decision.not_before)}" if decision.not_before else ""
    return {
        Action.LEAVE: f"Working: {decision.reason}.",
        Action.RUN: f"Retrying: {decision.reason}.",
        Action.WAIT: f"Waiting: {decision.reason}{at}.",
        Action.GIVE_UP: f"Repair gave up: {decision.reason}.",
        Action.NOTHING: "No action.",
    }[decision.action]


def _breaching(date: ObservedDate, rule: str) -> list[str]:
    return [record.number for record in date.held if any(rule == breach.rule for breach in record.held_back.rules)]


def _last_run(date: ObservedDate) -> str | None:
    return date.facts.runs[-1].run_id if date.facts.runs else None


def _dates(members: Iterable[ObservedDate]) -> tuple[dt.date, ...]:
    return tuple(sorted({date.due.business_date for date in members}))


def _local(instant: dt.datetime) -> str:
    return f"{instant.astimezone(SYDNEY):%H:%M} Sydney"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
