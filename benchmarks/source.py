"""The first stages: bigsite's rows to landed Parquet, and landed Parquet to the domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa

from benchmarks.measure import Facts, Part, Way, Work, compare
from benchmarks.site import AUDIENCE, DOMAIN, FIRST, SNAPSHOT, Day, Site, copy, runtime_at
from classfeed_dagster.bigsite import queries
from classfeed_dagster.bigsite.extraction_scope import array, query_scope
from classfeed_dagster.bigsite.snapshot import Snapshot
from classfeed_dagster.bigsite.source_connection import read_only
from classfeed_dagster.domains.build import DOMAINS, DomainReference
from classfeed_dagster.feed_run.feed_date import LANDING
from classfeed_dagster.local.embedded_postgres import engine_from


def prepare_snapshot(scratch: Path, url: str) -> Work:
    """Prepare an empty store and a connection to bigsite."""
    runtime = runtime_at(url, scratch)
    runtime.engine.connect().close()

    def work() -> Facts:
        landed = Day(runtime, FIRST).snapshot()
        runtime.close()
        names = {query.table for query in (*queries.SLICED, *queries.REFERENCES)}
        return {"answer": {name: table.rows for name, table in sorted(landed.tables.items()) if name in names}}

    return work


def prepare_read_sql(scratch: Path, url: str) -> Work:
    """Prepare pandas and SQLAlchemy."""
    import pandas as pd

    engine = engine_from(url)
    statements = _statements(engine)

    def work() -> Facts:
        rows: dict[str, int] = {}
        with engine.connect() as connection:
            frames = []  # a user of pandas has the frames in memory
            for table, sql, values in statements:
                # Through the driver: pandas would take the percent signs of the parameters for its own.
                frame = pd.read_sql(sa.text(_named(sql, values)).bindparams(**values), connection)
                frames.append(frame)
                rows[table] = len(frame)
        engine.dispose()
        return {"answer": dict(sorted(rows.items()))}

    return work


def prepare_copy(scratch: Path, url: str) -> Work:
    """Run the same queries, without storing the answers."""
    engine = engine_from(url)
    statements = _statements(engine)

    def work() -> Facts:
        size = 0
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor:
                for _, sql, values in statements:
                    with cursor.copy(f"COPY ({sql}) TO STDOUT (FORMAT csv)", values) as source:
                        for block in source:
                            size += len(block)
        engine.dispose()
        return {"bytes": size}

    return work


def _statements(engine: sa.Engine) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the snapshot's statements: table, SQL and parameters."""
    with read_only(engine) as bigsite:
        parameters = dict(query_scope(bigsite, FIRST, [AUDIENCE]).parameters)
        traded = bigsite.rows(sa.text("SELECT DISTINCT security_id FROM bigsite.trade ORDER BY 1"))
    parameters["securities"] = array(row[0] for row in traded)
    return [
        (query.table, query.sql, {name: value for name, value in parameters.items() if f"%({name})s" in query.sql})
        for query in (*queries.SLICED, *queries.REFERENCES)
    ]


def _named(sql: str, values: dict[str, Any]) -> str:
    # SQLAlchemy's way of writing parameters; a double colon is PostgreSQL's cast and must be escaped.
    text = sql.replace("::", r"\:\:")
    for name in values:
        text = text.replace(f"%({name})s", f":{name}")
    return text


def snapshot(site: Site, *, rounds: int, until: float) -> Part:
    """Compare the same statements' rows: into pandas, into Parquet, discarded."""
    ways = [
        Way(name, prepare, {"url": site.url})
        for name, prepare in (
            ("pandas.read_sql", prepare_read_sql),
            ("this project (to Parquet)", prepare_snapshot),
            ("raw COPY to nowhere", prepare_copy),
        )
    ]
    description = "rows of the first date from bigsite; the client's and PostgreSQL's own time"
    return compare("snapshot", site.portfolios, description, ways, rounds=rounds, until=until, server=site.server)


def prepare_domains(scratch: Path, home: Path, url: str) -> Work:
    """Prepare a store with the snapshot."""
    copy(home, scratch)
    return Day(runtime_at(url, scratch), FIRST).domains


def prepare_parquet(scratch: Path, home: Path, url: str) -> Work:
    """List the files that the domains read and write."""
    runtime = runtime_at(url, home)
    landed = runtime.load_reference(LANDING, FIRST, Snapshot).tables.values()
    references = [runtime.load_reference(AUDIENCE.reference(name), FIRST, DomainReference) for name in DOMAINS]
    tables = [table for reference in references for table in reference.frames.values()]

    def work() -> None:
        for table in landed:
            with runtime.store.local_file(table.key) as path:
                pq.read_table(path)
        for at, table in enumerate(tables):
            with runtime.store.local_file(table.key) as path:
                pq.write_table(pq.read_table(path), scratch / f"{at}.parquet", compression="zstd")

    return work


def domains(site: Site, *, rounds: int, until: float) -> Part:
    """Measure landed tables to domain frames, rules included."""
    url = site.url
    ways = [
        Way(
            "Parquet alone: read what is read, write what is written",
            prepare_parquet,
            {"home": site.after(FIRST, DOMAIN), "url": url},
        ),
        Way("this project", prepare_domains, {"home": site.after(FIRST, SNAPSHOT), "url": url}),
    ]
    description = "landed Parquet to the five domains' Parquet, every rule applied"
    return compare("domains", site.portfolios, description, ways, rounds=rounds, until=until)
