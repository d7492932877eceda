"""Regular expressions, generated from the XSD, that match only lines that are certainly valid records.

A document's inspection spends most of its time in libxml2's validation of some hundred thousand records. The writer
writes each on one line in the plainest form of XML, for which the XSD can be written as a regular expression. It
accepts less than the XSD (one form of each value, common characters), never more. lxml validates any line that does not
match. It is generated from the XSD and not from the mapping, so that it cannot repeat the writer's mistakes.
"""

from __future__ import annotations

import re
from functools import cache

from lxml import etree

from classfeed_dagster.documents.epi_schema import XS, schema_root
from classfeed_dagster.errors import ConfigurationError

# Text as the writer produces it: no markup, no line ends, no characters that an XML reader could refuse.
_CHARACTER = (
    r"(?:[\t -%'-;=?-\x{D7FF}\x{E000}-\x{FDCF}\x{FDF0}-\x{FFFD}\x{10000}-\x{10FFFF}]"
    "|&(?:amp|lt|gt|quot|apos|#13|#10);)"
)
# Existing days from 1901 to 2099.
_YEAR = "(?:19(?:0[1-9]|[1-9][0-9])|20[0-9]{2})"
_LEAP = "(?:19(?:0[48]|[2468][048]|[13579][26])|20(?:[02468][048]|[13579][26]))"
_DAY = (
    f"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    f"|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
# Types whose XSD pattern accepts impossible values (30 February), with the expression to use instead.
_CALENDAR = {
    ("xs:date", "[0-9]{4}-[0-9]{2}-[0-9]{2}"): _DAY,
    ("xs:dateTime", r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z"): (
        rf"{_DAY}T{_TIME}(?:\.[0-9]{{6}})?Z"
    ),
}
# A pattern of plain letters, digits and marks in classes and counts has one meaning in both. None of them accepts a
# character with a meaning in XML.
_SAME_MEANING = re.compile(r"(?:[A-Za-z0-9:-]|\\\.|\\-|\[(?:[A-Za-z0-9._:-]|\\-)+\]|\{[0-9]+(?:,[0-9]+)?\}|[()|?])+")
_NAME = re.compile("[A-Za-z]+")


class UnknownSchemaError(ConfigurationError):
    """The XSD has a declaration that this module does not support yet: extend it, with tests."""


@cache
def valid_line(record: str) -> str:
    """Return the expression of lines that are certainly one valid record of the XSD's type ``record``.

    UnknownSchemaError if a part of the XSD's declaration is not supported.
    """
    kind = schema_root().find(f"{XS}complexType[@name='{record}']")
    if kind is None or not _NAME.fullmatch(record):
        raise UnknownSchemaError(f"The XSD has no type {record}")
    return f"^{_complex(record, kind)}$"


def _complex(name: str, kind: etree._Element) -> str:
    attributes, content = "", ""
    for part in kind:
        if part.tag == f"{XS}sequence" and not content:
            content = _sequence(part)
        elif part.tag == f"{XS}attribute" and content and part.get("use") == "required":
            attributes += f' {part.get("name")}="{_simple(part.get("type"))}"'
        else:
            raise UnknownSchemaError(f"Unsupported {etree.QName(part).localname} of {name}: extend xsd_regex.py")
    return f"<{name}{attributes}>{content}</{name}>"


def _sequence(sequence: etree._Element) -> str:
    inside = "".join(_element(part) if part.tag == f"{XS}element" else _nested(part) for part in sequence)
    return _times(sequence, inside)


def _nested(part: etree._Element) -> str:
    if part.tag != f"{XS}sequence":
        raise UnknownSchemaError(f"Unsupported {etree.QName(part).localname}: extend documents/xsd_regex.py")
    return _sequence(part)


def _element(element: etree._Element) -> str:
    name = element.get("name", "")
    if not _NAME.fullmatch(name) or set(element.attrib) - {"name", "type", "minOccurs", "maxOccurs"}:
        raise UnknownSchemaError(f"Unsupported declaration of the element {name}: extend documents/xsd_regex.py")
    if element.get("type") is not None:
        return _times(element, f"<{name}>{_simple(element.get('type'))}</{name}>")
    (inner,) = element
    return _times(element, _complex(name, inner))


def _times(part: etree._Element, pattern: str) -> str:
    counts = {("1", "1"): "", ("0", "1"): "?", ("0", "unbounded"): "*", ("1", "unbounded"): "+"}
    occurs = (part.get("minOccurs", "1"), part.get("maxOccurs", "1"))
    if occurs not in counts:
        raise UnknownSchemaError(f"Unsupported occurrence {occurs[0]} to {occurs[1]}: extend documents/xsd_regex.py")
    return f"(?:{pattern}){counts[occurs]}"


@cache
def _simple(name: str | None) -> str:
    restriction = schema_root().find(f"{XS}simpleType[@name='{name}']/{XS}restriction")
    if restriction is None:
        raise UnknownSchemaError(f"Unsupported type {name}: extend documents/xsd_regex.py")
    base = restriction.get("base", "")
    facets: dict[str, list[str]] = {}
    for facet in restriction:
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
    raise UnknownSchemaError(f"Unsupported type {name}: extend documents/xsd_regex.py")
