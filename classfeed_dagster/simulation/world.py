"""A world of simulated customers in a bigsite: seed it once, then advance it day by day.

Same seed, same market, same plan, same day: the same rows, whatever was run before. The database remembers which world
it holds and up to which day, so that a day is never written twice, and days that were missed are caught up in order.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import sqlalchemy as sa
from pydantic import TypeAdapter

from classfeed_dagster.errors import SafeguardError
from classfeed_dagster.settings import Environment, get_settings
from classfeed_dagster.simulation import guard
from classfeed_dagster.simulation.books import CustomersBooks, add_up
from classfeed_dagster.simulation.customers import CLASS
from classfeed_dagster.simulation.day import DaySummary, Fault, Plan, PlantedFault, Simulation
from classfeed_dagster.simulation.end_of_day import run_time
from classfeed_dagster.simulation.guard import plan_table, world_table
from classfeed_dagster.simulation.identifiers import portfolio_number
from classfeed_dagster.simulation.market import Market
from classfeed_dagster.simulation.writing import write
from classfeed_dagster.trading_days import cutoff, next_business_day, previous_business_day, require_business_day

GENERATION = 1  # raise it when the same plan comes to mean other rows: an old world is then not continued
HISTORY_DAYS = 40
_MIN_HISTORY = 6
_MAX_PORTFOLIOS = 500_000
PLANS = TypeAdapter(Plan)  # as JSON, beside the marker
_LOCK = 0x53494D  # the advisory lock under which worlds are written


class WorldError(SafeguardError):
    """The database holds another world than this one, or none yet; nothing was written."""


class World:
    """``portfolios`` simulated customers, the first ``consented`` of whom share with Class at the first day's cut-off.

    ``first_day``: the first business day that ``advance`` writes; ``history_days`` business days before it are
    written by ``seed``. ``faults`` are planted on purpose; without them nothing breaks a rule. ``environment``: by
    default the setting. ValueError if the numbers make no sense; NotABusinessDayError if ``first_day`` is none.
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
        """The world in a few words, for people."""
        plan = self.plan
        last = max((one.mended_on or one.planted_on for one in plan.faults), default=None)
        return (
            f"seed {plan.seed}, market {self._market.name}, {plan.consented} consented of {plan.portfolios} portfolios"
            + (f", faults planted until {last}" if last else "")
        )

    @property
    def faulty_portfolios(self) -> dict[Fault, str]:
        """The number of the portfolio in which each fault is planted at some time."""
        return {f.fault: portfolio_number(self.plan.faulty(f.fault)) for f in self.plan.faults}

    # -- writing ------------------------------------------------------------------------------------------------------

    def seed(self, engine: sa.Engine) -> None:
        """Write customers, securities and the history before the first day; nothing if this world is there already.

        Raises SimulationRefusedError where simulation is forbidden, WorldError if the database holds another world.
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
            plan = PLANS.dump_json(self.plan).decode()
            connection.execute(sa.insert(plan_table).values(world_id=1, market=self._market.name, plan=plan))

    def advance(self, engine: sa.Engine, day: dt.date) -> DaySummary:
        """Write ``day``, and before it any day that is missing; nothing if the database has it. ``day``'s summary.

        Raises as ``seed`` does; WorldError also if the world was not seeded, ValueError for a day before the first.
        """
        return self.catch_up(engine, day)[-1]

    def catch_up(self, engine: sa.Engine, day: dt.date) -> list[DaySummary]:
        """As ``advance``: the summaries of every day written now, in order, at least ``day``'s."""
        require_business_day(day)
        if day < self.plan.first_day:
            raise ValueError(f"{day} comes before the world's first day, {self.plan.first_day}: it is history")
        guard.require_target(engine, self._env)
        written: list[DaySummary] = []
        while (summary := self._write_next(engine, day)) is not None:
            written.append(summary)
        return written if written and written[-1].day == day else [*written, self._summary(day)]

    def _write_next(self, engine: sa.Engine, until: dt.date) -> DaySummary | None:
        # One transaction a day: whatever ends this process, the database holds whole days.
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

        By default of what they knew before ``as_at``'s cut-off: the sum of all movements delivered by then. Holdings
        and balances state what bigsite's job knew: ``known_before=world.end_of_day(as_at)``. The two differ by rows
        recorded between the cut-off and the job.
        """
        self._know(as_at)
        notebooks = {portfolio_number(p.customer.number): p.notes for p in self._simulation.portfolios}
        return add_up(notebooks, as_at, known_before or cutoff(as_at))

    def end_of_day(self, day: dt.date) -> dt.datetime:
        """Return the instant at which bigsite's end-of-day job for ``day`` runs, shortly after its cut-off."""
        return run_time(self.plan.seed, day)

    def sharing(self, day: dt.date, recipient: str = CLASS) -> frozenset[str]:
        """Numbers of the portfolios whose owners mean to share with ``recipient`` at ``day``'s cut-off."""
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
