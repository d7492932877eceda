"""The data dictionary: one searchable page of every column, from the assets' declarations and bigsite's contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from classfeed_dagster.html_page import escape, page, table
from classfeed_dagster.orchestration.column_metadata import PERSONAL

if TYPE_CHECKING:
    from dagster import Definitions

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
