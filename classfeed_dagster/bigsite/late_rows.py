"""Late rows: rows of closed windows that no earlier snapshot saw (committed or replicated late, or back-dated).

A snapshot queries the ids of a look-back period and compares them with the ids that earlier dates sent or landed.
The remaining rows are read whole and land with the date. Only DELTA portfolios are queried: a FULL extract reads every
visible row anyway.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from classfeed_dagster.bigsite.extraction_scope import array
from classfeed_dagster.bigsite.ledgers import LEDGERS, look_back
from classfeed_dagster.bigsite.source_connection import ReadOnlyTransaction
from classfeed_dagster.bigsite.sql_types import ID, columns

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SentRows:
    """Ledger rows that earlier dates sent or will send, by table.

    ``ids`` holds every row recorded at or after ``since`` that some earlier date has.
    """

    since: dt.datetime
    ids: Mapping[str, Ids] = field(default_factory=dict)


def find_late_rows(bigsite: ReadOnlyTransaction, parameters: MutableMapping[str, object], sent: SentRows) -> int:
    """Add the late rows' ids to ``parameters`` for the ledgers' queries, and return their number."""
    parameters["late_from"] = sent.since
    parameters["latest"] = parameters["cutoff"]  # no window begins after it
    count = 0
    for query in LEDGERS:
        batches = bigsite.copy(look_back(query), parameters, columns(id=ID))
        visible = [np.from_dlpack(batch.column(0)) for batch in batches]
        known = sent.ids.get(query.table, np.array([], dtype=np.int64))
        late = np.setdiff1d(np.concatenate(visible), known) if visible else np.array([], dtype=np.int64)
        parameters[f"late_{query.table}"] = array(late.tolist())
        count += len(late)
    return count
