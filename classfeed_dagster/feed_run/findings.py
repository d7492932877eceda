"""Findings of the rules and the format for a feed on a date: collected from every slice, stored, and read by plans.

On large dates shards may be computed in advance by any worker. Results with another input digest are ignored.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import polars as pl
from pydantic import BaseModel, Field

from classfeed_dagster.bigsite.landing import SlicedFiles, StoredFile, StoredTable
from classfeed_dagster.documents.document_format import DocumentFormat
from classfeed_dagster.domains import breaches
from classfeed_dagster.domains.build import open_domains
from classfeed_dagster.domains.columns import ACCOUNTS, CASH_ACCOUNTS, FINDINGS, MOVEMENT_TRANSACTIONS
from classfeed_dagster.domains.rules import RuleSeverity, concerning
from classfeed_dagster.feed_run.feed_date import FeedDate
from classfeed_dagster.feed_run.switches import switched_frames
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import canonical, sha256


class FindingsReference(BaseModel, frozen=True):
    """Reference to all findings of one feed and date, with their number by rule."""

    snapshot_id: str
    flags: dict[str, str | int | bool]  # the switches in effect
    findings: StoredTable
    by_rule: dict[str, int]


class FindingsShard(BaseModel, frozen=True, populate_by_name=True, serialize_by_alias=True):
    """The findings of one shard, computed in advance."""

    input_digest: str = Field(alias="made_from")
    findings: StoredTable


def collect_findings(work: FeedDate) -> FindingsReference:
    """Collect and store all findings of the date."""
    snapshot = work.snapshot()
    by_shard = [FINDINGS.empty(), *(_findings_of(work, shard) for shard in range(len(snapshot.shards)))]
    findings = FINDINGS.conform(pl.concat(by_shard).unique())
    reference = FindingsReference(
        snapshot_id=snapshot.snapshot_id,
        flags=work.flags.recorded,
        findings=_store(work, findings),
        by_rule=dict(findings.group_by("rule").len().sort("rule").iter_rows()),
    )
    work.runtime.save_reference(f"{work.feed.name}/quarantine", work.day, reference)
    return reference


def find_in_shard(work: FeedDate, shard: int) -> None:
    """Compute the findings of one shard (from 0) in advance."""
    findings = FindingsShard(input_digest=_input_digest(work), findings=_store(work, _find(work, shard)))
    work.runtime.save_reference(_reference(work, shard), work.day, findings)


def read_findings(store: ObjectStore, findings: StoredTable) -> pl.DataFrame:
    """Return stored findings. Raise DamagedFileError if the file differs from the stored one."""
    with SlicedFiles(store, {FINDINGS.name: findings}, [FINDINGS.name]) as files:
        return FINDINGS.conform(files.slice(0)[FINDINGS.name])


def hold_back_identifiers(findings: pl.DataFrame, document: DocumentFormat) -> pl.DataFrame:
    """Return ``findings`` in which identifiers in the texts that ``document`` carries hold their portfolio back."""
    fields = {source for column in document.columns for source in column.filled_by}
    names = fields & {(ACCOUNTS.name, "portfolio_name"), (CASH_ACCOUNTS.name, "account_name")}
    narrative = (MOVEMENT_TRANSACTIONS.name, "narrative") in fields
    ledger = pl.col("subject").str.slice(0, 1).is_in(sorted(document.ledgers))
    carried = ((pl.col("rule") == breaches.identifier_in_name.__name__) & bool(names)) | (
        (pl.col("rule") == breaches.identifier_in_narrative.__name__) & narrative & ledger
    )
    severity = pl.when(carried).then(pl.lit(RuleSeverity.QUARANTINE.value)).otherwise(pl.col("severity"))
    return findings.with_columns(severity.alias("severity"))


def _findings_of(work: FeedDate, shard: int) -> pl.DataFrame:
    if work.shards:
        ahead = work.runtime.find_reference(_reference(work, shard), work.day, FindingsShard)
        if ahead is not None and ahead.input_digest == _input_digest(work):
            return read_findings(work.store, ahead.findings)
    return _find(work, shard)


def _find(work: FeedDate, shard: int) -> pl.DataFrame:
    document = work.format
    columns = {source for column in document.columns for source in column.filled_by}
    findings = [FINDINGS.empty()]
    with open_domains(work.store, work.domains(), work.snapshot().shards[shard], ledger_rows=False) as slices:
        for frames in slices:
            findings.append(concerning(frames[FINDINGS.name], document.ledgers, columns))
            findings.append(document.check_representable(switched_frames(frames, work.flags)))
            del frames  # frees the memory before the next slice is read
    return FINDINGS.conform(pl.concat(findings).unique())


def _reference(work: FeedDate, shard: int) -> str:
    return f"{work.feed.name}/quarantine-shard-{shard:04d}"


def _input_digest(work: FeedDate) -> str:
    code_version = work.runtime.settings.code_version
    return sha256(canonical([*work.inputs(), work.format.name, code_version, work.flags.recorded]))


def _store(work: FeedDate, findings: pl.DataFrame) -> StoredTable:
    with tempfile.TemporaryDirectory(prefix="classfeed-findings-") as folder:
        path = Path(folder) / "findings.parquet"
        findings.write_parquet(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        prefix = f"domains/{work.day.isoformat()}/{work.audience.key}/findings-{work.feed.name}"
        key = f"{prefix}/{digest[:32]}.parquet"
        work.store.create(key, path)
        file = StoredFile(key=key, sha256=digest, rows=findings.height, bytes=path.stat().st_size)
        return StoredTable(files=(file,))
