"""Celery executor and workers: a run's steps on several machines, configured by the settings only.

The addresses of broker and results may contain passwords, so no run's configuration contains them. The run's process
and the workers each read them from their own environment.

A worker acknowledges a step when it is done (late acknowledgement), so that another worker gets the steps of a dead
one. With Redis as broker, a worker is dead after ``celery_lost_seconds`` without a sign of life; ``Heartbeat`` sends
them for as long as a step takes. A step may run twice, or on two workers at once: its results are named by their
content, and a delivery is made once.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster import _check as check
from dagster._core.execution.retries import RetryMode

from classfeed_dagster.errors import TemporaryError
from classfeed_dagster.extras import ExecutorError, extra_needed
from classfeed_dagster.settings import Settings, get_settings

with extra_needed("CLASSFEED_EXECUTOR=celery", "celery"):
    from celery import Celery, Task, bootsteps
    from celery.exceptions import Ignore
    from dagster_celery.executor import CeleryExecutor
    from dagster_celery.make_app import make_app
    from dagster_celery.tasks import create_task

QUEUE = "dagster"
ATTEMPTS = 3  # for one step of one run; then the run fails and repair takes over
_BEATS = 4  # heartbeats within ``celery_lost_seconds``


class StepAbandonedError(TemporaryError):
    """A step that no worker survives: its run fails instead of crashing one worker after another."""


@dg.executor(name="celery", requirements=dg.multiple_process_executor_requirements())
def celery_steps(_context: dg.InitExecutorContext) -> dg.Executor:
    """Return the executor that passes a run's steps to the workers, as the run's environment configures it."""
    return CeleryExecutor(retries=RetryMode.ENABLED, **_addresses(get_settings()))


def application(settings: Settings) -> Celery:
    """Return the Celery application of a worker. ExecutorError if no broker is set."""
    addresses = _addresses(settings)
    source = type("Source", (), {**addresses["config_source"], **_WORKER})
    app = make_app({"broker": addresses["broker"], "backend": addresses["backend"], "config_source": source})
    create_task(app, base=Step, lazy=False, shared=False)  # independent of other Celery tasks in this process
    app.steps["consumer"].add(Heartbeat)
    return app


def _addresses(settings: Settings) -> dict[str, Any]:
    broker = settings.celery_broker
    if broker is None:
        raise ExecutorError("CLASSFEED_EXECUTOR=celery needs a broker: set CLASSFEED_CELERY_BROKER_URL")
    results = settings.celery_results_url
    seconds = settings.celery_lost_seconds
    transport: dict[str, Any] = {}
    if broker.startswith("redis"):
        transport = {
            "visibility_timeout": seconds,
            "unacked_restore_interval": max(1, seconds // _BEATS),
            "unacked_restore_throttle": 1,
        }
    return {
        "broker": broker,
        "backend": broker if results is None else results.get_secret_value(),
        "config_source": {"broker_transport_options": transport, "task_default_queue": QUEUE},
    }


_WORKER: Mapping[str, Any] = {
    "worker_prefetch_multiplier": 1,  # leaves waiting steps to the next idle worker
    "worker_max_memory_per_child": 1_000_000,  # KB; a larger child ends after its current step
    "worker_redirect_stdouts": False,  # log lines are complete already
    "broker_connection_retry_on_startup": True,
    # Without its broker a worker cannot send heartbeats: another one has the step by the time it reconnects.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
}


class Step(Task):  # type: ignore[misc]
    """One step of one run: returned if its worker dies, skipped if its run has ended, limited in attempts."""

    acks_late = True
    # The step's process died (probably out of memory) but its worker is alive: retry, up to the limit.
    retry_on_worker_lost = True
    max_retries = ATTEMPTS - 1
    default_retry_delay = 5
    resultrepr_maxsize = 0  # the step's events are in Dagster's log, not the worker's

    def before_start(self, task_id: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Skip the step if its run has ended. StepAbandonedError after too many attempts."""
        if not (self.request.retries or self.request.delivery_info.get("redelivered")):
            return
        from dagster._grpc.types import ExecuteStepArgs
        from dagster._serdes import unpack_value

        step = unpack_value(kwargs["execute_step_args_packed"], as_type=ExecuteStepArgs)
        with dg.DagsterInstance.from_ref(check.not_none(step.instance_ref)) as instance:
            run = instance.get_run_by_id(step.run_id)
            if run is None or run.is_finished:
                raise Ignore  # no run needs it any more
            (key,) = check.not_none(step.step_keys_to_execute)
            begun = instance.all_logs(step.run_id, of_type=dg.DagsterEventType.STEP_START)
            attempts = sum(entry.step_key == key for entry in begun)
        if attempts >= ATTEMPTS:
            raise StepAbandonedError(f"{key} was started {attempts} times, and no worker survived it")


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """Heartbeat of a worker: renews its unfinished steps in Redis four times in ``celery_lost_seconds``.

    Redis knows no connections: Celery's transport passes a message to the next worker once its time is over, whether
    the first worker died or is slow. The heartbeat restarts that time while the worker is alive.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.beat: Any = None

    def start(self, parent: Any) -> None:
        """Start once the connection exists."""
        channel = parent.task_consumer.channel
        if hasattr(channel, "unacked_index_key"):  # other brokers detect a broken connection themselves
            interval = channel.visibility_timeout / _BEATS
            self.beat = parent.timer.call_repeatedly(interval, _renew, (channel.qos,))

    def stop(self, parent: Any) -> None:
        """Stop with the connection."""
        if self.beat is not None:
            self.beat.cancel()
            self.beat = None


def _renew(qos: Any) -> None:
    with qos.pipe_or_acquire() as pipe:
        for tag in list(qos._delivered):
            pipe.zadd(qos.unacked_index_key, {tag: time.time()}, xx=True)
        pipe.execute()
