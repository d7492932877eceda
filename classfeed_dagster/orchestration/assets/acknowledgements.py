"""The recipient as a node of the graph, and its acknowledgements of a feed's deliveries."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from classfeed_dagster.acknowledgements.inbox import FileAnswers
from classfeed_dagster.feed_run.acknowledged import AcknowledgementRun, read_answers
from classfeed_dagster.logs import get_logger
from classfeed_dagster.orchestration.asset_keys import feed_group, runbook_value
from classfeed_dagster.orchestration.feed_context import FeedContext
from classfeed_dagster.orchestration.metadata_values import markdown_table
from classfeed_dagster.orchestration.step_context import correlation_id, current_time
from classfeed_dagster.runtime import Runtime

_SHOWN = 50


def acknowledgement_assets(feed_context: FeedContext) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the recipient and the asset of its acknowledgements; none for a feed whose recipient does not answer."""
    mapping = feed_context.feed.acknowledgements
    if mapping is None:
        return []
    recipient = dg.AssetKey(["recipient", feed_context.feed.name])
    given = feed_context.key("transmission" if feed_context.feed.sends_to is not None else "delivery")

    @dg.asset(
        key=feed_context.key("acknowledgement"),
        deps=[recipient],
        group_name=feed_group(feed_context.feed.name),
        description=f"{feed_context.feed.recipient}'s answers about delivered files, from the inbox "
        f"acknowledgements/{feed_context.feed.name}/. Rejected records are breaks; messages without a match are "
        "dead letters.",
        metadata={"runbook": runbook_value("not-acknowledged")},
    )
    def acknowledgement(
        context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.MaterializeResult[None]]:
        at = runtime.clock(context.run.tags) or current_time(runtime)
        work = AcknowledgementRun(runtime, feed_context.feed, mapping, at, correlation_id(context))
        result = work.process()
        get_logger().info("answers read", new=len(result.acknowledgements), dead_letters=len(result.dead_letters))
        yield dg.MaterializeResult(
            metadata={
                "new_answers": len(result.acknowledgements),
                "new_dead_letters": len(result.dead_letters),
                "files": _table(
                    [file for day in work.dates(result) for file in read_answers(runtime, feed_context.feed, day)]
                ),
            }
        )

    return [
        dg.AssetSpec(
            recipient,
            deps=[given],
            group_name=feed_group(feed_context.feed.name),
            description=f"{feed_context.feed.recipient}, who loads what {feed_context.feed.name} delivers and answers.",
        ),
        acknowledgement,
    ]


def _table(files: list[FileAnswers]) -> Any:
    rows = [
        (
            file.page.message_id,
            file.state.value if file.state else "not answered",
            "contradictory" if file.contradictory else "",
            sum(record.state.value == "rejected" for answer in file.answers for record in answer.records),
        )
        for file in files[:_SHOWN]
    ]
    return markdown_table(["file", "state", "", "rejected records"], rows)
