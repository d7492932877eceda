"""Look-ups of customers by the support group: permission, budget and a create-only record of each."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import AwareDatetime, Field

from classfeed_dagster.errors import ChainBusyError
from classfeed_dagster.store import ObjectStore
from classfeed_dagster.stored_records import StoredRecord, sha256, to_json
from classfeed_dagster.support.reruns import Requester, RerunPolicy, RerunRefusedError, require_member

_ATTEMPTS = 20


class CustomerLookup(StoredRecord):
    """Record of a person who was shown a customer's feeds."""

    schema_version: Literal[1] = 1
    portfolio_number: str
    looked_up_by: str = Field(description="the person's login name, as the identity provider states it")
    looked_up_at: AwareDatetime


def record_lookup(
    store: ObjectStore, number: str, requester: Requester, rules: RerunPolicy, budget: int, at: dt.datetime
) -> str:
    """Record a look-up before it is answered; return the record's key. ``at`` is UTC.

    RerunRefusedError for persons outside the group, and above ``budget`` look-ups of one person on one day (UTC).
    """
    require_member(requester, rules)
    prefix = f"reruns/lookups/{at:%Y-%m-%d}/{sha256(requester.name.encode())[:16]}/"
    record = CustomerLookup(portfolio_number=number, looked_up_by=requester.name, looked_up_at=at)
    for _ in range(_ATTEMPTS):
        count = sum(1 for _ in store.list(prefix))
        if count >= budget:
            raise RerunRefusedError(f"{count} customers were looked up today, which is the limit: page the on-call")
        key = f"{prefix}{count + 1:06d}.json"
        if store.create(key, to_json(record)):
            return key
    raise ChainBusyError("other look-ups were recorded at the same time: look it up again")
