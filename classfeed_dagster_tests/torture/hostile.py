"""Hostile bytes: documents, manifests, Parquet and settings mutated at random, and the classics (bombs, entities).

A *reader* may say that something is wrong, in its own words, or read it rightly. What it may not do: raise anything
else, hang, or take a gigabyte. Readers run in a process of their own with limits on memory and time.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from classfeed_dagster_tests.torture.outcome import Budget, Row

LIMIT = 1 << 30  # bytes beyond what the process had before the first hostile byte
CASE_SECONDS = 20
NS = 'xmlns="urn:classfeed:epi-data-response:1"'

Reader = Callable[[bytes, Path], None]


# --- Documents that are not written by accident


def classics(good: bytes) -> dict[str, bytes]:
    """Return attacks on XML readers, each with its name; ``good`` is a valid document."""
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    body = good.partition(b"?>")[2]
    return {
        "billion laughs": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">{lol}]><EPIDataResponse {NS}>&l9;</EPIDataResponse>'.encode(),
        "quadratic entity": f'<!DOCTYPE a [<!ENTITY x "{"y" * 60000}">]><EPIDataResponse {NS}>{"&x;" * 60000}</EPIDataResponse>'.encode(),
        "external entity": f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><EPIDataResponse {NS}>&x;</EPIDataResponse>'.encode(),
        "external DTD": f'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><EPIDataResponse {NS}/>'.encode(),
        "parameter entity": b'<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///dev/zero"> %x;]><a/>',
        "an entity in the middle": good.replace(b"<PortfolioNumber>SW", b"<PortfolioNumber>&x;SW", 1),
        "nested without end": b"<EPIDataResponse>" * 300_000,
        "attributes without end": b"<EPIDataResponse " + b" ".join(b'a%d="x"' % n for n in range(200_000)) + b"/>",
        "a long attribute": b'<EPIDataResponse a="' + b"x" * 20_000_000 + b'"/>',
        "a long name": b"<" + b"a" * 20_000_000 + b"/>",
        "a long text": good.replace(b"SW00000001</PortfolioNumber>", b"x" * 30_000_000 + b"</PortfolioNumber>", 1),
        "a long comment": good.replace(b"<Header>", b"<!--" + b"-x" * 15_000_000 + b"--><Header>", 1),
        "comments without end": good.replace(b"<Header>", b"<!--x-->" * 2_000_000 + b"<Header>", 1),
        "a long instruction": good.replace(b"<Header>", b"<?x " + b"y" * 30_000_000 + b"?><Header>", 1),
        "a long CDATA": good.replace(b"<Header>", b"<![CDATA[" + b"]]" * 15_000_000 + b"]]><Header>", 1),
        "namespaces without end": b"<EPIDataResponse " + b" ".join(b'xmlns:a%d="u:%d"' % (n, n) for n in range(50_000)) + b"/>",
        "huge numbers": good.replace(b"<Units>", b"<Units>" + b"9" * 100_000, 1),
        "an exponent": good.replace(b"<LedgerBalance>", b"<LedgerBalance>1e999999999", 1),
        "a huge count": good.replace(b"<Accounts>", b"<Accounts>" + b"9" * 60_000, 1),
        "UTF-16": b"\xff\xfe" + good.decode().replace("UTF-8", "UTF-16").encode("utf-16-le"),
        "UTF-32": good.decode().replace("UTF-8", "UTF-32").encode("utf-32"),
        "UTF-7": good.replace(b"UTF-8", b"UTF-7", 1),
        "EBCDIC": good.decode().replace("UTF-8", "cp037").encode("cp037", "replace"),
        "an unknown encoding": good.replace(b"UTF-8", b"KLINGON", 1),
        "Latin-1 said to be UTF-8": good.replace(b"SMSF", b"\xe9\xff", 1),
        "overlong UTF-8": good.replace(b"SW", b"\xc0\xbc", 1),
        "a surrogate in UTF-8": good.replace(b"SW", b"\xed\xa0\x80", 1),
        "a NUL": good.replace(b"SW", b"\x00", 1),
        "XML 1.1": good.replace(b'version="1.0"', b'version="1.1"', 1),
        "two documents": good + good,
        "nothing": b"",
        "a byte order mark alone": b"\xef\xbb\xbf",
        "text after the end": good + b"<!-- -->x",
        "another root": b'<?xml version="1.0"?><html/>',
        "no namespace": good.replace(NS.encode(), b"", 1),
        "XInclude": body.replace(b"<Header>", b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd"/><Header>', 1),
        "schemaLocation": good.replace(NS.encode(), NS.encode() + b' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a http://127.0.0.1:9/x"', 1),
        "xsi:nil and xsi:type": good.replace(b"<Units>", b'<Units xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true">', 1),
    }  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with random changes: bits, bytes, parts removed, doubled, moved or swapped; numbers enlarged."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        at = chance.randrange(len(out) + 1)
        size = chance.choice([1, 2, 8, 60, 600])
        kind = chance.randrange(8)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at:at] = chance.randbytes(chance.choice([1, 4, 40]))
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = out[at : at + size]
        elif kind == 4:
            piece = bytes(out[at : at + size])
            del out[at : at + size]
            where = chance.randrange(len(out) + 1)
            out[where:where] = piece
        elif kind == 5:
            out[at : at + 1] = chance.choice([b"<", b">", b"&", b'"', b"\x00", b"]]>", b"9" * 40, b"-", b"{", b"null"])
        elif kind == 6:
            del out[at:]
        else:
            tag = bytes(out[at : at + size]).partition(b">")[0]
            out = bytearray(bytes(out).replace(tag, chance.choice([b"", tag * 2, b"x"]), 1)) if tag else out
    return bytes(out)


# --- Readers under attack. Each raises nothing but what it declares.


def _examine(data: bytes, folder: Path) -> None:
    from classfeed_dagster.documents.epi import EPI

    EPI.inspect_page(data[at : at + 7001] for at in range(0, len(data), 7001))


def _read(data: bytes, folder: Path) -> None:
    from classfeed_dagster.documents.epi import EPI
    from classfeed_dagster.documents.epi_reader import UnreadableDocumentError

    path = folder / "class_super-20230503-r0-p1.xml"
    path.write_bytes(data)
    with contextlib.suppress(UnreadableDocumentError):
        EPI.read(path)


def _verify(data: bytes, folder: Path) -> None:
    import gzip

    from classfeed_dagster.delivery.verify_files import verify_paths
    from classfeed_dagster.documents.epi import EPI

    packed = gzip.compress(data, 1) if len(data) % 2 else data  # damaged gzip as well: data may be its own
    path = folder / "class_super-20230503-r0-p1.xml.gz"
    path.write_bytes(packed)
    verify_paths([path], {"class_super": EPI})


def _csv(data: bytes, folder: Path) -> None:
    from classfeed_dagster.feeds.class_cash import FEED

    FEED.format.inspect_page(data[at : at + 7001] for at in range(0, len(data), 7001))


def _manifest(data: bytes, folder: Path) -> None:
    from classfeed_dagster.delivery.verify_files import verify_paths
    from classfeed_dagster.documents.epi import EPI

    path = folder / "manifest.json"
    path.write_bytes(data)
    verify_paths([path], {"class_super": EPI})


def _store(data: bytes, folder: Path) -> None:
    """Verify a delivered store in which one object, drawn by the data's checksum, was replaced."""
    from classfeed_dagster.delivery.verify import verify_feed
    from classfeed_dagster.errors import DamagedRecordError, DeliveryError
    from classfeed_dagster.store import LocalStore
    from classfeed_dagster_tests.fixtures.delivery_pipeline import DAY1, FEED, FORMAT, Day, deliver, simple

    home = folder / "delivered"
    store = LocalStore(home)
    if not home.exists():
        deliver(store, simple())
    keys = list(store.list(""))
    path = home / keys[zlib.crc32(data) % len(keys)]
    good = path.read_bytes()
    try:
        path.write_bytes(mutated(good, random.Random(zlib.crc32(data))))
        verify_feed(store, FEED, FORMAT)
        with contextlib.suppress(DeliveryError, DamagedRecordError):
            deliver(store, Day(DAY1, simple().content, snapshot="s2"))
    finally:
        for key in set(store.list("")) - set(keys):
            store.delete(key)
        path.write_bytes(good)


