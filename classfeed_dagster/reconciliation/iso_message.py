"""Reading of a delivered ISO 20022 message of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lxml import etree

from classfeed_dagster.reconciliation.epi_document import UnreadableDeliveryError, open_document


def read_message(path: Path, key: str) -> Any:
    """Return the tree of a delivered message; UnreadableDeliveryError if it cannot be read to its end."""
    try:
        with open_document(path) as document:
            tree = etree.parse(document, etree.XMLParser(resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, OSError, EOFError) as error:
        raise UnreadableDeliveryError(f"{key} can't be read to its end ({type(error).__name__})") from None
    if tree.docinfo.doctype:
        raise UnreadableDeliveryError(f"{key}: a DOCTYPE has no place in a delivered document")
    return tree
