"""The lineage graph for people and catalogues: a searchable data dictionary, lines of text, OpenLineage events.

Static lineage (the standard's JobEvent): one event per materializable asset, with its inputs and outputs. It is derived
from Dagster's metadata, so that catalogue and UI agree. A client library would add a dependency to write JSON.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from classfeed_dagster.html_page import escape, page, table
from classfeed_dagster.orchestration.column_metadata import PERSONAL
from classfeed_dagster.settings import Settings

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
    "tags": "1-0-0/TagsDatasetFacet",
}
_JOB_FACETS = {
    "documentation": "1-0-1/DocumentationJobFacet",
    "ownership": "1-0-1/OwnershipJobFacet",
    "jobType": "2-0-3/JobTypeJobFacet",
}
# Columns are derived from the values of others; none is only counted or only filtered by.
_DIRECT = [{"type": "DIRECT", "subtype": "TRANSFORMATION", "description": "", "masking": False}]


class DatasetNames:
    """Names of datasets by the standard's naming rules, so that events of other teams name the same datasets."""

    def __init__(self, settings: Settings) -> None:
        """Take hosts, bucket and account from ``settings``. Files outside S3 have the namespace ``file``."""
        bigsite = settings.bigsite_url and urlsplit(settings.bigsite_url.get_secret_value())
        host, port = (bigsite and bigsite.hostname) or "localhost", (bigsite and bigsite.port) or 5432
        self._postgres = f"postgres://{host}:{port}"
        self._database = (bigsite and bigsite.path.strip("/")) or "bigsite"
        self._snowflake = f"snowflake://{settings.snowflake_account or 'local'}"
        self._schema = f"{settings.snowflake_database}.{settings.snowflake_schema}"
        self._data_team = settings.data_team_table.upper()
        location = settings.store_location
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self._files, self._prefix = (f"s3://{bucket}", prefix.strip("/")) if "://" in location else ("file", location)

    def of(self, key: AssetKey) -> tuple[str, str]:
        """Return namespace and name of an asset's dataset."""
        layer, name = key.path[0], key.path[-1]
        if layer == "bigsite" and name != "schema":
            return self._postgres, f"{self._database}.bigsite.{name}"
        if layer == "simulation":
            return self._postgres, f"{self._database}.bigsite.portfolio"
        if layer == "warehouse":
            return self._snowflake, f"{self._schema}.{name.upper()}"
        if layer == "data_team":
            parts = self._data_team.split(".")
            return self._snowflake, ".".join([*self._schema.split(".")[: 3 - len(parts)], *parts])
        return self._files, "/".join(part for part in (self._prefix, *key.path) if part)


