"""Who stands at the support door: the load balancer's signed word, and nobody else's."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Sequence
from functools import lru_cache

from classfeed_dagster.errors import SafeguardError
from classfeed_dagster.support.reruns import Requester

HEADER = "x-amzn-oidc-data"
_KEY_ID = re.compile(r"[0-9a-f-]{36}\Z")
_SECONDS = 5


class NotIdentifiedError(SafeguardError):
    """The request didn't come through the load balancer, or its signature doesn't hold."""


def identify(headers: Sequence[str], signer: str, public_key: Callable[[str], str]) -> Requester:
    """The person in the signed header. ``headers``: its values; ``signer``: beginning of the load balancer's ARN.

    ``public_key`` gives the PEM of a key id. NotIdentifiedError for anything that isn't signed, fresh and ours.
    """
    import jwt

    if len(headers) != 1 or not signer:
        raise NotIdentifiedError("sign in through the load balancer")
    try:
        stated = jwt.get_unverified_header(headers[0])
        key_id = str(stated.get("kid", ""))
        # The signer and the key's id stand in the signed part; they are looked at first so that no foreign load
        # balancer's key, which is as public as ours, is ever asked for.
        if stated.get("alg") != "ES256" or not str(stated.get("signer", "")).startswith(signer):
            raise NotIdentifiedError("signed by another")
        if not _KEY_ID.match(key_id):
            raise NotIdentifiedError("no usable key id")
        claims = jwt.decode(
            headers[0], public_key(key_id), algorithms=["ES256"], options={"require": ["exp"], "verify_aud": False}
        )
    except jwt.PyJWTError as error:
        raise NotIdentifiedError(f"signature refused ({type(error).__name__})") from None
    groups = claims.get("groups", [])
    name = claims.get("preferred_username") or claims.get("sub") or ""
    return Requester(str(name), frozenset(map(str, groups)) if isinstance(groups, list) else frozenset())


def keys_of(region: str) -> Callable[[str], str]:
    """Fetches a load balancer's public keys of ``region``, each once."""

    @lru_cache(maxsize=8)
    def fetch(key_id: str) -> str:
        address = f"https://public-keys.auth.elb.{region}.amazonaws.com/{key_id}"
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            return str(answer.read(4096).decode("ascii"))

    return fetch
