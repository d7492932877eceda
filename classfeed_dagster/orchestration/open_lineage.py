"""The lineage graph as OpenLineage events for a catalogue: datasets, columns and jobs.

Static lineage (the standard's JobEvent): one event per materializable asset, with its inputs and outputs. It is derived
from Dagster's metadata, so that catalogue and UI agree. A client library would add a dependency to write JSON.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster import AssetKey, Definitions
    from dagster import TableColumn as Column

SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/JobEvent"
PRODUCER = "urn:classfeed-dagster"
_FACETS = {
    "schema": "1-1-1/SchemaDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "documentation": "1-0-1/DocumentationDatasetFacet",
    "ownership": "1-0-1/OwnershipDatasetFacet",
}
_JOB_FACETS = {
    "documentation": "1-0-1/DocumentationJobFacet",
    "ownership": "1-0-1/OwnershipJobFacet",
    "jobType": "2-0-3/JobTypeJobFacet",
}
# Columns are derived from the values of others; none is only counted or only filtered by.
_DIRECT = [{"type": "DIRECT", "subtype": "TRANSFORMATION", "description": "", "masking": False}]


def open_lineage_events(definitions: Definitions, namespace: str, at: dt.datetime) -> Iterator[dict[str, Any]]:
    """Yield one JobEvent per materializable asset, in order of key. ``at``: time of the events, with a time zone.

    A dataset's facets are in the event that outputs it; those of bigsite's tables are in the event that reads them
    first.
    """
    if at.tzinfo is None:
        raise ValueError("The time of an event needs a time zone")
    graph = definitions.resolve_asset_graph()
    described: set[AssetKey] = set()
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        if not node.is_materializable:
            continue
        inputs = []
        for parent in sorted(node.parent_keys):
            first = not graph.get(parent).is_materializable and parent not in described
            described.add(parent)
            inputs.append(_dataset(graph.get(parent), namespace, full=first))
        yield {
            "eventTime": at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "producer": PRODUCER,
            "schemaURL": EVENT_SCHEMA,
            "job": {"namespace": namespace, "name": _name(key), "facets": _job_facets(node)},
            "inputs": inputs,
            "outputs": [_dataset(node, namespace, full=True)],
        }


def to_json_lines(events: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yield one event a line, as collectors read them from files."""
    for event in events:
        yield json.dumps(event, ensure_ascii=False, sort_keys=True)


def column_lines(definitions: Definitions) -> Iterator[str]:
    """Yield ``asset.column <- asset.column, ...``, in order of asset, with columns in the asset's order."""
    graph = definitions.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys()):
        lineage = graph.get(key).metadata.get("dagster/column_lineage")
        for column, deps in lineage.deps_by_column.items() if lineage else ():
            sources = ", ".join(f"{_name(dep.asset_key)}.{dep.column_name}" for dep in deps)
            yield f"{_name(key)}.{column} <- {sources}"


def _dataset(node: Any, namespace: str, *, full: bool) -> dict[str, Any]:
    dataset = {"namespace": namespace, "name": _name(node.key)}
    return {**dataset, "facets": _dataset_facets(node, namespace)} if full else dataset


def _dataset_facets(node: Any, namespace: str) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if node.description:
        facets["documentation"] = {"description": node.description}
    if node.owners:
        facets["ownership"] = {"owners": [{"name": owner, "type": "MAINTAINER"} for owner in node.owners]}
    schema = node.metadata.get("dagster/column_schema")
    if schema is not None:
        facets["schema"] = {"fields": [_field(column) for column in schema.columns]}
    lineage = node.metadata.get("dagster/column_lineage")
    if lineage is not None:
        facets["columnLineage"] = {
            "fields": {
                column: {
                    "inputFields": [
                        {
                            "namespace": namespace,
                            "name": _name(dep.asset_key),
                            "field": dep.column_name,
                            "transformations": _DIRECT,
                        }
                        for dep in deps
                    ]
                }
                for column, deps in lineage.deps_by_column.items()
            }
        }
    return {name: _facet(_FACETS[name], facet) for name, facet in facets.items()}


def _field(column: Column) -> dict[str, Any]:
    # The standard's fields have no tags, so the description states that a column is personal data.
    personal = column.tags.get("personal_data")
    description = f"{column.description} (personal data: {personal})" if personal else column.description
    return {"name": column.name, "type": column.type, "description": description or ""}


def _job_facets(node: Any) -> dict[str, Any]:
    facets: dict[str, Any] = {"jobType": {"processingType": "BATCH", "integration": "DAGSTER", "jobType": "ASSET"}}
    if node.description:
        facets["documentation"] = {"description": node.description}
    if node.owners:
        facets["ownership"] = {"owners": [{"name": owner, "type": "MAINTAINER"} for owner in node.owners]}
    return {name: _facet(_JOB_FACETS[name], facet) for name, facet in facets.items()}


def _facet(schema: str, content: dict[str, Any]) -> dict[str, Any]:
    version, name = schema.split("/")
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}", **content}


def _name(key: AssetKey) -> str:
    return str(key.to_user_string())
