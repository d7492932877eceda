"""Regular expressions generated from the XSD that accept only lines certain to be valid records.

libxml2 takes most of a document's examination to validate some hundred thousand records that the writer put on a line
each, in the plainest form of XML. For such lines the XSD can be said as a regular expression. It admits less than the
XSD (one form of each value, the characters that are in use), never more: a line that it admits is valid, any other is
lxml's to judge. It is made from the XSD and not from the mapping tables, so that it can't repeat the writer's mistakes.
"""

from __future__ import annotations

import re
from functools import cache

from lxml import etree

from classfeed_dagster.documents.epi_schema import XS, schema_root
from classfeed_dagster.errors import ConfigurationError

# Text as the writer makes it: no markup, no line ends, no characters that some reader of XML could refuse.
_CHARACTER = (
    r"(?:[\t -%'-;=?-\x{D7FF}\x{E000}-\x{FDCF}\x{FDF0}-\x{FFFD}\x{10000}-\x{10FFFF}]"
    "|&(?:amp|lt|gt|quot|apos|#13|#10);)"
)
# The days that there are, 1901 to 2099.
_YEAR = "(?:19(?:0[1-9]|[1-9][0-9])|20[0-9]{2})"
_LEAP = "(?:19(?:0[48]|[2468][048]|[13579][26])|20(?:[02468][048]|[13579][26]))"
_DAY = (
    f"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    f"|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
# Types whose pattern in the XSD admits what isn't a value (a 30th of February): what it may be instead.
_CALENDAR = {
    ("xs:date", "[0-9]{4}-[0-9]{2}-[0-9]{2}"): _DAY,
    ("xs:dateTime", r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z"): (
        rf"{_DAY}T{_TIME}(?:\.[0-9]{{6}})?Z"
    ),
}
# A pattern of plain letters, digits and marks in classes and counts means the same to both. None of them admits a
# character that has a meaning in XML.
_SAME_MEANING = re.compile(r"(?:[A-Za-z0-9:-]|\\\.|\\-|\[(?:[A-Za-z0-9._:-]|\\-)+\]|\{[0-9]+(?:,[0-9]+)?\}|[()|?])+")
_NAME = re.compile("[A-Za-z]+")


class UnknownSchemaError(ConfigurationError):
    """The XSD says something of a record that isn't known here yet: extend this file, with tests."""


@cache
def valid_line(record: str) -> str:
    """Return the expression of lines certain to be one valid record of the XSD's type ``record``, without line end.

    UnknownSchemaError if the XSD's declaration of it isn't understood in every part.
    """
    kind = schema_root().find(f"{XS}complexType[@name='{record}']")
    if kind is None or not _NAME.fullmatch(record):
        raise UnknownSchemaError(f"the XSD has no type {record}")
    return f"^{_complex(record, kind)}$"


def _complex(name: str, kind: etree._Element) -> str:
    attributes, content = "", ""
    for part in kind:
        if part.tag == f"{XS}sequence" and not content:
            content = _sequence(part)
        elif part.tag == f"{XS}attribute" and content and part.get("use") == "required":
            attributes += f' {part.get("name")}="{_simple(part.get("type"))}"'
        else:
            raise UnknownSchemaError(f"{etree.QName(part).localname} of {name} is not understood")
    return f"<{name}{attributes}>{content}</{name}>"


def _sequence(sequence: etree._Element) -> str:
    inside = "".join(_element(part) if part.tag == f"{XS}element" else _nested(part) for part in sequence)
    return _times(sequence, inside)


def _nested(part: etree._Element) -> str:
    if part.tag != f"{XS}sequence":
        raise UnknownSchemaError(f"{etree.QName(part).localname} is not understood")
    return _sequence(part)


def _element(element: etree._Element) -> str:
    name = element.get("name", "")
    if not _NAME.fullmatch(name) or set(element.attrib) - {"name", "type", "minOccurs", "maxOccurs"}:
        raise UnknownSchemaError(f"the element {name} is declared in a way that is not understood")
    if element.get("type") is not None:
        return _times(element, f"<{name}>{_simple(element.get('type'))}</{name}>")
    (inner,) = element
    return _times(element, _complex(name, inner))


def _times(part: etree._Element, pattern: str) -> str:
    counts = {("1", "1"): "", ("0", "1"): "?", ("0", "unbounded"): "*", ("1", "unbounded"): "+"}
    asked = (part.get("minOccurs", "1"), part.get("maxOccurs", "1"))
    if asked not in counts:
        raise UnknownSchemaError(f"from {asked[0]} to {asked[1]} times is not understood")
    return f"(?:{pattern}){counts[asked]}"


@cache
def _simple(name: str | None) -> str:
    found = schema_root().find(f"{XS}simpleType[@name='{name}']/{XS}restriction")
    if found is None:
        raise UnknownSchemaError(f"the type {name} is not understood")
    base = found.get("base", "")
    facets: dict[str, list[str]] = {}
    for facet in found:
        facets.setdefault(etree.QName(facet).localname, []).append(facet.get("value", ""))
    match sorted(facets):
        case ["enumeration"] if base == "xs:string":
            return f"(?:{'|'.join(map(re.escape, facets['enumeration']))})"
        case ["maxLength", "minLength"] if base == "xs:string":
            return f"{_CHARACTER}{{{int(facets['minLength'][0])},{int(facets['maxLength'][0])}}}"
        case ["pattern"] if len(facets["pattern"]) == 1:
            pattern = facets["pattern"][0]
            if (base, pattern) in _CALENDAR:
                return _CALENDAR[base, pattern]
            if base in ("xs:string", "xs:decimal") and _SAME_MEANING.fullmatch(pattern):
                return f"(?:{pattern})"
    raise UnknownSchemaError(f"the type {name} is not understood")
