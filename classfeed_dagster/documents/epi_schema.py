"""The EPI document's XSD: loaded once, compiled for validation, with the rules of its simple types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lxml import etree

from classfeed_dagster.documents import xsd

XS = "{http://www.w3.org/2001/XMLSchema}"
_FILE = "epi_data_response.xsd"


@dataclass(frozen=True, slots=True)
class TextRule:
    """Restriction of a text by the XSD: a pattern of the whole text, a length range, a vocabulary."""

    pattern: str | None
    min_length: int
    max_length: int | None
    vocabulary: tuple[str, ...]


@cache
def schema_root() -> etree._Element:
    """Return the XSD as a tree, to be read only."""
    return xsd.parsed(_FILE)


def compiled() -> etree.XMLSchema:
    """Return the XSD compiled for validation."""
    return xsd.compiled(_FILE)


@cache
def text_rules() -> dict[str, TextRule]:
    """Return the rules of every named simple type, by its name."""
    rules: dict[str, TextRule] = {}
    for simple in schema_root().findall(f"{XS}simpleType"):
        facets: dict[str, list[str]] = {}
        for facet in simple.iterfind(f"{XS}restriction/*"):
            facets.setdefault(etree.QName(facet).localname, []).append(facet.get("value", ""))
        pattern, longest = facets.get("pattern"), facets.get("maxLength")
        rules[simple.get("name", "")] = TextRule(
            pattern[0] if pattern else None,
            int(facets.get("minLength", ["0"])[0]),
            int(longest[0]) if longest else None,
            tuple(facets.get("enumeration", ())),
        )
    return rules
