"""Assets of the owner's numbers: one for each source, and the monthly page."""

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from classfeed_dagster.feed_run.flags import is_live
from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.asset_keys import GROUP_OPERATIONS, GROUP_OWNER
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import markdown_table, object_link, plotted
from classfeed_dagster.orchestration.run_history import business_date_of, is_of_feed
from classfeed_dagster.orchestration.step_context import current_time, since, usage_of
from classfeed_dagster.runtime import Runtime
from classfeed_dagster.service_levels import owner_months, toil
from classfeed_dagster.service_levels.observations import (
    CreditsNotGrantedError,
    Observation,
    credit_observations,
    observation_key,
    observations,
    record,
    usage_observation,
)
from classfeed_dagster.service_levels.owner_page import HEADER, figure_rows, owner_page
from classfeed_dagster.service_levels.service_levels import Punctuality, deliveries, due_since, judge
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import to_json
from classfeed_dagster.tags import CORRELATION_TAG, reconciliation_job_name
from classfeed_dagster.warehouse.connection import open_warehouse

_LOOK_BACK = dt.timedelta(days=40)
_RUNS_LOOK_BACK = dt.timedelta(days=14)
_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_PAGES = 2  # the month before is written again until it is closed


def owner_assets(feed_contexts: Sequence[FeedContext]) -> list[dg.AssetsDefinition]:
    """Return the owner's numbers of all feeds."""
    return [_deliveries(feed_contexts), _costs(feed_contexts), _engineering(), _month(feed_contexts)]


