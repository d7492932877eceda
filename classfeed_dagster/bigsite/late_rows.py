"""Rows of closed windows that no earlier snapshot saw: committed late, replicated late, or loaded with old instants.

A snapshot asks bigsite for the ids of a look-back and compares them with the ids that were sent, or landed to be
sent. What is left over is read whole and lands with the date. Only portfolios whose extract is DELTA are asked for: a
FULL extract reads every visible row anyway.
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
    """Ledger rows that earlier dates sent or will send, by table, and the instant from which they are known.

    ``ids`` holds every row recorded at or after ``since`` that some earlier date has.
    """

    since: dt.datetime
    ids: Mapping[str, Ids] = field(default_factory=dict)


def find_late_rows(bigsite: ReadOnlyTransaction, parameters: MutableMapping[str, object], sent: SentRows) -> int:
    """Name the late rows in ``parameters``, for the ledgers' queries to read; return how many there are."""
    parameters["late_from"] = sent.since
    parameters["latest"] = parameters["cutoff"]  # no window begins after it
    found = 0
    for query in LEDGERS:
        batches = bigsite.copy(look_back(query), parameters, columns(id=ID))
        visible = [batch.column(0).to_numpy(zero_copy_only=False) for batch in batches]
        known = sent.ids.get(query.table, np.array([], dtype=np.int64))
        late = np.setdiff1d(np.concatenate(visible), known) if visible else np.array([], dtype=np.int64)
        parameters[f"late_{query.table}"] = array(late.tolist())
        found += len(late)
    return found
