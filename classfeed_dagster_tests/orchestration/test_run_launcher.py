"""Run launchers, by what they ask of ECS and of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import RunLauncher
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from dagster_aws.ecs import EcsRunLauncher
from dagster_k8s import K8sRunLauncher
from moto import mock_aws

from classfeed_dagster.orchestration.k8s_run_launcher import RestrictedK8sRunLauncher
from classfeed_dagster.orchestration.run_launcher import RestrictedEcsRunLauncher, RunTagsRefusedError, refused_tags

FOREIGN = json.dumps({"command": ["aws", "s3", "cp", "s3://data/landing", "/tmp", "--recursive"]})
ATTACKS = {
    "ecs/container_overrides": FOREIGN,
    "ecs/task_overrides": json.dumps({"taskRoleArn": "arn:aws:iam::444455556666:role/classfeed-prod-deployer"}),
    "ecs/run_task_kwargs": json.dumps({"taskDefinition": "other"}),
    "dagster-k8s/config": "{}",
    "dagster-celery/queue": "elsewhere",
    "dagster-docker/image": "elsewhere",
}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Record the parameters of ECS's RunTask."""
    request: list[dict[str, Any]] = []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-southeast-2")
    with mock_aws():
        boto3.client("ecs").register_task_definition(
            family="classfeed-prod-worker", containerDefinitions=[{"name": "run", "image": "x", "memory": 512}]
        )

        def run_task(_launcher: EcsRunLauncher, **kwargs: Any) -> dict[str, str]:
            request.append(kwargs)
            return {"taskArn": "arn:task", "clusterArn": "arn:cluster"}

        monkeypatch.setattr(EcsRunLauncher, "_run_task", run_task)
        yield request


def ecs(kind: type[EcsRunLauncher]) -> EcsRunLauncher:
    return kind(
        task_definition="classfeed-prod-worker",
        container_name="run",
        secrets_tag=None,  # type: ignore[arg-type]  # its configuration allows null, its annotation does not
        use_current_ecs_task_config=False,
    )


def launch(launcher: RunLauncher, tags: dict[str, str]) -> None:
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("classfeed"), "__repository__"), "work"
    )
    recon = dg.reconstructable(work_job)
    with dg.instance_for_test() as instance:
        launcher.register_instance(instance)
        run = create_run_for_test(
            instance, "work", tags=tags, remote_job_origin=origin, job_code_origin=recon.get_python_origin()
        )
        launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))


@dg.op
def work_op() -> None: ...


@dg.job
def work_job() -> None:
    work_op()


@pytest.mark.parametrize("tag", sorted(ATTACKS))
def test_launch_override_tag_is_refused_by_name(tag: str, requests: list[dict[str, Any]]) -> None:
    with pytest.raises(RunTagsRefusedError, match=tag):
        launch(ecs(RestrictedEcsRunLauncher), {tag: ATTACKS[tag], "classfeed/feed": "class_super"})
    assert requests == []


def test_launch_after_a_stack_change_uses_the_active_revision(requests: list[dict[str, Any]]) -> None:
    launcher = ecs(RestrictedEcsRunLauncher)
    client = boto3.client("ecs")
    client.register_task_definition(
        family="classfeed-prod-worker", containerDefinitions=[{"name": "run", "image": "y", "memory": 512}]
    )
    client.deregister_task_definition(taskDefinition="classfeed-prod-worker:1")
    launch(launcher, {})
    used = client.describe_task_definition(taskDefinition=requests.pop()["taskDefinition"])["taskDefinition"]
    assert (used["status"], used["containerDefinitions"][0]["image"]) == ("ACTIVE", "y")


def test_stock_launcher_runs_any_command_ours_does_not(requests: list[dict[str, Any]]) -> None:
    launch(ecs(EcsRunLauncher), {"ecs/container_overrides": FOREIGN})
    (container,) = requests.pop()["overrides"]["containerOverrides"]
    assert container["command"][0] == "aws"
    launch(ecs(RestrictedEcsRunLauncher), {"ecs/cpu": "2048", "ecs/memory": "8192", "dagster-celery/run_priority": "3"})
    (container,) = requests.pop()["overrides"]["containerOverrides"]
    assert container["command"][:3] == ["dagster", "api", "execute_run"]
    assert container["cpu"] == 2048


class _Batch:
    """Kubernetes' batch API, as far as launching a job calls it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def create_namespaced_job(self, *, body: Any, **_: Any) -> None:
        self.commands.append(body.spec.template.spec.containers[0].command)


def test_stock_kubernetes_launcher_runs_any_command_ours_does_not(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
                "clusters": [{"name": "here", "cluster": {"server": "https://127.0.0.1:9"}}],
                "users": [{"name": "here", "user": {}}],
            }
        )
    )
    batch = _Batch()
    options: dict[str, Any] = {
        "service_account_name": "worker", "instance_config_map": "dagster", "dagster_home": "/opt/dagster",
        "job_image": "classfeed", "load_incluster_config": False, "kubeconfig_file": str(tmp_path / "kubeconfig"),
        "k8s_client_batch_api": batch,
    }  # fmt: skip
    foreign = {"dagster-k8s/config": json.dumps({"container_config": {"command": ["sh", "-c", "env"]}})}
    launch(K8sRunLauncher(**options), foreign)
    assert batch.commands.pop() == ["sh", "-c", "env"]
    with pytest.raises(RunTagsRefusedError, match="dagster-k8s/config"):
        launch(RestrictedK8sRunLauncher(**options), foreign)
    assert batch.commands == []
    launch(RestrictedK8sRunLauncher(**options), {"classfeed/feed": "class_super"})
    assert len(batch.commands) == 1


def test_tag_that_the_stock_launcher_loads_as_json_is_refused() -> None:
    import inspect
    import re

    from dagster_aws.ecs import launcher

    read = set(re.findall(r'run\.tags\.get\(\s*"(ecs/[a-z_]+)"', inspect.getsource(launcher)))
    assert read - {"ecs/cpu", "ecs/memory", "ecs/ephemeral_storage"} == refused_tags(read)
