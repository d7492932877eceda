"""Load balancer of the rehearsal: the template's rules, targets and health checks, and its signature on who signed in.

Of the identity provider only the discovery document is there: a person here is the claims that it would state.
"""

from __future__ import annotations

import base64
import fnmatch
import http.client
import json
import threading
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from classfeed_dagster_tests.rehearsal.network import REGION
from classfeed_dagster_tests.rehearsal.resolver import Stacks

KEY_HOST = f"public-keys.auth.elb.{REGION}.amazonaws.com"
_PART = "application"
_KIND = "AWS::ElasticLoadBalancingV2"


class Balancer:
    """Rules of an environment's load balancer, over the addresses of its services."""

    def __init__(self, stacks: Stacks, addresses: Mapping[str, str]) -> None:
        self._stacks, self._addresses = stacks, addresses
        (properties,) = stacks.resources(_PART, f"{_KIND}::LoadBalancer").values()
        self.arn = (
            f"arn:aws:elasticloadbalancing:{REGION}:{stacks.parameters['AWS::AccountId']}:loadbalancer/app/"
            f"{properties['Name']}/50dc6c495c0c9188"
        )
        self.targets = stacks.resources(_PART, f"{_KIND}::TargetGroup")
        self._key, self._key_id = ec.generate_private_key(ec.SECP256R1()), str(uuid.uuid4())

    @property
    def public_key(self) -> bytes:
        """PEM of the key that verifies the signature."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def serve_keys(self) -> int:
        """Serve the public key as AWS does, without TLS; return the port."""
        return _serve(f"/{self._key_id}", self.public_key)

    @property
    def issuer(self) -> str:
        """Identity provider that every rule names."""
        (issuer,) = {rule["AuthenticateOidcConfig"]["Issuer"] for rule in self._sign_ins()}
        return str(issuer)

    def serve_issuer(self) -> int:
        """Serve the discovery document of an identity provider that has what the rules name; return the port."""
        ends = ("AuthorizationEndpoint", "TokenEndpoint", "UserInfoEndpoint")
        (endpoints,) = {tuple(rule["AuthenticateOidcConfig"][end] for end in ends) for rule in self._sign_ins()}
        fields = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")
        document = {"issuer": self.issuer, **dict(zip(fields, endpoints, strict=True))}
        return _serve("/.well-known/openid-configuration", json.dumps(document).encode())

    def sign(self, claims: Mapping[str, Any], *, signer: str | None = None, key: Any = None, seconds: int = 120) -> str:
        """Return the header that states ``claims``, as an Application Load Balancer makes it, padding included."""
        expires = int(time.time()) + seconds
        header = {"typ": "JWT", "kid": self._key_id, "alg": "ES256", "iss": self.issuer,
                  "client": "classfeed", "signer": signer or self.arn, "exp": expires}  # fmt: skip
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (header, {**claims, "exp": expires}))
        algorithm = ECAlgorithm(ECAlgorithm.SHA256)
        return f"{signed}.{_encode(algorithm.sign(signed.encode(), key or self._key))}"

    def request(self, path: str, identity: str | None = None, form: str | None = None) -> tuple[int, str]:
        """Send a request to the service that the rules name for its path; return status and body."""
        target = self._target(path)
        host = self._rules()[0]["Conditions"][0]["HostHeaderConfig"]["Values"][0]
        headers = {"Host": host} | ({} if identity is None else {"x-amzn-oidc-data": identity})
        if form is not None:
            headers |= {"Origin": f"https://{host}", "Content-Type": "application/x-www-form-urlencoded"}
        method = "GET" if form is None else "POST"
        return self._send(self._service(target), self.targets[target], method, path, form, headers)

    def check(self, target: str) -> tuple[int, str]:
        """Ask a target its health check's question; return status and body."""
        properties = self.targets[target]
        return self._send(self._service(target), properties, "GET", properties["HealthCheckPath"], None, {})

    def _send(
        self,
        service: str,
        target: Mapping[str, Any],
        method: str,
        path: str,
        form: str | None,
        headers: Mapping[str, str],
    ) -> tuple[int, str]:
        address = self._addresses[f"{service}.{self._stacks.env}.classfeed.internal"]
        connection = http.client.HTTPConnection(address, int(target["Port"]), timeout=60)
        connection.request(method, path, form, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def _rules(self) -> list[dict[str, Any]]:
        rules = self._stacks.resources(_PART, f"{_KIND}::ListenerRule").values()
        return sorted(rules, key=lambda rule: int(rule["Priority"]))

    def _sign_ins(self) -> list[dict[str, Any]]:
        return [min(rule["Actions"], key=lambda action: int(action["Order"])) for rule in self._rules()]

    def _target(self, path: str) -> str:
        for rule in self._rules():
            sign_in, forward = sorted(rule["Actions"], key=lambda action: int(action["Order"]))
            assert sign_in["Type"] == "authenticate-oidc", sign_in
            (patterns,) = (
                condition["PathPatternConfig"]["Values"]
                for condition in rule["Conditions"]
                if condition["Field"] == "path-pattern"
            )
            if any(fnmatch.fnmatchcase(path.partition("?")[0], pattern) for pattern in patterns):
                return str(forward["TargetGroupArn"]["Ref"])
        raise AssertionError(f"no rule for {path}")

    def _service(self, target: str) -> str:
        for properties in self._stacks.resources(_PART, "AWS::ECS::Service").values():
            for entry in properties.get("LoadBalancers", []):
                if entry["TargetGroupArn"]["Ref"] == target:
                    return str(properties["ServiceName"])
        raise AssertionError(f"no service behind {target}")


def _serve(path: str, body: bytes) -> int:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.end_headers()
            self.wfile.write(body if self.path == path else b"")

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
