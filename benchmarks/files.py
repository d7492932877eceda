"""The last stages: hashing and compressing pages, and publishing them to a folder and to S3."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isal import isal_zlib

from benchmarks.documents import BLOCK, document_of
from benchmarks.measure import Facts, Part, Way, Work, compare
from benchmarks.site import FIRST, JUDGED, Day, Site, copy, runtime_at
from classfeed_dagster.delivery.pages import write_page


def hash_and_gzip(blocks: list[bytes], path: Path) -> None:
    """Measure the baseline: SHA-256 before and after Python's gzip at level 6."""
    document = hashlib.sha256()
    with gzip.open(path, "wb", compresslevel=6) as target:
        for block in blocks:
            document.update(block)
            target.write(block)
    with path.open("rb") as source:
        hashlib.file_digest(source, "sha256")


def this_project(blocks: list[bytes], path: Path) -> None:
    """Hash and compress as pages are written."""
    write_page(blocks, path, compress=True)


def hash_alone(blocks: list[bytes], path: Path) -> None:
    """Hash by SHA-256; write nothing."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)


def isal_alone(blocks: list[bytes], path: Path) -> None:
    """Compress by ISA-L; write nothing."""
    compressor = isal_zlib.compressobj(isal_zlib.ISAL_DEFAULT_COMPRESSION, wbits=31)
    for block in blocks:
        compressor.compress(block)
    compressor.flush()


def memory_copy(blocks: list[bytes], path: Path) -> None:
    """Measure the floor: the document copied within memory."""
    bytes(bytearray().join(blocks))


def prepare_packing(scratch: Path, document: Path, pack: Callable[[list[bytes], Path], None]) -> Work:
    """Read the document into memory, in blocks."""
    with document.open("rb") as source:
        blocks = list(iter(lambda: source.read(BLOCK), b""))
    path = scratch / "page.xml.gz"

    def work() -> Facts:
        pack(blocks, path)
        return {"bytes": path.stat().st_size if path.exists() else 0}

    return work


def prepare_cat(scratch: Path, document: Path) -> Work:
    """Prepare ``cat`` from disk to disk."""

    def work() -> None:
        with (scratch / "copy").open("wb") as target:
            subprocess.run(["cat", str(document)], stdout=target, check=True)

    return work


def packing(site: Site, *, rounds: int, until: float) -> Part:
    """Compare ways of hashing and compressing a document."""
    document = document_of(site)
    named: dict[str, Callable[[list[bytes], Path], None]] = {
        "hashlib and gzip 6": hash_and_gzip,
        "this project": this_project,
        "SHA-256 alone": hash_alone,
        "ISA-L alone": isal_alone,
        "memory copy": memory_copy,
    }
    ways = [Way(name, prepare_packing, {"document": document, "pack": pack}) for name, pack in named.items()]
    ways.append(Way("cat", prepare_cat, {"document": document}))
    description = (
        f"one document of {document.stat().st_size / 1e6:,.0f} MB in memory: hashed, compressed, written, hashed"
    )
    return compare("hashing and compression", site.portfolios, description, ways, rounds=rounds, until=until)


# --- Publishing ---------------------------------------------------------------------------------------------------


def prepare_publishing(scratch: Path, home: Path, url: str, endpoint: str | None = None) -> Work:
    """Prepare an evaluated build in its own store: a folder, or a bucket at ``endpoint``."""
    if endpoint is None:
        copy(home, scratch)
        runtime = runtime_at(url, scratch)
    else:
        bucket = _bucket(endpoint, scratch.name)
        runtime = runtime_at(url, scratch, store_url=f"s3://{bucket}/feed", s3_endpoint_url=endpoint)
        store = home / "store"
        for path in sorted(store.rglob("*")):
            if path.is_file():
                runtime.store.create(path.relative_to(store).as_posix(), path)
    runtime.engine.connect().close()
    day = Day(runtime, FIRST)
    return lambda: _published(day)


def _published(day: Day) -> Facts:
    day.publish()
    day.runtime.close()
    return {"pages": len(day.work.build().pages)}


def prepare_copying(scratch: Path, home: Path, endpoint: str | None = None) -> Work:
    """Prepare the staged pages for a copy."""
    pages = sorted((home / "store" / "staged").rglob("*.xml.gz"))
    client = _client(endpoint) if endpoint else None
    bucket = _bucket(endpoint, scratch.name) if endpoint else ""

    def work() -> Facts:
        for page in pages:
            if client is not None:
                client.upload_file(str(page), bucket, page.name)
                continue
            with page.open("rb") as source, (scratch / page.name).open("wb") as target:
                os.copy_file_range(source.fileno(), target.fileno(), page.stat().st_size)
                os.fsync(target.fileno())
        return {"pages": len(pages)}

    return work


def _client(endpoint: str) -> Any:
    import boto3

    os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local", AWS_DEFAULT_REGION="ap-southeast-2")
    return boto3.client("s3", endpoint_url=endpoint)


def _bucket(endpoint: str, name: str) -> str:
    bucket = name.lower().replace("_", "-")
    _client(endpoint).create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    return bucket


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Start a local S3 server, whose own time is not counted; yield its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def publishing(site: Site, *, rounds: int, until: float) -> Part:
    """Measure publishing of an evaluated build: consent queried again, pages, manifest, chain."""
    home = site.after(FIRST, JUDGED)
    with s3_server() as endpoint:
        here: dict[str, Any] = {"home": home}
        there: dict[str, Any] = {"home": home, "endpoint": endpoint}
        ways = [
            Way("the pages copied, a folder", prepare_copying, here),
            Way("this project, a folder", prepare_publishing, {**here, "url": site.url}),
            Way("the pages uploaded, S3", prepare_copying, there),
            Way("this project, S3", prepare_publishing, {**there, "url": site.url}),
        ]
        description = (
            "staged and judged pages delivered, with manifest and chain; the S3 server is a local one, in Python"
        )
        return compare("publishing", site.portfolios, description, ways, rounds=rounds, until=until)
