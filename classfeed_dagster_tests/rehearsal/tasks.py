"""ECS for the rehearsal: starts each task's process with exactly what its task definition names.

The environment is that of the image (Dockerfile), of the task definition, of its secrets, and the two variables that
Fargate adds. The process runs as the task's user, without capabilities, with the root filesystem read-only and an own
/tmp, in a network namespace and with a host name of its own. The API that the run launcher asks is served from the same table.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from classfeed_dagster_tests.fixtures.templates import ROOT
from classfeed_dagster_tests.rehearsal.image import Image
from classfeed_dagster_tests.rehearsal.network import METADATA, REGION, Network
from classfeed_dagster_tests.rehearsal.resolver import Stacks, UnresolvableError

_LOCK_DOWN = (
    'hostname "$0" && mount -t tmpfs -o mode=1777 tmpfs /tmp && mount -o remount,bind,ro / && '
    'exec nsenter --net="/run/netns/$0" "$@"'
)
# The same from an image's root filesystem, $ROOT.
_LOCK_DOWN_IMAGE = (
    'hostname "$0" && mount --rbind "$ROOT" "$ROOT" && mount -t proc proc "$ROOT/proc" && mount --rbind /dev "$ROOT/dev" && '
    'mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf" && mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp" && '
    'mount -o remount,bind,ro "$ROOT" && exec nsenter --net="/run/netns/$0" chroot "$ROOT" "$@"'
)


@dataclass
class Task:
    """One started task."""

    arn: str
    family: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    log: Path
    address: str
    ports: Sequence[int] = ()
    tags: list[dict[str, str]] = field(default_factory=list)

    @property
    def code(self) -> int | None:
        """Exit code, None while the process runs."""
        return self.process.poll()

    def output(self) -> str:
        """Return what the task wrote."""
        return self.log.read_text(errors="replace")

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the task, as ECS runs a health check."""
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "-r", *_as_user(self.environment), *command]
        return subprocess.run(inside, capture_output=True, text=True, check=False)

    def stop(self, seconds: float = 20) -> None:
        """End the task: SIGTERM, then SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def image_environment(code_version: str) -> dict[str, str]:
    """Return the variables that the Dockerfile's final stage sets."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).rpartition("AS final")[2]
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return {
        name: value.replace("${CODE_VERSION}", code_version)
        for name, value in (pair.split("=", 1) for pair in line.split())
    }


