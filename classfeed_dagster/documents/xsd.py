"""The XSD files of this package: parsed, and compiled for validation."""

from __future__ import annotations

import threading
from functools import cache
from importlib import resources

from lxml import etree

_COMPILING = threading.Lock()


def parsed(name: str) -> etree._Element:
    """Return the XSD file ``name`` as a tree of the caller's own, without comments."""
    content = resources.files("classfeed_dagster.documents").joinpath(name).read_bytes()
    return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True))


def compiled(name: str) -> etree.XMLSchema:
    """Return the XSD file ``name`` compiled for validation, once in a process; threads may validate with it at once.

    They may not compile at once: libxml2's first compilation fills a global table of types without a lock. A second one
    at that time raises "Document is not valid XML Schema", or a later validation crashes the process or never ends.
    """
    with _COMPILING:
        return _compiled(name)


@cache
def _compiled(name: str) -> etree.XMLSchema:
    return etree.XMLSchema(parsed(name))  # changes the tree
