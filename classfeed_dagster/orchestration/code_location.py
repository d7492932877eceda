"""Code location of the runs of this process.

A run that Dagster executes in process has no origin, so the UI lists it under no job and no location
(dagster-io/dagster#17707). This module creates the origin that the webserver gives to a run that it launches.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterInstance
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from classfeed_dagster.tags import CODE_LOCATION, REPOSITORY

MODULE = "classfeed_dagster.definitions"


def remote_job_origin(job_name: str) -> RemoteJobOrigin:
    """Return the origin of a job in the location of ``workspace.yaml``."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=CODE_LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY), job_name)


@contextmanager
def runs_with_origin(instance: DagsterInstance, job_name: str) -> Iterator[None]:
    """Give the runs that ``execute_in_process`` creates within the block the origin of ``job_name``.

    ``execute_in_process`` has no parameter for it, and Dagster stores a run's origin only when it creates the run.
    Therefore the creating method is replaced on this instance during the block.
    """
    create = functools.partial(instance.create_run_for_job, remote_job_origin=remote_job_origin(job_name))
    instance.__dict__["create_run_for_job"] = create
    try:
        yield
    finally:
        del instance.__dict__["create_run_for_job"]
