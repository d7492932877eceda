"""Packs of faults: what can be wrong or awkward in bigsite, by name, each with exactly what must come of it.

Beside the catalogue: a case there is a customer, a pack here is a trouble. Packs of one calendar are composable, each in
a portfolio of its own, so that one run over all of them shows that each has its own outcome and no other's. The same
packs feed the rules, the whole feed and reconciliation (``test_faults``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import sqlalchemy as sa

from classfeed_dagster.bigsite import tables
from classfeed_dagster.trading_days import cutoff
from classfeed_dagster_tests.bigsite_builder import Bigsite, Portfolio, Row

MARCH = (dt.date(2026, 3, 2), dt.date(2026, 3, 3))
CLOCKS_BACK = (dt.date(2026, 4, 2), dt.date(2026, 4, 7))  # Sydney's clocks go back on Sunday 5 April, over Easter
LEAP = (dt.date(2024, 2, 28), dt.date(2024, 2, 29))
QUIET = (dt.date(2026, 3, 4), dt.date(2026, 3, 5))
LARGE = 2_000  # trades of one portfolio


@dataclass(frozen=True, slots=True)
class Fault:
    """One pack.

    ``rules``: those that it must break, on every date, and no others; each holds the portfolio back, which
    reconciliation must then tell as its one break. None: it goes. ``movements``: what the recipient must get of its
    movements, by date: (type, transaction date, units or amount).
    ``lifts``: constraints of bigsite (``table.column``) that stand in the fault's way.
    """

    name: str
    purpose: str
    dates: tuple[dt.date, ...]
    build: Callable[[Stage, Portfolio], None]
    rules: tuple[str, ...] = ()
    movements: dict[int, list[tuple[str, dt.date, Decimal]]] | None = None
    lifts: tuple[str, ...] = ()

    @property
    def goes(self) -> bool:
        """Whether the recipient gets the portfolio."""
        return not self.rules


FAULTS: dict[str, Fault] = {}


@dataclass
class Stage:
    """A bigsite in which packs of one calendar are planted."""

    bigsite: Bigsite
    dates: tuple[dt.date, ...]
    portfolios: dict[str, Portfolio] = field(default_factory=dict)
    share: Row = field(init=False)

    def __post_init__(self) -> None:
        self.share = self.bigsite.security("BHP", dict.fromkeys((self.before(10), *self.dates), "45.50"))

    def before(self, days: int) -> dt.date:
        """A day before the first date."""
        return self.dates[0] - dt.timedelta(days=days)

    def plant(self, name: str) -> Portfolio:
        """The pack called ``name``, in a new portfolio that shares."""
        at = list(FAULTS).index(name) + 1
        portfolio = self.portfolios[name] = self.bigsite.portfolio(f"SW9{at:07d}")
        portfolio.consent(granted_at=f"{self.before(12)}T00:00:00Z")
        portfolio.deposit("20000.00", self.before(9))
        FAULTS[name].build(self, portfolio)
        return portfolio

    def lift(self, *columns: str) -> None:
        """Drop the constraints that keep a fault out."""
        assert self.bigsite.engine is not None
        with self.bigsite.engine.begin() as connection:
            for column in columns:
                table, _, name = column.partition(".")
                found = connection.execute(
                    sa.text(
                        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = CAST(:t AS regclass) "
                        "AND pg_get_constraintdef(oid) LIKE :c"
                    ),
                    {"t": f"bigsite.{table}", "c": f"%{name}%"},
                ).scalars()
                for constraint in list(found):
                    connection.execute(sa.text(f'ALTER TABLE bigsite.{table} DROP CONSTRAINT "{constraint}"'))


def fault(
    name: str,
    purpose: str,
    dates: tuple[dt.date, ...] = MARCH,
    *,
    rules: tuple[str, ...] = (),
    movements: dict[int, list[tuple[str, dt.date, Decimal]]] | None = None,
    lifts: tuple[str, ...] = (),
) -> Callable[[Callable[[Stage, Portfolio], None]], Callable[[Stage, Portfolio], None]]:
    """Enters a pack: given a stage and a new portfolio, it plants what the name says."""

    def enter(build: Callable[[Stage, Portfolio], None]) -> Callable[[Stage, Portfolio], None]:
        assert name not in FAULTS, f"two packs are called {name!r}"
        FAULTS[name] = Fault(name, purpose, dates, build, rules, movements, lifts)
        return build

    return enter


# -- wrong rows -------------------------------------------------------------------------------------------------------


@fault(
    "a duplicate trade",
    "one contract note written twice: sent, the fund would hold double",
    rules=("repeated_confirmation",),
)
def duplicate_trade(stage: Stage, portfolio: Portfolio) -> None:
    for _ in range(2):
        portfolio.buy(stage.share, "10", "45.00", stage.before(8), confirmation_number="CN77")


@fault("a gap in a ledger", "a row that the end of day counted is no longer there", rules=("units_ledger",))
def gap(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.buy(stage.share, "10", "45.00", stage.before(8))
    lost = portfolio.security_movement(stage.share, "TRANSFER_IN", "5", on=stage.before(8))
    stage.bigsite.rows[tables.security_movement].remove(lost)  # its units stay in the end of day


@fault("numbers that skip", "ledger ids with a gap between them are no gap: databases skip numbers")
def skipped_numbers(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.buy(stage.share, "10", "45.00", stage.before(8), settles=False, trade_id=700_001)
    portfolio.buy(stage.share, "10", "45.00", stage.before(7), settles=False, trade_id=900_001)


@fault("a wrong sign", "a purchase whose note pays the customer", rules=("net_amount",))
def wrong_sign(stage: Stage, portfolio: Portfolio) -> None:
    note = portfolio.buy(stage.share, "10", "45.00", stage.before(8), settles=False)
    note["net_amount"] = -note["net_amount"]


@fault(
    "an unknown code",
    "a cash transaction of a type that the mapping has never seen",
    rules=("unknown_transaction_type", "unknown_value"),
    lifts=("cash_transaction.transaction_type",),
)
def unknown_code(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.cash_transaction("LOYALTY", "5.00", stage.before(8))


# -- awkward texts ----------------------------------------------------------------------------------------------------


@fault("letters of every kind", "right-to-left, combining and astral letters are only letters")
def unicode_letters(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.row["portfolio_name"] = "שָׁלוֹם e\u0301\u0302 𝔘𝔫𝔦 👩‍🌾 \u202eSuper\u202c"
    portfolio.buy(stage.share, "1", "45.00", stage.before(8))


@fault("a control character", "no XML can carry it, whatever is done", rules=("unwritable_character",))
def control_character(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.row["portfolio_name"] = "Vertical\x0bTab Super"


# -- awkward sizes and days -------------------------------------------------------------------------------------------


@fault("a very large portfolio", "thousands of rows of one portfolio stay on one page, in order")
def very_large(stage: Stage, portfolio: Portfolio) -> None:
    for _ in range(LARGE):
        portfolio.buy(stage.share, "1", "0.01", stage.before(8), brokerage="0.00", settles=False)


@fault(
    "the hour that comes twice",
    "rows of both half past twos of the night when Sydney's clocks go back, and one at the cut-off itself",
    CLOCKS_BACK,
    movements={
        1: [
            ("CASH_DEPOSIT", dt.date(2026, 4, 5), Decimal("1.00")),
            ("CASH_DEPOSIT", dt.date(2026, 4, 5), Decimal("2.00")),
        ]
    },
)
def clocks_go_back(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.deposit("1.00", "2026-04-05", recorded_at="2026-04-04T15:30:00Z")  # 02:30 in summer time
    portfolio.deposit("2.00", "2026-04-05", recorded_at="2026-04-04T16:30:00Z")  # 02:30 again
    portfolio.deposit("4.00", "2026-04-08", recorded_at=cutoff(dt.date(2026, 4, 7)))  # of the next window


@fault(
    "the 29th of February",
    "a business date that three years in four don't have",
    LEAP,
    movements={1: [("BUY", dt.date(2024, 2, 29), Decimal("3.000000"))]},
)
def leap_day(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.buy(stage.share, "3", "45.00", dt.date(2024, 2, 29), settles=False)


@fault(
    "a day without a trade",
    "nothing happened: the recipient hears so, and everybody is current",
    QUIET,
    movements={1: []},
)
def no_trade_day(stage: Stage, portfolio: Portfolio) -> None:
    portfolio.buy(stage.share, "3", "45.00", stage.before(8))
