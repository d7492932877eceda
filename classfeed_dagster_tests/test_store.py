"""The object store: a local folder and S3 behave alike, creates have one winner, and no key leaves the root."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classfeed_dagster import store as store_module
from classfeed_dagster.errors import Dependency, StoreError
from classfeed_dagster.store import (
    InvalidKeyError,
    LocalStore,
    ObjectNotFoundError,
    ObjectStore,
    S3Store,
    check_key,
    open_store,
    store_usage,
)

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "../a",
    "a b",
    "a\\b",
    "a\n",
    "é",
    "a/.part-1",
    "a\0b",
    "x" * 1025,
]


@pytest.fixture(params=["local_store", "moto_store", "localbucket_store"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Return each kind of store; the second S3 server runs in every test run, not only nightly."""
    store: ObjectStore = request.getfixturevalue(request.param)
    return store


def test_store_creates_reads_lists_and_deletes(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    assert store.create("a/b.json", b"one", {"correlation-id": "x"})
    assert not store.create("a/b.json", b"two")
    assert store.create("a/c/d", source)
    assert not store.create("a/c/d", source)
    assert (store.read("a/b.json"), store.read("a/c/d")) == (b"one", b"from a file")
    assert (store.exists("a/b.json"), store.exists("a/c"), store.exists("a/nothing")) == (True, False, False)
    with store.local_file("a/c/d") as path:
        assert path.read_bytes() == b"from a file"
        assert path.name == "d"
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert list(store.list("")) == ["a/c/d"]


def test_requests_and_bytes_are_counted_alike(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"12345")
    before = store_usage()
    store.create("a/b", b"123")
    store.create("a/c", source)
    store.put("a/d", b"1234567")
    assert len(list(store.list("a/"))) == 3
    assert store.exists("a/b")
    assert store.read("a/b") == b"123"
    with store.local_file("a/c"):
        pass
    store.delete("a/d")
    with pytest.raises(ObjectNotFoundError):
        store.read("a/d")
    after = store_usage()
    assert after.requests - before.requests == 9
    assert after.bytes - before.bytes == 3 + 5 + 7 + 3 + 5


def test_put_replaces_the_object(store: ObjectStore) -> None:
    for data in (b"one", b"", b"three"):
        store.put("pointer", data)
        assert store.read("pointer") == data
    assert list(store.list("")) == ["pointer"]


def test_listing_is_by_code_point_and_by_prefix(store: ObjectStore) -> None:
    keys = ["a-b/1", "a/1", "a/10", "a/2", "a/B/1", "a=1", "a_b", "ab/1", "b"]
    for key in reversed(keys):
        store.create(key, b"")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a/")) == ["a/1", "a/10", "a/2", "a/B/1"]
    assert list(store.list("a/1")) == ["a/1", "a/10"]
    assert list(store.list("nothing/")) == []


def test_missing_object_names_its_location(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        store.read("a/b")
    assert store.location("a/b") in str(caught.value)
    assert "does not exist" in str(caught.value)
    with pytest.raises(ObjectNotFoundError), store.local_file("a/b"):
        pass
    store.create("a/b/c", b"")
    with pytest.raises(ObjectNotFoundError):
        store.read("a/b")  # a folder is no object


@pytest.mark.parametrize("key", BAD_KEYS)
def test_invalid_key_is_refused(store: ObjectStore, key: str) -> None:
    for use in (store.read, store.exists, store.delete, store.location):
        with pytest.raises(InvalidKeyError):
            use(key)
    for write in (store.create, store.put):
        with pytest.raises(InvalidKeyError):
            write(key, b"")
    with pytest.raises(InvalidKeyError), store.local_file(key):
        pass


@given(st.text(max_size=60))
def test_key_never_escapes_the_root(key: str) -> None:
    root = Path("/somewhere/root")
    try:
        path = Path(os.path.normpath(root / check_key(key)))
    except InvalidKeyError:
        return
    assert root in path.parents


@pytest.mark.parametrize("prefix", ["../", "a//", "/"])
def test_invalid_prefix_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(InvalidKeyError):
        list(store.list(prefix))


def test_concurrent_create_has_one_winner(store: ObjectStore) -> None:
    def one(at: int) -> bool:
        return store.create("race/key", str(at).encode() * 1000)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(one, range(16)))
    assert sum(won) == 1
    assert store.read("race/key") == str(won.index(True)).encode() * 1000


def test_object_is_never_seen_partially(local_store: ObjectStore) -> None:
    sizes = set()

    def write(at: int) -> None:
        local_store.put("state", b"x" * 200_000)

    def read(at: int) -> None:
        sizes.add(len(local_store.read("state")))

    local_store.put("state", b"x" * 200_000)
    with ThreadPoolExecutor(4) as pool:
        for _ in zip(pool.map(write, range(20)), pool.map(read, range(20)), strict=True):
            pass
    assert sizes == {200_000}


# --- A local folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failed_write_leaves_no_file(local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    # An error that a person can correct states how. Repair waits for it, as for an unreachable store.
    expected = OSError if number == errno.EIO else StoreError
    with pytest.raises(expected) as caught:
        local_store.create("a/b", b"data")
    if expected is StoreError:
        assert f"{local_store.root} cannot be written ({os.strerror(number).lower()})" in str(caught.value)
        assert getattr(caught.value, "dependency", None) is Dependency.STORE
    assert [path for path in local_store.root.rglob("*") if path.is_file()] == []


def test_half_written_files_of_a_dead_process_are_not_listed(local_store: LocalStore) -> None:
    local_store.create("a/b", b"")
    (local_store.root / "a" / ".part-dead").write_bytes(b"half")
    assert list(local_store.list("")) == ["a/b"]


def test_create_that_loses_at_the_last_step_returns_false(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_store.create("a", b"first")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert not local_store.create("a", b"second")
    assert local_store.read("a") == b"first"
    assert [path.name for path in local_store.root.iterdir()] == ["a"]


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_store_on_a_folder_that_cannot_be_flushed_works(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int, raises: bool
) -> None:
    real = os.fsync
    local_store.put("made", b"")

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(code, "no")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if raises:
        with pytest.raises(OSError, match="no"):
            local_store.create("a", b"")
    else:
        assert local_store.create("a", b"")


# --- S3 -----------------------------------------------------------------------------------------------------------


def test_metadata_travels_with_the_object(moto_store: S3Store) -> None:
    moto_store.create("a", b"", {"correlation-id": "run-1"})
    answer = moto_store._client.head_object(Bucket=moto_store.bucket, Key="feed/a")
    assert answer["Metadata"]["correlation-id"] == "run-1"


def _answer(status: int, code: str = "x") -> Exception:
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


class Scripted:
    """S3 client whose PutObject returns the scripted answers, before or after it reaches the server (a lost answer)."""

    def __init__(self, client: object, *answers: tuple[str, int]) -> None:
        self.client, self.answers = client, list(answers)

    def __getattr__(self, name: str) -> object:
        return getattr(self.client, name)

    def put_object(self, **request: object) -> object:
        when, status = self.answers.pop(0) if self.answers else ("", 0)
        if when == "before":
            raise _answer(status)
        result = self.client.put_object(**request)  # type: ignore[attr-defined]
        if when == "after":
            raise _answer(status)
        return result


def scripted(monkeypatch: pytest.MonkeyPatch, store: S3Store, *answers: tuple[str, int]) -> Scripted:
    client = Scripted(store._client, *answers)
    monkeypatch.setattr(store_module, "_s3_client", lambda _: client)
    return client


def test_conflict_is_retried(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"whole")
    scripted(monkeypatch, s3_store, ("before", 409), ("before", 409))
    assert s3_store.create("a", source)
    assert s3_store.read("a") == b"whole"


def test_lost_answer_still_counts_as_created(moto_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client repeats a request whose answer was lost; the repetition finds the object that the first one made.
    scripted(monkeypatch, moto_store, ("after", 412))
    assert moto_store.create("a", b"mine")
    scripted(monkeypatch, moto_store, ("before", 412))
    assert not moto_store.create("a", b"other")
    scripted(monkeypatch, moto_store, ("before", 412))
    assert not moto_store.create("gone-since", b"other")


def test_endless_conflict_is_raised(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    scripted(monkeypatch, s3_store, *[("before", 409)] * 20)
    with pytest.raises(ClientError):
        s3_store.create("a", b"")
    scripted(monkeypatch, s3_store, ("before", 403))
    with pytest.raises(ClientError):
        s3_store.create("a", b"")


def test_missing_bucket_is_not_a_missing_object(s3_store: S3Store, each_s3_endpoint: str) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError, match="NoSuchBucket"):
        S3Store("no-such-bucket-anywhere", endpoint_url=each_s3_endpoint).read("a")


@pytest.mark.parametrize("folder", ["", "chain/x/"])
def test_folder_made_in_the_console_is_no_object(moto_store: S3Store, folder: str) -> None:
    moto_store._client.put_object(Bucket=moto_store.bucket, Key=f"feed/{folder}", Body=b"")
    moto_store.create("chain/x/1.json", b"{}")
    assert list(moto_store.list(folder)) == ["chain/x/1.json"]


def test_bucket_without_a_prefix_is_a_store(s3_store: S3Store, each_s3_endpoint: str) -> None:
    whole = open_store(f"s3://{s3_store.bucket}", s3_endpoint_url=each_s3_endpoint)
    whole.create("a", b"")
    assert whole.location("a") == f"s3://{s3_store.bucket}/a"
    assert list(s3_store.list("")) == []


# --- Addresses ----------------------------------------------------------------------------------------------------


def test_store_is_opened_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("some/folder").location("a/b") == str(tmp_path / "some/folder/a/b")
    assert open_store(f"file://{tmp_path}/with%20blank").location("a") == f"{tmp_path}/with blank/a"
    assert open_store("s3://bucket/some/prefix/").location("a") == "s3://bucket/some/prefix/a"
    assert not (tmp_path / "some").exists()
    with pytest.raises(ValueError, match="names no bucket"):
        open_store("s3:///prefix")
    with pytest.raises(ValueError, match="Unsupported store scheme"):
        open_store("gs://bucket")
