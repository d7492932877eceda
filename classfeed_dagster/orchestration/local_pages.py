"""Addresses of reports, manifests, docs and code: of the forge where one is set, else pages next to the local UI."""

from pathlib import Path
from urllib.parse import quote

import classfeed_dagster
from classfeed_dagster.settings import get_settings

RUNBOOK = "docs/runbook.md"
PAGES_PATH, STORE_PATH, DOCS_PATH = "/classfeed", "/store", "/docs"
DOCS = Path(classfeed_dagster.__file__).parents[1] / "docs"  # in a checkout; an installed wheel has none


def store_page(location: str) -> str | None:
    """Return the address of an object of the local store; None if it is stored elsewhere."""
    store, path = get_settings().store_location, Path(location)
    if "://" in store or not path.is_relative_to(Path(store).absolute()):
        return None
    return PAGES_PATH + STORE_PATH + "/" + quote(path.relative_to(Path(store).absolute()).as_posix())


def forge_page(place: str) -> str | None:
    """Return the forge's address of a place in the repository, next to the published runbook; None without one."""
    base, found, _ = get_settings().runbook_url.rpartition(RUNBOOK)
    return f"{base}{place}" if found and "://" in base else None


def docs_page(place: str) -> str | None:
    """Return the address of a place in the docs, such as ``docs/runbook.md#late``; None if nothing serves it."""
    return forge_page(place) or (f"{PAGES_PATH}/{place}" if DOCS.is_dir() else None)
