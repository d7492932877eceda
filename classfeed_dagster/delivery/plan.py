"""Who goes: decides for every portfolio of a business date whether it is sent, and if not, why. Pure.

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

from classfeed_dagster.delivery.manifest import Change, Extract, HeldBack, RuleCount
from classfeed_dagster.delivery.state import EarlierDate
from classfeed_dagster.errors import TooManyHeldBackError

_SUBJECTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class PlannedPortfolio:
    """A portfolio that is sent, if its content is not what was sent before."""

    number: str
    change: Change
    extract: Extract
    consent_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """Who goes and who doesn't, for one business date. Ordered by portfolio number (code point)."""

    business_date: dt.date
    going: tuple[PlannedPortfolio, ...]
    held_back: tuple[HeldBack, ...]
    unannounced: tuple[str, ...]  # consent ended before anything of them was ever sent: nothing to announce
    breaking: int  # portfolios that break a rule; those that only wait are not among them
    consented: int

    @property
    def breaking_share(self) -> Decimal:
        """Share of the consented portfolios that break a rule."""
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
    """Decide who goes for ``day``.

    ``consented`` is CONSENTED_PORTFOLIOS, ``findings`` FINDINGS of all domains and of the format, ``consented_now``
    the portfolios whose consent bigsite confirmed a moment ago. ``earlier`` is None on the audience's first date.
    ``ever_delivered`` is asked about removed portfolios that the earlier date didn't deliver.
    TooManyHeldBackError if the share of portfolios that break a rule is above ``max_held_back_share``.
    """
    broken = _broken_rules(findings)
    rows = consented.sort("portfolio_number").select("portfolio_number", "change", "extract", "consent_ids")
    active = rows.filter(pl.col("change") != "REMOVED")["portfolio_number"]
    breaking = [number for number in active if number in broken]
    if len(breaking) > max_held_back_share * len(active):
        often = Counter(rule.rule for number in breaking for rule in broken[number])
        names = [rule for rule, _ in sorted(often.items(), key=lambda item: (-item[1], item[0]))]
        raise TooManyHeldBackError(day, len(breaking), len(active), max_held_back_share, names)

    gone = earlier.delivered if earlier is not None else frozenset[str]()
    in_doubt = set(rows.filter(pl.col("change") == "REMOVED")["portfolio_number"]) - broken.keys()
    in_doubt -= gone if gone is not None else in_doubt  # built ahead: assume that what came before will have gone
    unannounced = in_doubt - ever_delivered(in_doubt) if in_doubt else set()

    going: list[PlannedPortfolio] = []
    held_back: list[HeldBack] = []
    for number, change, extract, consents in rows.iter_rows():
        if number in unannounced:
            continue
        held = _held_back(number, change, broken.get(number, ()), consented_now, earlier)
        if held is not None:
            held_back.append(held)
        else:
            # Interned: in a hundred thousand plans a word is one object.
            words = cast(Change, sys.intern(change)), cast(Extract, sys.intern(extract))
            going.append(PlannedPortfolio(number, *words, tuple(consents or ())))
    return DeliveryPlan(day, tuple(going), tuple(held_back), tuple(sorted(unannounced)), len(breaking), len(active))


def _held_back(
    number: str,
    change: str,
    rules: tuple[RuleCount, ...],
    consented_now: Set[str],
    earlier: EarlierDate | None,
) -> HeldBack | None:
    if change != "REMOVED" and number not in consented_now:
        return HeldBack(number=number, kind="CONSENT_ENDED", reason="consent ended", rules=rules)
    waiting_for = _waits_for(number, earlier) if change == "CURRENT" else None
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
    broken: dict[str, tuple[RuleCount, ...]] = {}
    for number, rule, count, subjects, detail in grouped.iter_rows():
        entry = RuleCount(rule=rule, findings=count, subjects=tuple(subjects), detail=detail)
        broken[number] = (*broken.get(number, ()), entry)
    return broken
