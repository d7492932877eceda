"""Authentication of support users by the load balancer's signed OIDC header."""

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
    """The request did not pass the load balancer, or its signature is invalid."""


def identify(headers: Sequence[str], signer: str, public_key: Callable[[str], str]) -> Requester:
    """Return the person in the signed header.

    ``headers``: its values; ``signer``: prefix of the load balancer's ARN; ``public_key`` returns the PEM of a key id.
    NotIdentifiedError unless the header is signed by this load balancer and has not expired.
    """
    import jwt

    if len(headers) != 1 or not signer:
        raise NotIdentifiedError("No identity in the request: sign in through the load balancer")
    try:
        stated = jwt.get_unverified_header(headers[0])
        key_id = str(stated.get("kid", ""))
        # Signer and key id are in the signed part. They are checked first, so that no other load balancer's public
        # key is ever requested.
        if stated.get("alg") != "ES256" or not str(stated.get("signer", "")).startswith(signer):
            raise NotIdentifiedError("Signed by another load balancer: sign in again")
        if not _KEY_ID.match(key_id):
            raise NotIdentifiedError("Invalid key id in the signature: sign in again")
        claims = jwt.decode(
            headers[0], public_key(key_id), algorithms=["ES256"], options={"require": ["exp"], "verify_aud": False}
        )
    except jwt.PyJWTError as error:
        raise NotIdentifiedError(f"Signature refused ({type(error).__name__}): sign in again") from None
    groups = claims.get("groups", [])
    name = claims.get("preferred_username") or claims.get("sub") or ""
    return Requester(str(name), frozenset(map(str, groups)) if isinstance(groups, list) else frozenset())


def keys_of(region: str) -> Callable[[str], str]:
    """Return a function that fetches the public keys of load balancers in ``region``, each once."""

    @lru_cache(maxsize=8)
    def fetch(key_id: str) -> str:
        address = f"https://public-keys.auth.elb.{region}.amazonaws.com/{key_id}"
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            return str(answer.read(4096).decode("ascii"))

    return fetch