def _parquet(data: bytes, folder: Path) -> None:
    """Read a stored Parquet file: any change is detected by its hash, before it is parsed."""
    from classfeed_dagster.bigsite.landing import DamagedFileError, SlicedFiles, StoredFile, StoredTable
    from classfeed_dagster.store import LocalStore

    store = LocalStore(folder / "parquet")
    (folder / "parquet").mkdir(exist_ok=True)
    good = (folder / "good.parquet").read_bytes()
    (folder / "parquet" / "x.parquet").write_bytes(data)
    from classfeed_dagster.stored_records import sha256

    try:
        table = StoredTable(files=(StoredFile(key="x.parquet", sha256=sha256(good), rows=3, bytes=1),))
        with SlicedFiles(store, {"x": table}) as files:
            list(files)
            assert data == good, "a changed file was read"
    except DamagedFileError:
        pass


def _settings(data: bytes, folder: Path) -> None:
    from pydantic import ValidationError

    from classfeed_dagster.feed_run.flags import start_flags
    from classfeed_dagster.feed_run.switch_values import FlagSettingsError
    from classfeed_dagster.feeds import FEEDS
    from classfeed_dagster.settings import Settings, variable

    chance = random.Random(zlib.crc32(data))
    names = list(map(variable, Settings.model_fields))
    text = data.decode("utf-8", "surrogateescape").replace("\x00", "")
    before = dict(os.environ)
    try:
        os.environ[chance.choice(names)] = text[: chance.choice([5, 80, 5000])]
        try:
            settings = Settings()
            start_flags(settings, FEEDS)
        except (ValidationError, FlagSettingsError):
            pass
        except Exception as error:
            if type(error).__name__ != "SettingsError":  # pydantic-settings: JSON that isn't
                raise
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]


