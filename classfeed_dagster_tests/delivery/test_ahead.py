"""What was examined ahead, on record: read as it was written, and taken from nobody else."""

from __future__ import annotations

from classfeed_dagster.delivery.ahead import ahead_key, examine_ahead, read_ahead, record_ahead
from classfeed_dagster.documents.epi import EPI
from classfeed_dagster.store import ObjectStore
from classfeed_dagster_tests.documents.epi_data import sample, sections_of

KEY = ahead_key("staged/a/b/page-1.xml.gz", "feed-20230103-r0-p1")


def test_it_is_read_as_it_was_found(local_store: ObjectStore) -> None:
    found = examine_ahead(EPI, sections_of(sample()))
    record_ahead(local_store, KEY, "1", found)
    assert list(local_store.list("")) == ["staged/a/b/examined/feed-20230103-r0-p1.json"]
    assert read_ahead(local_store, KEY, "1") == found != {}


def test_nothing_is_known_without_a_record_or_from_other_code_or_a_damaged_one(local_store: ObjectStore) -> None:
    assert read_ahead(local_store, KEY, "1") == {}
    record_ahead(local_store, KEY, "1", examine_ahead(EPI, sections_of(sample())))
    assert read_ahead(local_store, KEY, "2") == {}
    local_store.put(KEY, b"{}")
    assert read_ahead(local_store, KEY, "1") == {}
