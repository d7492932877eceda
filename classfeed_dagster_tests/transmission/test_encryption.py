"""Files encrypted to the recipient's OpenPGP key: exact retries, pinned keys, every kind of destination."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import SecretStr

from classfeed_dagster.cli.preflight import PreflightCheck, _recipient_keys
from classfeed_dagster.delivery.state import delivered_state
from classfeed_dagster.feeds.class_super import FEED as CLASS_SUPER
from classfeed_dagster.store import LocalStore
from classfeed_dagster.stored_records import create_record
from classfeed_dagster.transmission import send as sending
from classfeed_dagster.transmission.destination import Destination, HttpsUpload, OtherBucket
from classfeed_dagster.transmission.encryption import OpenPgpKey, RecipientKeyError
from classfeed_dagster.transmission.send import Receipt, Transmission, receipts
from classfeed_dagster_tests.fixtures.delivery_pipeline import ASKED_AT, AUDIENCE, DAY1, FEED, deliver, simple
from classfeed_dagster_tests.fixtures.s3_servers import S3_SERVERS, create_bucket
from classfeed_dagster_tests.fixtures.upload_server import Upload
from classfeed_dagster_tests.transmission.test_destinations import SshServer

pysequoia = pytest.importorskip("pysequoia", reason="the openpgp extra is not installed")


@pytest.fixture(scope="module")
def pair() -> Any:
    return pysequoia.Tsk.generate("Recipient <files@recipient.example>", validity_seconds=90 * 86400)


def public(pair: Any, fingerprint: str = "") -> OpenPgpKey:
    certificate = pair.extract_certificate()
    return OpenPgpKey(str(certificate), fingerprint or certificate.fingerprint)


def decrypted(content: bytes, pair: Any) -> bytes:
    plain: bytes = pysequoia.decrypt(content, decryptor=pair.decryptor()).bytes
    return plain


def transmission(
    store: LocalStore, destination: Destination, credentials: Mapping[str, SecretStr] = {}
) -> Transmission:
    consented = simple().consenting
    return Transmission(
        store, FEED, DAY1, destination, AUDIENCE, credentials, lambda: consented, lambda: ASKED_AT, "try-1"
    )


def delivered_pages(store: LocalStore) -> dict[str, bytes]:
    (manifest,) = delivered_state(store, FEED, DAY1).deliveries
    return {page.key.rpartition("/")[2] + ".pgp": store.read(page.key) for page in manifest.pages}


@contextmanager
def received(
    kind: str, folder: Path, endpoint: str, key: OpenPgpKey
) -> Iterator[tuple[Destination, Mapping[str, SecretStr], Any]]:
    """Run a destination; yield it, its credentials, and a function that returns its files by name."""
    if kind == "https":
        yield (
            HttpsUpload(endpoint, encrypts_to=key),
            {},
            lambda: {name.rpartition("/")[2]: body for name, (body, _) in Upload.files.items()},
        )
    elif kind in S3_SERVERS:
        with S3_SERVERS[kind]() as address:
            create_bucket(address, "encrypted-theirs")
            client = boto3.client("s3", endpoint_url=address)

            def objects() -> dict[str, bytes]:
                listed = client.list_objects_v2(Bucket="encrypted-theirs")["Contents"]
                return {
                    entry["Key"]: client.get_object(Bucket="encrypted-theirs", Key=entry["Key"])["Body"].read()
                    for entry in listed
                }

            yield OtherBucket("encrypted-theirs", endpoint_url=address, encrypts_to=key), {}, objects
    else:
        (folder / "root" / "in").mkdir(parents=True)
        server = SshServer(folder / "root")
        try:
            yield (
                server.destination(encrypts_to=key),
                server.credentials,
                lambda: {path.name: path.read_bytes() for path in (folder / "root" / "in").iterdir()},
            )
        finally:
            server.stop()


@pytest.mark.parametrize("kind", ["https", *S3_SERVERS, "sftp"])
def test_file_is_encrypted_once_and_retried_exactly(
    local_store: LocalStore, tmp_path: Path, endpoint: str, pair: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(local_store, simple())

    def dying(store: LocalStore, key: str, record: Any, *metadata: Any) -> bool:
        if isinstance(record, Receipt):
            raise KeyboardInterrupt  # the file arrived, its receipt is not written
        return create_record(store, key, record, *metadata)

    with received(kind, tmp_path, endpoint, public(pair)) as (destination, credentials, files):
        attempt = transmission(local_store, destination, credentials)
        with monkeypatch.context() as patch:
            patch.setattr(sending, "create_record", dying)
            with pytest.raises(KeyboardInterrupt):
                attempt.send()
        first = files()
        assert len(first) == 1
        new = attempt.send()
        assert new[0].answer.startswith("already there")
        content = files()
        assert first.items() <= content.items()
    assert {name: decrypted(body, pair) for name, body in content.items()} == delivered_pages(local_store)
    assert receipts(local_store, FEED, DAY1) == new
    for receipt in new:
        sent = receipt.encrypted
        assert sent is not None
        body = content[receipt.name]
        assert (sent.bytes, sent.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert sent.fingerprint == public(pair).fingerprint
        assert receipt.sha256 == hashlib.sha256(decrypted(body, pair)).hexdigest()


def test_unusable_key_is_an_error_before_anything_is_sent(local_store: LocalStore, endpoint: str, pair: Any) -> None:
    deliver(local_store, simple())
    expiring = pysequoia.Tsk.generate("Expiring <a@recipient.example>", validity_seconds=3600)
    other = pysequoia.Tsk.generate("Revoked <b@recipient.example>")
    certificate = other.extract_certificate()
    revoked = pysequoia.Cert.from_bytes(bytes(certificate) + bytes(certificate.revoke(other.certifier())))
    keys = {
        "is pinned": public(pair, "ab" * 20),
        "expired on": public(expiring),
        "is revoked": OpenPgpKey(str(revoked), revoked.fingerprint),
        "is unreadable": OpenPgpKey("-----BEGIN PGP PUBLIC KEY BLOCK-----", "ab" * 20),
        "holds its private key": OpenPgpKey(str(pair), public(pair).fingerprint),
    }
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    for message, key in keys.items():
        attempt = replace(transmission(local_store, HttpsUpload(endpoint, encrypts_to=key)), now=lambda: later)
        with pytest.raises(RecipientKeyError, match=message):
            attempt.send()
    assert Upload.files == {}
    assert list(local_store.list("outgoing/")) == []


def test_preflight_checks_the_recipients_key(endpoint: str, pair: Any) -> None:
    def check(key: OpenPgpKey) -> PreflightCheck:
        (one_check,) = _recipient_keys(
            [CLASS_SUPER, replace(CLASS_SUPER, sends_to=HttpsUpload(endpoint, encrypts_to=key))]
        )
        return one_check

    pinned = public(pair).fingerprint
    spaced = " ".join(pinned[at : at + 4].upper() for at in range(0, len(pinned), 4))
    assert check(public(pair, spaced)).ask().startswith(f"{pinned}, expires on ")
    with pytest.raises(RecipientKeyError, match="is pinned"):
        check(public(pair, "00")).ask()
