"""The proxy forwards unchanged, disturbs as configured, and finds the process to kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from classfeed_dagster.store import ObjectStore, open_store
from classfeed_dagster_tests.torture.daemon.proxy import Effect, Proxy

BUCKET = "proxied"
_PUT = """
import sys
from classfeed_dagster.store import open_store
open_store("s3://proxied", s3_endpoint_url=sys.argv[1]).create(sys.argv[2], b"x" * 100_000)
"""


@pytest.fixture(scope="module")
def proxy(each_s3_endpoint: str) -> Iterator[Proxy]:
    boto3.client("s3", endpoint_url=each_s3_endpoint).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"}
    )
    with Proxy(each_s3_endpoint).running() as created:
        yield created


@pytest.fixture
def behind(proxy: Proxy) -> ObjectStore:
    return open_store(f"s3://{BUCKET}", s3_endpoint_url=proxy.url)


def client(proxy: Proxy) -> object:
    once = Config(retries={"mode": "standard", "total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=proxy.url, config=once)


def test_proxy_passes_bytes_unchanged(behind: ObjectStore) -> None:
    data = bytes(range(256)) * 1000
    assert behind.create("a/b", data)
    assert not behind.create("a/b", b"other")
    assert behind.read("a/b") == data
    assert list(behind.list("a/")) == ["a/b"]
    assert behind.exists("a/b")
    behind.delete("a/b")
    assert not behind.exists("a/b")


def test_proxy_fault_503_is_s3s_slow_down(proxy: Proxy) -> None:
    with proxy.trouble("PUT .*/busy", Effect.UNAVAILABLE) as trouble, pytest.raises(ClientError, match="SlowDown"):
        client(proxy).put_object(Bucket=BUCKET, Key="busy", Body=b"x")  # type: ignore[attr-defined]
    assert trouble.hits == 1


def test_cut_upload_stores_nothing_and_is_retried(proxy: Proxy, behind: ObjectStore) -> None:
    with proxy.trouble("PUT .*/cut", Effect.CUT), pytest.raises(ConnectionClosedError):
        client(proxy).put_object(Bucket=BUCKET, Key="cut", Body=b"x" * 200_000)  # type: ignore[attr-defined]
    assert not behind.exists("cut")
    with proxy.trouble("PUT .*/cut", Effect.CUT, times=1) as trouble:
        assert behind.create("cut", b"x" * 200_000)
    assert trouble.hits == 1


def test_proxy_fault_slow_delays_the_answer(proxy: Proxy, behind: ObjectStore) -> None:
    import time

    with proxy.trouble("PUT .*/slow", Effect.SLOW, seconds=0.3):
        began = time.monotonic()
        behind.create("slow", b"x")
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("effect", "stored"), [(Effect.KILL, False), (Effect.KILL_AFTER, True)])
def test_proxy_fault_kill_ends_the_caller(proxy: Proxy, behind: ObjectStore, effect: Effect, stored: bool) -> None:
    key = f"victim-{effect.name}"
    with proxy.trouble(f"PUT .*/{key}", effect, times=1) as trouble:
        process = subprocess.Popen([sys.executable, "-c", _PUT, proxy.url, key])
        assert process.wait(60) == -9
    assert trouble.victims == [process.pid]
    assert behind.exists(key) is stored
