"""World of simulated customers in a bigsite: seeded once, then advanced day by day.

Equal seed, market, plan and day give equal rows, independent of earlier runs. The database records its world and its
last day, so that no day is written twice and missed days are added in order.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import sqlalchemy as sa
from pydantic import TypeAdapter

from classfeed_dagster.errors import ExitCode, SafeguardError
from classfeed_dagster.settings import Environment, get_settings
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.books import CustomersBooks, add_up
from classfeed_dagster.simulation.customers import CLASS
from classfeed_dagster.simulation.day import DaySummary, Plan, PlantedFault, Simulation
from classfeed_dagster.simulation.end_of_day import run_time
from classfeed_dagster.simulation.guard import plan_table, world_table
from classfeed_dagster.simulation.identifiers import portfolio_number
from classfeed_dagster.simulation.market import Market
from classfeed_dagster.simulation.writing import write
from classfeed_dagster.trading_days import cutoff, next_business_day, previous_business_day, require_business_day

GENERATION = 1  # raise it when an equal plan gives other rows: an old world is then not continued
HISTORY_DAYS = 40
_MIN_HISTORY = 6
_MAX_PORTFOLIOS = 500_000
PLANS = TypeAdapter(Plan)  # as JSON, next to the marker
_LOCK = 0x53494D  # advisory lock for writing worlds


class WorldError(SafeguardError):
    """The database has another world than this one, or none yet. Nothing was written."""

    exit_code = ExitCode.USAGE


class World:
    """World of ``portfolios`` simulated customers, the first ``consented`` of whom share with Class from the start.

    ``first_day``: first business day that ``advance`` writes. ``history_days``: business days before it that ``seed``
    writes. ``faults``: planted on purpose; without them no rule is violated. ``environment``: default the setting.
    ValueError for inconsistent numbers; NotABusinessDayError if ``first_day`` is not a business day.
    """

    def __init__(
        self,
        seed: int,
        market: Market,
        *,
        consented: int,
        portfolios: int,
        first_day: dt.date,
        history_days: int = HISTORY_DAYS,
        faults: Collection[PlantedFault] = (),
        environment: Environment | None = None,
    ) -> None:
        require_business_day(first_day)
        if not 0 <= consented <= portfolios <= _MAX_PORTFOLIOS or portfolios == 0 or history_days < _MIN_HISTORY:
            raise ValueError(
                f"{consented} consented of {portfolios} portfolios after {history_days} days of history is no world: "
                f"0 <= consented <= portfolios <= {_MAX_PORTFOLIOS}, and at least {_MIN_HISTORY} days"
            )
        if faults and (not consented or any(fault.planted_on < first_day for fault in faults)):
            raise ValueError("faults are planted with customers who share, on the first day or later")
        self.plan = Plan(seed, consented, portfolios, first_day, history_days, tuple(faults))
        self._market = market
        self._environment = environment
        self._simulation = Simulation(self.plan, market)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint: two worlds with an equal one write equal rows."""
        return hashlib.sha256(f"{GENERATION}|{self._market.name}|{self.plan!r}".encode()).hexdigest()

    @property
    def description(self) -> str:
        """Return a short description of the world."""
        plan = self.plan
        last = max((fault.corrected_on or fault.planted_on for fault in plan.faults), default=None)
        return (
            f"seed {plan.seed}, market {self._market.name}, {plan.consented} consented of {plan.portfolios} portfolios"
            + (f", faults planted until {last}" if last else "")
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def seed(self, engine: sa.Engine) -> None:
        """Write customers, securities and the history before the first day, unless this world exists already.

        Raises SimulationRefusedError where simulation is forbidden, WorldError if the database has another world.
        """
        guard.require_target(engine, self._env)
        last = previous_business_day(self.plan.first_day)
        with engine.begin() as connection:
            self._lock(connection)
            guard.require_database(connection)
            guard.create_marker(connection)
            if self._last_day(connection) is not None:
                return
            if self._simulation.next_day != self.plan.timeline.day(-self.plan.history):
                self._restart()
            while self._simulation.next_day <= last:
                _, rows = self._simulation.run()
                write(connection, rows)
            connection.execute(
                sa.insert(world_table).values(
                    world_id=1,
                    fingerprint=self.fingerprint,
                    description=self.description,
                    first_day=self.plan.first_day,
                    last_day=last,
                )
            )
            plan = PLANS.dump_json(self.plan, by_alias=True).decode()
            connection.execute(sa.insert(plan_table).values(world_id=1, market=self._market.name, plan=plan))

    def advance(self, engine: sa.Engine, day: dt.date) -> DaySummary:
        """Write ``day`` and any missing day before it, unless the database has them, and return ``day``'s summary.

        Raises as ``seed``; WorldError also if the world was not seeded, ValueError for a day before the first.
        """
        return self.catch_up(engine, day)[-1]

    def catch_up(self, engine: sa.Engine, day: dt.date) -> list[DaySummary]:
        """Advance to ``day`` and return the summaries of all days written now, at least ``day``'s, in order."""
        require_business_day(day)
        if day < self.plan.first_day:
            raise ValueError(f"{day} comes before the world's first day, {self.plan.first_day}: it is history")
        guard.require_target(engine, self._env)
        written: list[DaySummary] = []
        while (summary := self._write_next(engine, day)) is not None:
            written.append(summary)
        return written if written and written[-1].day == day else [*written, self._summary(day)]

    def _write_next(self, engine: sa.Engine, until: dt.date) -> DaySummary | None:
        # One transaction a day, so that the database has whole days even if this process is killed.
        with engine.begin() as connection:
            self._lock(connection)
            guard.require_database(connection)
            last = self._last_day(connection)
            if last is None:
                raise WorldError("the world is not seeded in this database: seed it first")
            if last >= until:
                return None
            if self._simulation.next_day > next_business_day(last):
                self._restart()
            while self._simulation.next_day <= last:
                self._simulation.run()
            summary, rows = self._simulation.run()
            write(connection, rows)
            connection.execute(sa.update(world_table).values(last_day=summary.day))
        return replace(summary, written=True)

    def _restart(self) -> None:
        self._simulation = Simulation(self.plan, self._market)

    def _summary(self, day: dt.date) -> DaySummary:
        self._know(day)
        return self._simulation.summaries[day]

    def recent(self, until: dt.date, days: int) -> Sequence[DaySummary]:
        """Return the summaries of the last ``days`` business days up to ``until``, oldest first."""
        self._know(until)
        known = [day for day in sorted(self._simulation.summaries) if day <= until]
        return [self._simulation.summaries[day] for day in known[-days:]]

    @property
    def _env(self) -> Environment:
        return self._environment or get_settings().env

    @staticmethod
    def _lock(connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def _last_day(self, connection: sa.Connection) -> dt.date | None:
        if not sa.inspect(connection).has_table(world_table.name, schema=world_table.schema):
            return None
        columns = (world_table.c.fingerprint, world_table.c.description, world_table.c.last_day)
        row = connection.execute(sa.select(*columns)).first()
        if row is None:
            return None
        if row.fingerprint != self.fingerprint:
            raise WorldError(
                f"the database holds another world ({row.description}), and this one is {self.description}; "
                "nothing was written: keep that one, or remove it first (make clean)"
            )
        last: dt.date = row.last_day
        return last

    # -- the oracle ---------------------------------------------------------------------------------------------------

    def books(self, as_at: dt.date, *, known_before: dt.datetime | None = None) -> CustomersBooks:
        """Return all customers' own books at the end of ``as_at``.

        The default is their knowledge before ``as_at``'s cut-off: the sum of all movements delivered by then. Holdings
        and balances follow bigsite's job: ``known_before=world.end_of_day(as_at)``. The two differ by rows recorded
        between the cut-off and the job.
        """
        self._know(as_at)
        notebooks = {portfolio_number(p.customer.number): p.notes for p in self._simulation.portfolios}
        return add_up(notebooks, as_at, known_before or cutoff(as_at))

    def end_of_day(self, day: dt.date) -> dt.datetime:
        """Return the instant at which bigsite's end-of-day job for ``day`` runs, shortly after its cut-off."""
        return run_time(self.plan.seed, day)

    def sharing(self, day: dt.date, recipient: str = CLASS) -> frozenset[str]:
        """Return the numbers of the portfolios that should share with ``recipient`` at ``day``'s cut-off."""
        at = cutoff(day)
        customers = (p.customer for p in self._simulation.portfolios if p.customer.opened_on <= day)
        return frozenset(
            portfolio_number(customer.number)
            for customer in customers
            if any(consent.recipient == recipient and consent.holds(at) for consent in customer.consents)
        )

    def _know(self, day: dt.date) -> None:
        while self._simulation.next_day <= day:
            self._simulation.run()
