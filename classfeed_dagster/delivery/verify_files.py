"""Verification of documents and folders on their own, as the recipient could do it: without store or chain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from classfeed_dagster.delivery.manifest import AnyManifest, Manifest, read_manifest
from classfeed_dagster.delivery.portfolio_list import FILE_NAME
from classfeed_dagster.delivery.problems import (
    Problem,
    ProblemKind,
    Verification,
    document_problems,
    manifest_problems,
    page_problems,
    portfolios_by_page,
)
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.errors import DamagedRecordError
from classfeed_dagster.store import open_store
from classfeed_dagster.stored_records import sha256

MANIFEST_NAME = "manifest.json"


def verify_paths(paths: Iterable[Path], formats: Mapping[str, DocumentFormat]) -> Verification:
    """Verify document files, manifests and folders of them, without a store. ``formats`` is by feed name.

    A document is compared with the manifest in its folder, or only with itself if there is none. Other files in a
    folder are skipped; a path without any document or manifest is a problem. Manifests that are neighbours in a chain
    are compared.
    """
    result = Verification()
    endings = tuple(sorted({document_format.extension for document_format in formats.values()}))
    documents: set[Path] = set()
    manifests: set[Path] = set()
    for path in paths:
        inside = [Path(at, name) for at, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
        stated = {file for file in inside if file.name == MANIFEST_NAME}
        pages = {file for file in inside if file.name.removesuffix(".gz").endswith(endings)}
        if not stated | pages:
            result.add(
                ProblemKind.UNKNOWN_FILE, str(path), f"no {MANIFEST_NAME} and no document ({', '.join(endings)})"
            )
        manifests |= stated
        documents |= pages
    siblings = {document.with_name(MANIFEST_NAME) for document in documents}
    read: dict[Path, tuple[AnyManifest, str]] = {}  # with the hash of its bytes
    for file in sorted(manifests | {path for path in siblings if path.exists()}):
        manifest_and_hash = _read(file, result)
        if manifest_and_hash is not None:
            read[file] = manifest_and_hash
    for file in manifests & read.keys():
        manifest = read[file][0]
        if isinstance(manifest, Manifest):
            documents |= {file.with_name(PurePosixPath(page.key).name) for page in manifest.pages}
    _compare_links(read, result)
    for document in sorted(documents):
        result.pages += 1
        own_manifest = read.get(document.with_name(MANIFEST_NAME), (None, ""))[0]
        result.problems += _document_problems(document, own_manifest, formats)
    return result


def _read(file: Path, result: Verification) -> tuple[AnyManifest, str] | None:
    result.manifests += 1
    try:
        data = file.read_bytes()
        folder = open_store(str(file.parent))
        manifest = read_manifest(data, str(file), folder)
    except OSError as error:
        result.add(ProblemKind.RECORD_DAMAGED, str(file), f"is unreadable ({type(error).__name__})")
        return None
    except DamagedRecordError as error:
        result.add(ProblemKind.RECORD_DAMAGED, str(file), str(error))
        return None
    listed = True
    if isinstance(manifest, Manifest) and manifest.portfolio_list is not None:
        manifest = manifest.listed_in(folder, FILE_NAME)
        # A page and its manifest may have been copied without the list: the page's hash says as much.
        listed = folder.exists(FILE_NAME)
    result.problems += manifest_problems(manifest, data, str(file), listed=listed)
    result.portfolios += len(manifest.portfolios) if isinstance(manifest, Manifest) else 0
    return manifest, sha256(data)


def _compare_links(read: Mapping[Path, tuple[AnyManifest, str]], result: Verification) -> None:
    # Neighbours are compared only if both were read.
    places = {(manifest.feed, manifest.chain_position): digest for manifest, digest in read.values()}
    for file, (manifest, _) in sorted(read.items()):
        before = places.get((manifest.feed, manifest.chain_position - 1))
        if before is not None and (manifest.previous is None or manifest.previous.sha256 != before):
            result.add(ProblemKind.CHAIN_CHANGED, str(file), "the manifest before it is not the one that it names")


def _document_problems(
    document: Path, manifest: AnyManifest | None, formats: Mapping[str, DocumentFormat]
) -> list[Problem]:
    location = str(document)
    feed = manifest.feed if manifest is not None else _feed_of(document, formats)
    document_format = formats.get(feed)
    if document_format is None:
        return [
            Problem(
                ProblemKind.UNKNOWN_FILE, location, f"its name begins with no feed name ({', '.join(sorted(formats))})"
            )
        ]
    pages = {PurePosixPath(page.key).name: page for page in manifest.pages} if isinstance(manifest, Manifest) else {}
    try:
        if manifest is None:
            return list(document_problems(document, document_format))
        if not isinstance(manifest, Manifest) or document.name not in pages:
            return [Problem(ProblemKind.ORPHAN, location, "the manifest in its folder does not list it")]
        page = pages[document.name]
        return list(
            page_problems(
                document,
                location,
                page=page,
                manifest=manifest,
                portfolios=(portfolios_by_page(manifest) or {}).get(page.message_id),
                document_format=document_format,
            )
        )
    except OSError as error:
        kind = ProblemKind.PAGE_MISSING if isinstance(error, FileNotFoundError) else ProblemKind.UNKNOWN_FILE
        return [Problem(kind, location, f"is unreadable ({type(error).__name__})")]


def _feed_of(document: Path, formats: Mapping[str, DocumentFormat]) -> str:
    # Files are called <feed>-<date>… or <feed>_<date>…; a feed's name may begin with another's.
    candidates = [feed for feed in formats if document.name.startswith((f"{feed}-", f"{feed}_"))]
    return max(candidates, key=len, default="")