def open_lineage_events(
    definitions: Definitions, namespace: str, at: dt.datetime, settings: Settings
) -> Iterator[dict[str, Any]]:
    """Yield one JobEvent per materializable asset, in order of key. ``at``: time of the events, with a time zone.

    ``namespace`` is that of the jobs. Datasets are named after the place of their data, see ``DatasetNames``.
    A dataset's facets are in the event that outputs it; those of bigsite's tables are in the event that reads them
    first.
    """
    if at.tzinfo is None:
        raise ValueError("The time of an event needs a time zone")
    graph = definitions.resolve_asset_graph()
    described: set[AssetKey] = set()
    names = DatasetNames(settings)
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        if not node.is_materializable:
            continue
        inputs = []
        for parent in sorted(node.parent_keys):
            first = not graph.get(parent).is_materializable and parent not in described
            described.add(parent)
            inputs.append(_dataset(graph.get(parent), names, full=first))
        yield {
            "eventTime": at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "producer": PRODUCER,
            "schemaURL": EVENT_SCHEMA,
            "job": {"namespace": namespace, "name": _name(key), "facets": _job_facets(node)},
            "inputs": inputs,
            "outputs": [_dataset(node, names, full=True)],
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


def _dataset(node: Any, names: DatasetNames, *, full: bool) -> dict[str, Any]:
    namespace, name = names.of(node.key)
    dataset = {"namespace": namespace, "name": name}
    return {**dataset, "facets": _dataset_facets(node, names)} if full else dataset


def _dataset_facets(node: Any, names: DatasetNames) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if node.description:
        facets["documentation"] = {"description": node.description}
    if node.owners:
        facets["ownership"] = {"owners": [{"name": owner, "type": "MAINTAINER"} for owner in node.owners]}
    schema = node.metadata.get("dagster/column_schema")
    if schema is not None:
        facets["schema"] = {"fields": [_field(column) for column in schema.columns]}
    if tags := _tags(node, schema.columns if schema is not None else ()):
        facets["tags"] = {"tags": tags}
    lineage = node.metadata.get("dagster/column_lineage")
    if lineage is not None:
        facets["columnLineage"] = {
            "fields": {
                column: {
                    "inputFields": [
                        {
                            "namespace": names.of(dep.asset_key)[0],
                            "name": names.of(dep.asset_key)[1],
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
    return {"name": column.name, "type": column.type, "description": column.description or ""}


def _tags(node: Any, columns: Iterable[Column]) -> list[dict[str, str]]:
    """Return the asset's own tags, and for each column with personal data a tag of that field."""
    own = [(name, value) for name, value in sorted(node.tags.items()) if name.startswith("classfeed/")]
    tags = [{"key": name.removeprefix("classfeed/"), "value": value, "source": "CLASSFEED"} for name, value in own]
    fields = [(column.name, column.tags[PERSONAL]) for column in columns if PERSONAL in column.tags]
    return tags + [{"key": PERSONAL, "value": kind, "source": "CLASSFEED", "field": name} for name, kind in fields]


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


_HEADER = ["column", "type", "meaning", "personal data", "derived from"]
_MARKDOWN = re.compile(r"[*`]")  # emphasis and code, of the descriptions
_STYLE = """
.search{position:sticky;top:0;background:var(--paper);padding:.6rem 0}.search label{display:block;font-weight:600}
.search input{font:inherit;width:100%;padding:.5rem;border:1px solid var(--soft);border-radius:4px}
.search input{color:var(--ink);background:var(--paper)}
main{max-width:80rem}td{overflow-wrap:anywhere;min-width:7rem}
"""
_SCRIPT = """
const field = document.getElementById('q'), status = document.getElementById('found');
field.addEventListener('input', () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let found = 0;
  for (const section of document.querySelectorAll('section')) {
    const asset = section.dataset.asset;
    let shown = 0;
    for (const row of section.querySelectorAll('tbody tr')) {
      const text = asset + ' ' + row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    section.hidden = shown === 0;
    found += shown;
  }
  status.textContent = found + ' columns';
});
"""


def dictionary_page(definitions: Definitions) -> str:
    """Return the page. It holds names, types and meanings, and no data."""
    graph = definitions.resolve_asset_graph()
    sections: list[str] = []
    columns = 0
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        schema = node.metadata.get("dagster/column_schema")
        if schema is None:
            continue
        columns += len(schema.columns)
        name = key.to_user_string()
        first = _MARKDOWN.sub("", (node.description or "").partition("\n\n")[0])
        rows = table(f"columns of {name}", _HEADER, _rows(schema, node.metadata.get("dagster/column_lineage")))
        sections.append(
            f'<section data-asset="{escape(name.lower())}"><h2>{escape(name)}</h2>'
            f'<p class="soft">{escape(first)}</p>{rows}</section>'
        )
    search = (
        '<div class="search"><label for="q">Search columns: words of an asset, a column or a meaning</label>'
        f'<input id="q" type="search"><p class="soft" id="found" role="status">{columns} columns</p></div>'
    )
    about = "Generated from the assets' declarations and bigsite's contract by classfeed lineage --page"
    return page("Data dictionary", [search, *sections, f"<script>{_SCRIPT}</script>"], about, _STYLE)


def _rows(schema: object, lineage: object) -> Iterator[tuple[str, ...]]:
    sources = getattr(lineage, "deps_by_column", {})
    for column in getattr(schema, "columns", ()):
        derived = ", ".join(
            f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in sources.get(column.name, ())
        )
        yield (column.name, column.type, column.description or "", column.tags.get(PERSONAL, "no"), derived)
