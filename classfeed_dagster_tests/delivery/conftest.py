"""Stores of the delivery's tests: a folder, and S3 where its answers decide the outcome. All of them on S3 nightly."""

from __future__ import annotations

import pytest

from classfeed_dagster.store import ObjectStore


@pytest.fixture(
    params=[
        "local_store",
        pytest.param("moto_store", marks=pytest.mark.nightly),
        pytest.param("localbucket_store", marks=pytest.mark.nightly),
    ]
)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Run the test on a local folder, and nightly on both S3 servers."""
    store: ObjectStore = request.getfixturevalue(request.param)
    return store