READERS: dict[str, Reader] = {
    "examining documents": _examine,
    "reading documents": _read,
    "verifying documents": _verify,
    "examining legacy files": _csv,
    "verifying manifests": _manifest,
    "verifying and delivering over a damaged store": _store,
    "damaged Parquet": _parquet,
    "settings": _settings,
}


def _seeds(name: str, folder: Path) -> list[bytes]:
    """Return good inputs to start from."""
    from classfeed_dagster_tests.fixtures.epi_data import page_of, sample

    if name == "examining legacy files":
        golden = Path(__file__).parents[1] / "documents"
        return [path.read_bytes() for path in sorted(golden.rglob("*.csv"))] or [b"H|x\n"]
    if name == "verifying manifests":
        from classfeed_dagster.store import LocalStore
        from classfeed_dagster_tests.fixtures.delivery_pipeline import deliver, simple

        store = LocalStore(folder / "for-manifests")
        deliver(store, simple())
        return [store.read(key) for key in store.list("delivered/") if key.endswith("manifest.json")]
    if name == "damaged Parquet":
        import polars as pl

        pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]}).write_parquet(folder / "good.parquet")
        return [(folder / "good.parquet").read_bytes()]
    if name == "settings":
        texts = ["", "{", '{"mode": {"class_super": "off"}}', "nan", "1e999", "-1", "s3://", "📂", "true", "2023-02-30",
                 "[" * 3000, '{"mode": {"nobody": "off"}}', "postgresql://u:p@h/d", "9" * 400, "\udcff\udc80", "2023-01-03T00:00:00"]  # fmt: skip
        return [text.encode("utf-8", "surrogateescape") for text in texts]
    return [page_of(sample())]


# --- The process that reads


def _work(name: str, seed: int, start: int, count: int, progress: str) -> None:
    """Read ``count`` hostile inputs; after each, say which number is done and what was broken."""
    folder = Path(tempfile.mkdtemp(prefix="classfeed-hostile-"))
    reader, seeds = READERS[name], _seeds(name, folder)
    cases = list(classics(seeds[0]).values()) if "documents" in name else list(seeds)
    reader(seeds[0], folder)  # everything is imported and warm now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * LIMIT, resource.RLIM_INFINITY))
    with open(progress, "w", buffering=1) as progress_file:  # noqa: PTH123
        progress_file.write(json.dumps({"at": start}) + "\n")
        for at in range(start, count):
            chance = random.Random(f"{name} {seed} {at}")
            data = cases[at] if at < len(cases) else mutated(chance.choice(seeds), chance)
            broken, began = "", time.monotonic()
            try:
                reader(data, folder)
            except BaseException as error:
                broken = f"{type(error).__name__}: {str(error)[:200]}"
            took = time.monotonic() - began
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - 3 * len(data)
            if not broken and grown > LIMIT:
                broken = f"took {grown >> 20} MB"
            progress_file.write(json.dumps({"at": at + 1, "broken": broken, "took": took, "grown": grown}) + "\n")


def attack(budget: Budget, folder: Path, seed: int = 1) -> Iterator[Row]:
    """Run every reader for its share of the budget."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["classfeed_dagster_tests.torture.nursery"])
    for left, name in zip(range(len(READERS), 0, -1), READERS, strict=True):
        yield _hostile(context, name, seed, budget.part(1 / left), folder)


def _hostile(context: Any, name: str, seed: int, budget: Budget, folder: Path) -> Row:
    start, broken, slowest, largest = 0, [], 0.0, 0
    least = 45  # the classics, whatever they cost
    while start < least or budget.left > 0:
        progress = folder / "progress"
        progress.write_text("")
        process = context.Process(target=_work, args=(name, seed, start, 1_000_000, str(progress)))
        process.start()
        last_case, since, last = start, time.monotonic(), start
        while process.is_alive():
            process.join(0.2)
            lines = progress.read_text().splitlines()
            last_case = json.loads(lines[-1])["at"] if lines and lines[-1].endswith("}") else last_case
            if last_case != last:
                since, last = time.monotonic(), last_case
            if time.monotonic() - since > 3 * CASE_SECONDS or (last_case >= least and budget.left <= 0):
                process.kill()
        process.join()
        reports = [json.loads(line) for line in progress.read_text().splitlines() if line.endswith("}")]
        results = [item for item in reports if "broken" in item]
        broken += [f"input {result['at'] - 1}: {result['broken']}" for result in results if result["broken"]]
        slowest = max([slowest, *(result["took"] for result in results)])
        largest = max([largest, *(result["grown"] for result in results)])
        start = last_case
        if last_case >= least and budget.left <= 0:
            break
        if process.exitcode != -signal.SIGKILL or time.monotonic() - since > 3 * CASE_SECONDS:
            broken.append(f"input {last_case}: the process ended with {process.exitcode} or hung")
            start = last_case + 1
    return Row(
        "bytes",
        name,
        start,
        f"clear words or right; slowest {slowest:.1f} s, memory +{max(largest, 0) >> 20} MB",
        broken,
    )
