"""Steps of a run on several machines: Dagster's Celery executor and its workers, both set up from the settings alone.

The broker's and the results' addresses may hold passwords, so that they stand in no run's configuration: the run's
process and the workers each take them from their own environment.

A worker says that it is done with a step when it is (late acknowledgement), so that a step of a worker that died goes
to another. With Redis as the broker, "died" means "not heard of for ``celery_lost_seconds``": ``Hold`` makes a living
worker heard of, however long its step takes. Steps may be done twice, or by two workers at once: what they make has its
content's name, and a delivery is made once.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster import _check as check
from dagster._core.execution.retries import RetryMode

from classfeed_dagster.errors import TemporaryError
from classfeed_dagster.orchestration.optional_dependencies import ExecutorError, extra_needed
from classfeed_dagster.settings import Settings, get_settings

with extra_needed("celery", "celery"):
    from celery import Celery, Task, bootsteps
    from celery.exceptions import Ignore
    from dagster_celery.executor import CeleryExecutor
    from dagster_celery.make_app import make_app
    from dagster_celery.tasks import create_task

QUEUE = "dagster"
ATTEMPTS = 3  # at one step of one run; after that the run fails, and repair takes over
_BEATS = 4  # signs of life within ``celery_lost_seconds``


class StepAbandonedError(TemporaryError):
    """A step that no worker survives: its run fails instead of taking one worker after another."""


@dg.executor(name="celery", requirements=dg.multiple_process_executor_requirements())
def celery_steps(_context: dg.InitExecutorContext) -> dg.Executor:
    """Hands a run's steps to the workers. Set up where the run is, from that process's environment."""
    return CeleryExecutor(retries=RetryMode.ENABLED, **_addresses(get_settings()))


def application(settings: Settings) -> Celery:
    """What a worker runs. ExecutorError if no broker is set."""
    given = _addresses(settings)
    source = type("Source", (), {**given["config_source"], **_WORKER})
    app = make_app({"broker": given["broker"], "backend": given["backend"], "config_source": source})
    create_task(app, base=Step, lazy=False, shared=False)  # ours, whatever else this process knows of Celery
    app.steps["consumer"].add(Hold)
    return app


def _addresses(settings: Settings) -> dict[str, Any]:
    if settings.celery_broker_url is None:
        raise ExecutorError("CLASSFEED_EXECUTOR=celery needs the broker's address: set CLASSFEED_CELERY_BROKER_URL")
    broker = settings.celery_broker_url.get_secret_value()
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
    "worker_prefetch_multiplier": 1,  # a step that waits must be free for the next idle worker
    "worker_max_memory_per_child": 1_000_000,  # KB; above it a child ends after the step in hand
    "worker_redirect_stdouts": False,  # our log lines are whole already
    "broker_connection_retry_on_startup": True,
    # Without its broker a worker can't say that it lives: another has the step by the time it is back.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
}


class Step(Task):  # type: ignore[misc]
    """One step of one run: given back if its worker dies, not begun if its run is over, and not for ever."""

    acks_late = True
    # The process that runs the step died (no memory left, most likely), its worker lives: again, but not for ever.
    retry_on_worker_lost = True
    max_retries = ATTEMPTS - 1
    default_retry_delay = 5
    resultrepr_maxsize = 0  # the step's events are in Dagster's log, not in the worker's

    def before_start(self, task_id: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Look whether the step is still wanted. StepAbandonedError after too many attempts."""
        if not (self.request.retries or self.request.delivery_info.get("redelivered")):
            return
        from dagster._grpc.types import ExecuteStepArgs
        from dagster._serdes import unpack_value

        step = unpack_value(kwargs["execute_step_args_packed"], as_type=ExecuteStepArgs)
        with dg.DagsterInstance.from_ref(check.not_none(step.instance_ref)) as instance:
            run = instance.get_run_by_id(step.run_id)
            if run is None or run.is_finished:
                raise Ignore  # nobody waits for it any more
            (key,) = check.not_none(step.step_keys_to_execute)
            begun = instance.all_logs(step.run_id, of_type=dg.DagsterEventType.STEP_START)
            attempts = sum(entry.step_key == key for entry in begun)
        if attempts >= ATTEMPTS:
            raise StepAbandonedError(f"{key} was begun {attempts} times and no worker lived to end it")


class Hold(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tells Redis, four times in ``celery_lost_seconds``, that this worker still works on what it has not finished.

    Redis knows nothing of connections: Celery's transport gives a message to the next worker once its time is over,
    whether the first one died or just takes long. So its time begins anew as long as the worker lives.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.beat: Any = None

    def start(self, parent: Any) -> None:
        """Begin, once the connection is there."""
        channel = parent.task_consumer.channel
        if hasattr(channel, "unacked_index_key"):  # other brokers notice a broken connection themselves
            interval = channel.visibility_timeout / _BEATS
            self.beat = parent.timer.call_repeatedly(interval, _still_here, (channel.qos,))

    def stop(self, parent: Any) -> None:
        """End, with the connection."""
        if self.beat is not None:
            self.beat.cancel()
            self.beat = None


def _still_here(qos: Any) -> None:
    with qos.pipe_or_acquire() as pipe:
        for tag in list(qos._delivered):
            pipe.zadd(qos.unacked_index_key, {tag: time.time()}, xx=True)
        pipe.execute()
