"""What the rules and the format find for a feed on a date: gathered from every slice, kept, and read again by plans.

On great dates shards are gathered ahead, by whoever has a hand free; what was made from something else isn't taken.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from pydantic import BaseModel

from classfeed_dagster.bigsite.landing import SlicedFiles, StoredFile, StoredTable
from classfeed_dagster.domains.build import open_domains
from classfeed_dagster.domains.columns import FINDINGS
from classfeed_dagster.feed_run.switches import switched_frames
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import canonical, sha256

if TYPE_CHECKING:
    from classfeed_dagster.feed_run.feed_run import FeedRun


class FindingsReference(BaseModel, frozen=True):
    """Everything that the rules and the format found for one feed and date, and how many of each rule."""

    snapshot_id: str
    flags: dict[str, str | int | bool]  # the switches with which the format was asked
    findings: StoredTable
    by_rule: dict[str, int]


class FindingsShard(BaseModel, frozen=True):
    """What was found in one shard, gathered ahead."""

    made_from: str  # what determines it
    findings: StoredTable


def collect_findings(work: FeedRun) -> FindingsReference:
    """Gather everything that was found on the date, and keep it."""
    snapshot = work.snapshot()
    found = [FINDINGS.empty(), *(_found_in(work, shard) for shard in range(len(snapshot.shards)))]
    findings = FINDINGS.conform(pl.concat(found).unique())
    reference = FindingsReference(
        snapshot_id=snapshot.snapshot_id,
        flags=work.flags.recorded,
        findings=_keep(work, findings),
        by_rule=dict(findings.group_by("rule").len().sort("rule").iter_rows()),
    )
    work.runtime.save_reference(f"{work.feed.name}/quarantine", work.day, reference)
    return reference


def find_in_shard(work: FeedRun, shard: int) -> None:
    """Gather ahead what is found in one shard (from 0)."""
    found = FindingsShard(made_from=_made_from(work), findings=_keep(work, _find(work, shard)))
    work.runtime.save_reference(_reference(work, shard), work.day, found)


def read_findings(store: ObjectStore, findings: StoredTable) -> pl.DataFrame:
    """Findings that were kept. DamagedFileError if the file isn't what was kept."""
    with SlicedFiles(store, {FINDINGS.name: findings}, [FINDINGS.name]) as files:
        return FINDINGS.conform(files.slice(0)[FINDINGS.name])


def _found_in(work: FeedRun, shard: int) -> pl.DataFrame:
    if work.shards:
        ahead = work.runtime.find_reference(_reference(work, shard), work.day, FindingsShard)
        if ahead is not None and ahead.made_from == _made_from(work):
            return read_findings(work.store, ahead.findings)
    return _find(work, shard)


def _find(work: FeedRun, shard: int) -> pl.DataFrame:
    found = [FINDINGS.empty()]
    with open_domains(work.store, work.domains(), work.snapshot().shards[shard]) as slices:
        for frames in slices:
            found += [frames[FINDINGS.name], work.format.check_representable(switched_frames(frames, work.flags))]
            del frames  # not in memory any more while the next slice is read
    return FINDINGS.conform(pl.concat(found).unique())


def _reference(work: FeedRun, shard: int) -> str:
    return f"{work.feed.name}/quarantine-shard-{shard:04d}"


def _made_from(work: FeedRun) -> str:
    code_version = work.runtime.settings.code_version
    return sha256(canonical([*work.made_of(), work.format.name, code_version, work.flags.recorded]))


def _keep(work: FeedRun, findings: pl.DataFrame) -> StoredTable:
    with tempfile.TemporaryDirectory(prefix="classfeed-findings-") as folder:
        path = Path(folder) / "findings.parquet"
        findings.write_parquet(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        prefix = f"domains/{work.day.isoformat()}/{work.audience.key}/findings-{work.feed.name}"
        key = f"{prefix}/{digest[:32]}.parquet"
        work.store.create(key, path)
        file = StoredFile(key=key, sha256=digest, rows=findings.height, bytes=path.stat().st_size)
        return StoredTable(files=(file,))
