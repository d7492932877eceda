"""Executors of a run's steps: every name of the setting, messages about missing parts, and real workers."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from celery.contrib.testing.worker import start_worker
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.retries import RetryMode
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from pydantic import ValidationError

from classfeed_dagster.extras import ExecutorError
from classfeed_dagster.orchestration import celery_executor as celery_steps
from classfeed_dagster.orchestration.celery_executor import ATTEMPTS, Heartbeat, application
from classfeed_dagster.orchestration.jobs import executor_called
from classfeed_dagster.settings import Settings, get_settings

# Dagster declares its task anew for every step; Celery warns once in a process.
pytestmark = pytest.mark.filterwarnings("ignore:Task name 'execute_plan' is already registered")
BROKER = "memory://user:hunter2@nowhere/"


@pytest.mark.parametrize("name", ["in_process", "multiprocess", "celery", "k8s"])
def test_executor_exists_for_every_name_of_the_setting(name: str) -> None:
    assert executor_called(Settings(executor=name).executor).name == name


def test_kubernetes_executor_ignores_a_runs_own_configuration() -> None:
    @dg.job(executor_def=executor_called("k8s"))
    def steps() -> None:
        second(first())

    foreign = {
        "service_account_name": "admin",
        "job_image": "elsewhere",
        "step_k8s_config": {"container_config": {"command": ["sh"]}},
    }
    resolved = ResolvedRunConfig.build(steps, {"execution": {"config": foreign}})
    assert not foreign.keys() & resolved.execution.execution_engine_config.keys()


def test_executor_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="executor"):
        Settings(executor="dask")


@pytest.mark.parametrize(
    ("name", "module"), [("celery", "celery"), ("celery", "dagster_celery"), ("k8s", "dagster_k8s")]
)
def test_executor_without_its_extra_names_the_extra(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, celery_steps.__name__)
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExecutorError, match=rf"{module}.*not installed: pip install 'classfeed-dagster\[{name}\]'"):
        executor_called(name)


def test_executor_without_a_broker_is_refused() -> None:
    with pytest.raises(ExecutorError, match="set CLASSFEED_CELERY_BROKER_URL"):
        application(Settings())


def test_executor_error_never_shows_addresses() -> None:
    settings = Settings(celery_broker_url=BROKER, celery_results_url=BROKER)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_redis_visibility_timeout_is_the_worker_timeout() -> None:
    conf = application(Settings(celery_broker_url="redis://nowhere/0", celery_lost_seconds=60)).conf
    assert conf.broker_transport_options["visibility_timeout"] == 60
    assert conf.broker_transport_options["unacked_restore_interval"] == 15
    assert conf.result_backend == "redis://nowhere/0"
    assert conf.worker_max_memory_per_child == 1_000_000  # what steps leave behind ends with the process
    # RabbitMQ sees a broken connection itself.
    conf = application(Settings(celery_broker_url="pyamqp://nowhere//", celery_results_url="rpc://")).conf
    assert conf.broker_transport_options == {}
    assert conf.result_backend == "rpc://"


@dg.op(out=dg.Out(dg.Nothing))
def first() -> None: ...


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing), tags={"dagster-celery/queue": "near"})
def second() -> None: ...


def two_steps() -> dg.JobDefinition:
    @dg.job(executor_def=executor_called("celery"))
    def steps() -> None:
        second(first())

    return steps


@pytest.fixture
def memory_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("CLASSFEED_CELERY_BROKER_URL", BROKER)
    monkeypatch.setenv("CLASSFEED_CELERY_RESULTS_URL", "cache+memory://")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Celery's, of many kinds, in its thread
def test_steps_run_on_a_worker_and_no_address_is_kept(memory_broker: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        app = application(memory_broker)
        app.conf.broker_transport_options = {"polling_interval": 0.05}
        with start_worker(app, pool="solo", perform_ping_check=False, queues=["dagster", "near"]):
            result = dg.execute_job(dg.reconstructable(two_steps), instance)
            assert result.success
        engine = [event for event in result.all_events if event.is_engine_event]
        assert sum("Celery worker" in event.engine_event_data.metadata for event in engine) == 2
        assert {event.step_key for event in result.get_step_success_events()} == {"first", "second"}
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in kept


@contextmanager
def begun_run(instance: dg.DagsterInstance, settings: Settings) -> Iterator[tuple[Any, Any]]:
    """Start a run, and return a function that passes its first step to a worker: ``give(retries)``."""
    job = dg.reconstructable(two_steps)
    assert isinstance(job, ReconstructableJob)
    run = instance.create_run_for_job(two_steps(), job_code_origin=job.get_python_origin())
    task = application(settings).tasks["execute_plan"]
    step = ExecuteStepArgs(
        job.get_python_origin(), run.run_id, ["first"], instance.get_ref(), RetryMode.DISABLED, None, None, True
    )
    values = {"execute_step_args_packed": pack_value(step), "executable_dict": job.to_dict()}
    yield run, lambda retries: task.apply(kwargs=values, retries=retries)


def test_step_no_worker_survives_ends_its_run(memory_broker: Settings, tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        begun_run(instance, memory_broker) as (_, give),
    ):
        for attempt in range(ATTEMPTS):
            assert give(attempt).state == "SUCCESS"
        lost = give(ATTEMPTS)
        assert lost.state == "FAILURE"
        assert str(lost.result) == "first was started 3 times, and no worker survived it"


def test_step_of_a_run_that_is_over_is_not_begun_again(memory_broker: Settings, tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        begun_run(instance, memory_broker) as (run, give),
    ):
        instance.report_run_failed(run)
        assert give(1).state == "IGNORED"
        instance.delete_run(run.run_id)
        assert give(1).state == "IGNORED"


class Redis:
    """A connection that remembers what was said over it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, float], bool]] = []

    @contextmanager
    def pipe_or_acquire(self) -> Iterator["Redis"]:
        yield self

    def zadd(self, key: str, scores: dict[str, float], *, xx: bool) -> None:
        self.said.append((key, scores, xx))

    def execute(self) -> None: ...


def test_living_worker_keeps_its_steps_and_no_longer_than_its_connection() -> None:
    redis = Redis()
    redis._delivered, redis.unacked_index_key = ["tag"], "index"  # type: ignore[attr-defined]
    channel = SimpleNamespace(unacked_index_key="index", visibility_timeout=60, qos=redis)
    calls: list[Any] = []
    cancelled: list[bool] = []

    def repeat(*call: Any) -> SimpleNamespace:
        calls.append(call)
        return SimpleNamespace(cancel=lambda: cancelled.append(True))

    worker = SimpleNamespace(
        task_consumer=SimpleNamespace(channel=channel), timer=SimpleNamespace(call_repeatedly=repeat)
    )
    hold = Heartbeat(worker)
    hold.start(worker)
    ((seconds, beat, arguments),) = calls
    assert seconds == 15
    before = time.time()
    beat(*arguments)
    ((key, scores, only_if_there),) = redis.said
    assert (key, only_if_there) == ("index", True)
    assert scores["tag"] >= before
    hold.stop(worker)
    hold.stop(worker)
    assert cancelled == [True]
