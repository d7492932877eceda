"""The delivery plan: for every portfolio of a business date, inclusion or the reason for holding it back. Pure.

Sources: design, "Held back, not thrown away", "In order" and "Consent".
"""

from __future__ import annotations

import datetime as dt
import sys
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

import polars as pl

from classfeed_dagster.delivery.manifest import HeldBack, RuleCount
from classfeed_dagster.delivery.portfolio_list import Change, Extract
from classfeed_dagster.delivery.state import EarlierDate
from classfeed_dagster.domains.rules import NUMBER_CHANGED
from classfeed_dagster.errors import TooManyHeldBackError

_SUBJECTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class PlannedPortfolio:
    """A portfolio that is delivered, unless the same content was delivered before."""

    number: str
    change: Change
    extract: Extract
    consent_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """The included and the held-back portfolios of one business date, ordered by portfolio number (code point)."""

    business_date: dt.date
    included: tuple[PlannedPortfolio, ...]
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...]  # consent ended before the first delivery, so no removal is announced
    breaking: int  # portfolios that break a rule, not counting those waiting for an earlier date
    consented: int

    @property
    def breaking_share(self) -> Decimal:
        """Return the share of the consented portfolios that break a rule."""
        return Decimal(self.breaking) / self.consented if self.consented else Decimal(0)


def plan_delivery(
    day: dt.date,
    *,
    consented: pl.DataFrame,
    findings: pl.DataFrame,
    consented_now: Set[str],
    earlier: EarlierDate | None,
    ever_delivered: Callable[[Set[str]], Set[str]],
    max_held_back_share: Decimal,
) -> DeliveryPlan:
    """Plan the delivery of ``day``.

    ``consented`` is CONSENTED_PORTFOLIOS, ``findings`` the FINDINGS of all domains and of the format,
    ``consented_now`` the portfolios whose consent bigsite confirmed a moment ago. ``earlier`` is None on the first
    date. ``ever_delivered`` is called for removed portfolios that the earlier date did not deliver.
    Raise TooManyHeldBackError if the share of portfolios that break a rule is above ``max_held_back_share``.
    """
    breaches = _broken_rules(findings)
    rows = consented.sort("portfolio_number").select("portfolio_number", "change", "extract", "consent_ids")
    active = rows.filter(pl.col("change") != "REMOVED")["portfolio_number"]
    breaking = [number for number in active if number in breaches]
    if len(breaking) > max_held_back_share * len(active):
        frequency = Counter(rule.rule for number in breaking for rule in breaches[number])
        names = [rule for rule, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))]
        raise TooManyHeldBackError(day, len(breaking), len(active), max_held_back_share, names)

    delivered = earlier.delivered if earlier is not None else frozenset[str]()
    in_doubt = set(rows.filter(pl.col("change") == "REMOVED")["portfolio_number"]) - breaches.keys()
    in_doubt -= delivered if delivered is not None else in_doubt  # built ahead: assume a complete earlier delivery
    unannounced = in_doubt - ever_delivered(in_doubt) if in_doubt else set()

    included: list[PlannedPortfolio] = []
    held_back: list[HeldBack] = []
    for number, change, extract, consents in rows.iter_rows():
        if number in unannounced:
            continue
        entry = _held_back(number, change, breaches.get(number, ()), consented_now, earlier)
        if entry is not None:
            held_back.append(entry)
        else:
            # Interned: a hundred thousand entries share one string object per word.
            words = cast(Change, sys.intern(change)), cast(Extract, sys.intern(extract))
            included.append(PlannedPortfolio(number, *words, tuple(consents or ())))
    return DeliveryPlan(day, tuple(included), tuple(held_back), tuple(sorted(unannounced)), len(breaking), len(active))


def _held_back(
    number: str,
    change: str,
    rules: tuple[RuleCount, ...],
    consented_now: Set[str],
    earlier: EarlierDate | None,
) -> HeldBack | None:
    if change != "REMOVED" and number not in consented_now:
        return HeldBack(number=number, kind="CONSENT_ENDED", reason="consent ended", rules=rules)
    # A portfolio with a new number was never sent under it, so waiting would not end.
    renumbered = any(rule.rule == NUMBER_CHANGED.name for rule in rules)
    waiting_for = _waits_for(number, earlier) if change == "CURRENT" and not renumbered else None
    if rules:
        reason = "breaks " + ", ".join(f"{rule.rule} ({_times(rule.findings)})" for rule in rules)
        if waiting_for is not None:
            reason += f"; also waiting for {waiting_for.isoformat()}"
        return HeldBack(number=number, kind="RULE", reason=reason, rules=rules, waiting_for=waiting_for)
    if waiting_for is not None:
        reason = f"waiting for {waiting_for.isoformat()}"
        return HeldBack(number=number, kind="WAITING", reason=reason, waiting_for=waiting_for)
    return None


def _waits_for(number: str, earlier: EarlierDate | None) -> dt.date | None:
    if earlier is None or earlier.delivered is None or number in earlier.delivered:
        return None
    return earlier.waiting.get(number, earlier.date)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _broken_rules(findings: pl.DataFrame) -> dict[str, tuple[RuleCount, ...]]:
    grouped = (
        findings.filter(pl.col("severity") == "QUARANTINE")
        .group_by("portfolio_number", "rule")
        .agg(
            pl.len().alias("findings"),
            pl.col("subject").unique().sort().head(_SUBJECTS_SHOWN).alias("subjects"),
            pl.col("detail").min(),
        )
        .sort("portfolio_number", "rule")
    )
    breaches: dict[str, tuple[RuleCount, ...]] = {}
    for number, rule, count, subjects, detail in grouped.iter_rows():
        entry = RuleCount(rule=rule, findings=count, subjects=tuple(subjects), detail=detail)
        breaches[number] = (*breaches.get(number, ()), entry)
    return breaches
