"""Why a delivery does not happen: one type a reason. ``transient``: a later attempt may succeed by itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import ClassVar


class DeliveryError(Exception):
    """Something keeps a document from leaving. Messages hold portfolio numbers at most, never personal data."""

    transient: ClassVar[bool] = False


class TooManyHeldBackError(DeliveryError):
    """More portfolios break a rule than the limit allows: nothing goes, since the fault is likely ours or bigsite's."""

    def __init__(self, day: dt.date, breaking: int, total: int, limit: object, rules: Sequence[str]) -> None:
        super().__init__(
            f"{breaking} of {total} portfolios break a rule on {day.isoformat()}, above the limit of {limit}: nothing "
            f"is delivered. Rules broken, most often first: {', '.join(rules)}. "
            "Look at the checks' offenders and have the source mended: the date then runs again by itself."
        )
        self.breaking = breaking
        self.total = total


class BuildError(DeliveryError):
    """The rendered portfolios are not those of the plan: a fault in the code, not in the data."""


class GateRefusedError(DeliveryError):
    """A required check has no verdict for exactly these bytes, or a verdict that says no."""

    def __init__(self, build_id: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"build {build_id} may not be delivered: {'; '.join(reasons)}. Run the checks of this build, and mend what "
            "failed, before delivering it."
        )
        self.reasons = tuple(reasons)


class NotInOrderError(DeliveryError):
    """The business date before this one has not been delivered yet."""

    transient = True

    def __init__(self, feed: str, day: dt.date, previous: dt.date) -> None:
        super().__init__(
            f"{feed} of {day.isoformat()} waits for {previous.isoformat()}, which has not been delivered: deliver that "
            "date first."
        )
        self.previous = previous


class StaleBuildError(DeliveryError):
    """What was delivered has changed since the build was made: build again from the same snapshot."""

    transient = True


class ConsentChangedError(StaleBuildError):
    """A consent ended between building and delivering: build again, without those portfolios."""

    def __init__(self, numbers: Sequence[str]) -> None:
        shown = ", ".join(sorted(numbers)[:20])
        super().__init__(
            f"consent ended for {len(numbers)} portfolio(s) of this build ({shown}): nothing of it is delivered. "
            "Build again; they will be left out."
        )
        self.numbers = tuple(sorted(numbers))


class ChainBusyError(DeliveryError):
    """Other deliveries of the feed kept taking the next place in the chain."""

    transient = True


class DamagedRecordError(DeliveryError):
    """A stored record can't be read, or a stored file isn't what its record says."""

    def __init__(self, location: str, what: str) -> None:
        super().__init__(
            f"{location}: {what}. Something other than classfeed changed or damaged it: restore the object's earlier "
            "version; run `classfeed verify` to see what else is affected."
        )
        self.location = location
