"""A feed's jobs: one business date from bigsite to the recipient, and the same for a range of dates, one run a date."""

from __future__ import annotations

import dagster as dg

from classfeed_dagster.feeds.feed import Feed
from classfeed_dagster.orchestration.optional_dependencies import extra_needed
from classfeed_dagster.tags import CODE_VERSION_TAG, FEED_TAG, feed_job_name


def feed_job(feed: Feed, code_version: str, executor: dg.ExecutorDefinition) -> dg.UnresolvedAssetJobDefinition:
    """Everything between bigsite and the feed's delivery. Backfill it over a range of dates: each gets its own run."""
    return dg.define_asset_job(
        feed_job_name(feed.name),
        selection=dg.AssetSelection.assets(dg.AssetKey([feed.name, "delivery"]))
        .upstream()
        .required_multi_asset_neighbors(),
        description=f"{feed.title}. One business date a run; select a range to backfill, one run a date. Safe at "
        "any time, twice, or at once with another: what was delivered is never delivered again.",
        tags={FEED_TAG: feed.name, CODE_VERSION_TAG: code_version},
        executor_def=executor,
    )


def executor_called(name: str) -> dg.ExecutorDefinition:
    """The executor of the setting ``CLASSFEED_EXECUTOR``: how a run's steps are executed.

    ``in_process`` unless set, for on ordinary days starting processes costs more than the work. ``multiprocess`` starts
    a process a step, ``celery`` gives steps to workers on other machines, ``k8s`` starts a pod a step. The last two are
    extras of this project; ExecutorError says which to install if it is missing.
    """
    match name:
        case "multiprocess":
            return dg.multiprocess_executor
        case "celery":
            from classfeed_dagster.orchestration.celery_executor import celery_steps

            return celery_steps
        case "k8s":
            with extra_needed(name, "k8s"):
                from dagster_k8s import k8s_job_executor
            return k8s_job_executor
    return dg.in_process_executor
