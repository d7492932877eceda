"""Executors of a run's steps, by the setting ``CLASSFEED_EXECUTOR``."""

import dagster as dg

from classfeed_dagster.orchestration.optional_dependencies import extra_needed


def executor_called(name: str) -> dg.ExecutorDefinition:
    """Return the executor of a run's steps by the setting ``CLASSFEED_EXECUTOR``.

    The default is ``in_process``, because starting processes costs more than the work of an ordinary day.
    ``multiprocess`` starts a process a step, ``celery`` passes steps to workers on other machines, ``k8s`` starts a pod
    a step. The last two are extras of this project; ExecutorError names the extra to install if it is missing.
    """
    match name:
        case "multiprocess":
            return dg.multiprocess_executor
        case "celery":
            from classfeed_dagster.orchestration.celery_executor import celery_steps

            return celery_steps
        case "k8s":
            with extra_needed(f"CLASSFEED_EXECUTOR={name}", "k8s"):
                from dagster_k8s import k8s_job_executor
            # Without it a run's own configuration would give its pods another command, account or image.
            return k8s_job_executor.configured({}, name="k8s")
    return dg.in_process_executor