class Cluster:
    """The tasks of one environment."""

    def __init__(
        self, stacks: Stacks, network: Network, folder: Path, secrets: Any, tokens: Any, eni: str, image: Image
    ) -> None:
        self.stacks, self._network, self._folder, self._eni = stacks, network, folder, eni
        self._secrets, self._tokens, self._image = secrets, tokens, image
        self._arn = f"arn:aws:ecs:{REGION}:{stacks.parameters['AWS::AccountId']}"
        self.tasks: dict[str, Task] = {}
        self._changed: dict[str, Mapping[str, str | None]] = {}
        self.release("release-1")
        self._lock = threading.Lock()
        self.definitions = {
            properties["Family"]: (part, properties)
            for part in ("application", "workers")
            for properties in stacks.resources(part, "AWS::ECS::TaskDefinition").values()
        }

    def release(self, version: str) -> None:
        """Let tasks that start from now on run another release's image."""
        digest = f"sha256:{hashlib.sha256(version.encode()).hexdigest()}"
        self.stacks.parameters |= {"ImageDigest": digest, "MigrationDigest": digest}
        self.image = image_environment(version)

    def family(self, name: str) -> str:
        """Return the task definition's family of a component."""
        return f"classfeed-{self.stacks.env}-{name}"

    def environment(self, family: str) -> dict[str, str]:
        """Return a task's variables, secrets included. UnresolvableError if one cannot be resolved."""
        part, properties = self.definitions[family]
        (container,) = properties["ContainerDefinitions"]
        resolved = self.stacks.resolve(part, container)
        # The scripts are next to the interpreter in the image, and in a separate folder without it.
        values = dict(self.image) if self._image.whole else self.image | {"PATH": f"/opt/scripts:{self.image['PATH']}"}
        values |= {item["Name"]: str(item["Value"]) for item in resolved["Environment"]}
        values |= {item["Name"]: self._secret(item["ValueFrom"]) for item in resolved.get("Secrets", [])}
        changed = {**values, **self._changed.get(family, {})}
        return {name: value for name, value in changed.items() if value is not None}

    @contextmanager
    def changed(
        self, family: str, *, variables: Mapping[str, str | None] | None = None, secret: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        """Give a family other variables (None: none), or a secret another value, within the block."""
        if secret is not None:
            before = self._secrets.get_secret_value(SecretId=secret["secret"])["SecretString"]
            self._secrets.put_secret_value(SecretId=secret["secret"], SecretString=json.dumps(secret["value"]))
        self._changed = {family: variables or {}}
        try:
            yield
        finally:
            self._changed = {}
            if secret is not None:
                self._secrets.put_secret_value(SecretId=secret["secret"], SecretString=before)

    def start(self, family: str, command: Sequence[str] | None = None, tags: Sequence[dict[str, str]] = ()) -> Task:
        """Start a task; ``command`` replaces the definition's."""
        with self._lock:
            _, properties = self.definitions[family]
            (container,) = properties["ContainerDefinitions"]
            number, name = len(self.tasks) + 1, family.rpartition("-")[2]
            arn = f"{self._arn}:task/classfeed-{self.stacks.env}-cluster/{uuid.uuid4().hex}"
            environment = self.environment(family) | {
                "ECS_CONTAINER_METADATA_URI_V4": f"http://{METADATA}/v4/{number}",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": f"/v2/credentials/{number}",
            }
            command = list(command or container["Command"])
            space = f"{name}-{number}"
            address = self._network.attach(space)
            hosted = f"{name}.{self.stacks.env}.classfeed.internal"
            if command == container["Command"]:
                self._network.names[hosted] = address
            log = self._folder / f"{space}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c",
                     _LOCK_DOWN_IMAGE if self._image.whole else _LOCK_DOWN, space,
                     *_as_user(environment), "service", *command],
                    stdout=output, stderr=output, start_new_session=True, env={**os.environ, "ROOT": str(self._image.path)},
                )  # fmt: skip
            ports = [mapping["ContainerPort"] for mapping in container.get("PortMappings", ())]
            task = Task(arn, family, command, environment, process, log, address, ports, list(tags))
            self.tasks[str(number)] = task
            return task

    def run(self, name: str, *command: str, seconds: float = 900) -> Task:
        """Start a task and wait for its end."""
        task = self.start(self.family(name), command or None)
        try:
            task.process.wait(seconds)
        except subprocess.TimeoutExpired:
            task.stop()
        return task

    def stop(self) -> None:
        """Kill every task: the rehearsal is over."""
        self._lock.acquire()  # for good: a task that the daemon has just asked for never starts
        for task in self.tasks.values():
            task.process.kill()
            task.process.wait()

    def _secret(self, reference: str) -> str:
        *_, field_name, _, _ = reference.rsplit(":", 3)
        arn = reference.rsplit(":", 3)[0]
        values = json.loads(self._secrets.get_secret_value(SecretId=arn)["SecretString"])
        if field_name not in values:
            raise UnresolvableError(f"secret {arn.rpartition(':')[2]} has no field {field_name}: fill it by hand")
        return str(values[field_name])

    def credentials(self, family: str) -> dict[str, str]:
        """Return credentials of a family's role, as Fargate gives them to a task."""
        part, properties = self.definitions[family]
        role = self.stacks.resolve(part, properties["TaskRoleArn"])
        answer = self._tokens.assume_role(RoleArn=role, RoleSessionName="task")["Credentials"]
        return {
            "AccessKeyId": answer["AccessKeyId"], "SecretAccessKey": answer["SecretAccessKey"],
            "Token": answer["SessionToken"], "Expiration": "2099-01-01T00:00:00Z", "RoleArn": role,
        }  # fmt: skip

    # The API.

    def answer(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one call of ECS's API."""
        cluster = f"{self._arn}:cluster/classfeed-{self.stacks.env}-cluster"
        match action:
            case "DescribeTaskDefinition":
                family = body["taskDefinition"].rpartition("/")[2].partition(":")[0]
                (container,) = self.definitions[family][1]["ContainerDefinitions"]
                return {"taskDefinition": {"taskDefinitionArn": self.arn(family), "family": family,
                                           "containerDefinitions": [{"name": container["Name"]}]}}  # fmt: skip
            case "RunTask":
                family = body["taskDefinition"].rpartition("/")[2].partition(":")[0]
                (override,) = body["overrides"]["containerOverrides"]
                task = self.start(family, override["command"], body.get("tags", []))
                return {"tasks": [self._describe(task, cluster)], "failures": []}
            case "DescribeTasks":
                expected = set(body["tasks"])
                matches = [task for task in self.tasks.values() if task.arn in expected]
                return {"tasks": [self._describe(task, cluster) for task in matches], "failures": []}
            case "StopTask":
                for task in self.tasks.values():
                    if task.arn == body["task"]:
                        task.stop()
                        return {"task": self._describe(task, cluster)}
        return {}

    def arn(self, family: str) -> str:
        """Return a task definition's ARN."""
        return f"{self._arn}:task-definition/{family}:1"

    def _describe(self, task: Task, cluster: str) -> dict[str, Any]:
        status = "RUNNING" if task.code is None else "STOPPED"
        container = {"name": "run", "exitCode": task.code, "lastStatus": status}
        return {
            "taskArn": task.arn, "clusterArn": cluster, "lastStatus": status, "launchType": "FARGATE",
            "taskDefinitionArn": self.arn(task.family), "containers": [container], "tags": task.tags,
            "stoppedReason": "" if task.code is None else "Essential container in task exited",
            "attachments": [{"type": "ElasticNetworkInterface", "details": [
                {"name": "networkInterfaceId", "value": self._eni}, {"name": "subnetId", "value": "subnet-1"}]}],
        }  # fmt: skip

    def serve(self) -> int:
        """Serve ECS's API and the tasks' metadata; return the API's port."""
        cluster = self

        class Api(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                action = self.headers["X-Amz-Target"].rpartition(".")[2]
                _reply(self, cluster.answer(action, body))

            def log_message(self, *_arguments: object) -> None: ...

        class Metadata(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, kind, number, *rest = self.path.split("/")
                if kind == "v2":
                    _reply(self, cluster.credentials(cluster.tasks[rest[0]].family))
                    return
                task = cluster.tasks[number]
                name = f"classfeed-{cluster.stacks.env}-cluster"
                _reply(self, {"Cluster": name, "TaskARN": task.arn} if rest == ["task"] else {"Name": "run"})

            def log_message(self, *_arguments: object) -> None: ...

        api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        metadata = ThreadingHTTPServer((METADATA, 80), Metadata)
        for server in (api, metadata):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(api.server_address[1])


def _reply(handler: BaseHTTPRequestHandler, body: Mapping[str, Any]) -> None:
    data = json.dumps(body).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-amz-json-1.1")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _as_user(environment: Mapping[str, str]) -> list[str]:
    values = [f"{name}={value}" for name, value in environment.items()]
    return ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--bounding-set=-all", "--no-new-privs",
            "env", "-i", "--chdir=/opt/dagster", *values]  # fmt: skip


def require_success(task: Task, pattern: str = "") -> str:
    """Expect a task that ended with 0 and printed the pattern; return its last line."""
    text = task.output()
    assert task.code == 0, f"exit code {task.code}: {text[-1500:]}"
    assert re.search(pattern, text), text[-1500:]
    return text.strip().splitlines()[-1] if text.strip() else "held"


def wait_until(condition: Any, seconds: float, step: float = 1.0) -> bool:
    """Return whether a condition became true within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(step)
    return False


def environment_of(pid: int) -> dict[str, str]:
    """Return the variables that a process really has."""
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(item.decode().split("=", 1) for item in raw if item)