def _deliveries(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["owner", "deliveries"],
        deps=[feed_context.key("delivery") for feed_context in feed_contexts],
        group_name=GROUP_OWNER,
        description="Punctuality and duration of each business date, recorded once after its deadline.",
    )
    def delivered(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        started, now = time.monotonic(), current_time(runtime)
        recorded = sum(
            record(runtime.store, f"{observation.feed}-{observation.business_date}", observation)
            for feed_context in feed_contexts
            for observation in _of_dates(runtime, feed_context, now)
        )
        return dg.MaterializeResult(metadata={"recorded": recorded, "seconds": since(started)})

    return delivered


def _of_dates(runtime: Runtime, feed_context: FeedContext, now: dt.datetime) -> Iterator[Observation]:
    feed, store = feed_context.feed, runtime.store
    live = is_live(feed, runtime.settings.env)
    for date in due_since(feed, feed_context.audience, now, (now - _LOOK_BACK).date()):
        day = date.business_date
        common: dict[str, Any] = {"at": now, "feed": feed.name, "business_date": day}

        def stored(source: str, day: dt.date = day) -> bool:
            return store.exists(observation_key(f"{day:%Y-%m}", source, f"{feed.name}-{day}"))

        if not stored("punctuality"):
            on_time = judge(store, feed, date).verdict in (Punctuality.ON_TARGET, Punctuality.IN_TIME)
            # A date of a feed in shadow or off is never late, also once the feed is live.
            yield Observation(source="punctuality", values={"on_time": Decimal(on_time)} if live else {}, **common)
        if not stored("performance") and (first := deliveries(store, feed, day)[:1]):
            seconds = Decimal(round((first[0].delivered_at - first[0].snapshot_at).total_seconds()))
            yield Observation(source="performance", values={"date_seconds": seconds}, **common)


def _costs(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    @dg.asset(
        key=["owner", "costs"],
        deps=[feed_context.key("delivery") for feed_context in feed_contexts],
        group_name=GROUP_OWNER,
        description="Cost of each business date by attempt: processor time and object-store use of its runs, and "
        "Snowflake credits by QUERY_TAG. Without a Snowflake account there are no credits.",
    )
    def costs(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        started, now = time.monotonic(), current_time(runtime)
        feeds = [feed_context.feed for feed_context in feed_contexts]
        runs = sum(
            record(runtime.store, name, observation)
            for name, observation in _of_runs(context.instance, runtime.store, feeds, now)
        )
        attempts: list[Observation] = []
        state = "no Snowflake account"
        if runtime.settings.snowflake_account is not None:
            try:
                with open_warehouse(runtime.settings) as connection:
                    names = [feed.name for feed in feeds]
                    attempts = list(credit_observations(connection, names, now - _LOOK_BACK, now))
                state = "read"
            except CreditsNotGrantedError as error:  # the other numbers do not wait for a grant
                state = str(error)
        recorded = sum(
            record(runtime.store, f"{attempt.feed}-{attempt.business_date}-{attempt.correlation_id}", attempt)
            for attempt in attempts
        )
        return dg.MaterializeResult(
            metadata={
                "runs_recorded": runs,
                "credits": state,
                "attempts_with_credits": recorded,
                "seconds": since(started),
            }
        )

    return costs


def _of_runs(
    instance: dg.DagsterInstance, store: ObjectStore, feeds: Sequence[Feed], now: dt.datetime
) -> Iterator[tuple[str, Observation]]:
    # Observations of finished runs by name, of a backfill's old dates too.
    finished = dg.RunsFilter(statuses=list(_FINISHED), updated_after=now - _RUNS_LOOK_BACK)
    for run_record in instance.get_run_records(finished):
        run, day = run_record.dagster_run, business_date_of(run_record.dagster_run)
        feed = next((feed.name for feed in feeds if _belongs(run, feed.name)), None)
        if day is None or feed is None:
            continue
        name = f"{feed}-{day.isoformat()}-{run.run_id}"
        if not store.exists(observation_key(f"{day:%Y-%m}", "cost", name)):
            used = usage_of(instance, run.run_id)
            yield name, usage_observation(feed, day, run.tags.get(CORRELATION_TAG), used, now)


def _belongs(run: dg.DagsterRun, feed: str) -> bool:
    return is_of_feed(run, feed) or run.job_name == reconciliation_job_name(feed)


def _engineering() -> dg.AssetsDefinition:
    @dg.asset(
        key=["owner", "engineering"],
        group_name=GROUP_OWNER,
        description="Observations that the pipelines recorded: durations of their jobs, coverage, mutation score, "
        "tickets and reviews. Nothing is read from the forge here.",
    )
    def engineering(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.MaterializeResult[None]:
        started, now = time.monotonic(), current_time(runtime)
        damaged: list[str] = []
        recorded = [
            observation
            for month in owner_months.months_until(toil.month_of(now), 2)
            for source in ("pipeline", "mutation", "forge")
            for observation in observations(runtime.store, month, damaged, f"{source}/")
        ]
        latest = {last.source: f"{last.at:%Y-%m-%d %H:%M} UTC" for last in sorted(recorded, key=lambda each: each.at)}
        worked: dict[str, list[Decimal]] = {}
        for observation in recorded:
            for job, seconds in observation.parts.items():
                if seconds.get("succeeded"):
                    worked.setdefault(job, []).append(seconds["worked_seconds"])
        rows = [(job, len(runs), *owner_months.median_and_p95(runs)) for job, runs in sorted(worked.items())]
        return dg.MaterializeResult(
            metadata={
                "observations": len(recorded),
                **({"cannot_be_read": ", ".join(damaged)} if damaged else {}),
                "latest": markdown_table(["source", "latest observation"], sorted(latest.items())),
                "jobs": markdown_table(["job", "runs", "median, s", "95 %, s"], rows),
                "seconds": since(started),
            }
        )

    return engineering


def _month(feed_contexts: Sequence[FeedContext]) -> dg.AssetsDefinition:
    names = [feed_context.feed.name for feed_context in feed_contexts]

    @dg.asset(
        key=["owner", "month"],
        deps=[["owner", "deliveries"], ["owner", "costs"], ["owner", "engineering"], [GROUP_OPERATIONS, "toil"]],
        group_name=GROUP_OWNER,
        description="The owner's numbers of the month against their targets, with twelve months of history, as a "
        "page. A month is closed ten days after its end.",
    )
    def month(context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
        started, now, store = time.monotonic(), current_time(runtime), runtime.store
        current = toil.month_of(now)
        closed = sum(
            owner_months.close_month(store, names, name, now) for name in owner_months.months_until(current)[:-1]
        )
        past = owner_months.history(store, names, current, now, owner_months.MONTHS + 1)
        store.put(owner_months.CURRENT_KEY, to_json(past[-1]))
        for at in range(len(past) - _PAGES, len(past)):
            months = past[max(0, at + 1 - owner_months.MONTHS) : at + 1]
            store.put(f"owner-report/{past[at].month}.html", owner_page(months).encode())
        return dg.MaterializeResult(
            metadata={
                "numbers": markdown_table(HEADER, figure_rows(past)),
                "page": object_link(store.location(f"owner-report/{current}.html")),
                "months_closed": closed,
                **{
                    f"{figure.feed}_{figure.metric}" if figure.feed else figure.metric: plotted(figure.value)
                    for figure in past[-1].figures
                },
                "seconds": since(started),
            }
        )

    return month
