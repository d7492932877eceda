"""Identity provider whose pages the load balancer shows before the UI and the support door."""

from __future__ import annotations

import json
import urllib.request
from urllib.parse import urlsplit

from classfeed_dagster.errors import ConfigurationError

# Paths below the issuer that the load balancer's rules name, by their field in OpenID Connect Discovery 1.0, section 3.
OIDC_PATHS = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "userinfo_endpoint": "/userinfo"}
_SECONDS = 10.0
_MAX_BYTES = 1 << 20


class IdentityProviderError(ConfigurationError):
    """The identity provider is another one than the load balancer's rules name, or has other endpoints."""


def check_issuer(issuer: str) -> str:
    """Read the issuer's discovery document as a load balancer reaches it: without a proxy. Return what was found.

    IdentityProviderError if the document states another issuer or other endpoints; OSError if there is no answer.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{issuer}/.well-known/openid-configuration", timeout=_SECONDS) as answer:
        body = answer.read(_MAX_BYTES)
    try:
        stated = json.loads(body)
    except ValueError:
        stated = None
    if not isinstance(stated, dict):
        raise IdentityProviderError("the discovery document is not a JSON object")
    for field, expected in {"issuer": issuer, **{name: issuer + path for name, path in OIDC_PATHS.items()}}.items():
        if stated.get(field) != expected:
            raise IdentityProviderError(
                f"its {field} is {stated.get(field)!r}, the load balancer's rules have {expected}"
            )
    return f"{urlsplit(issuer).hostname} has the endpoints of the load balancer's rules"
