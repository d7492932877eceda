"""Run tags and job names, which are stored with every run and read by people."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

CORRELATION_TAG = "classfeed/correlation_id"
CLOCK_TAG = "classfeed/now"
FEED_TAG = "classfeed/feed"
CODE_VERSION_TAG = "classfeed/code_version"
LAUNCHED_BY_TAG = "classfeed/launched_by"
REPAIR = "repair"  # the value of LAUNCHED_BY_TAG for a run that the repair sensor started
FINDING_TAG = "classfeed/finding"  # the reconciliation's finding for which a run reads bigsite again
REASON_TAG = "classfeed/reason"
ATTEMPT_TAG = "classfeed/attempt"
RERUN_TAG = "classfeed/rerun"
INBOX_TAG = "classfeed/inbox"  # state of the inbox that a run reads
COMPARED_TAG = "classfeed/compared"  # state of both sides that a run of parity compares
BUILD_ID_TAG = "classfeed/build_id"  # the delivery that a reconciliation run examines
PARTITION_TAG = "dagster/partition"
DEFAULT_FEED = "class_super"  # feed of commands and queries that name none
CODE_LOCATION, REPOSITORY = "classfeed", "__repository__"  # as in workspace.yaml
# Dagster copies all tags of a run to its re-execution and adds the first, to an automatic retry both.
PARENT_TAG, RETRY_TAG = "dagster/parent_run_id", "dagster/retry_number"
# The process of a run that the command line executes. Dagster shows no tag with this prefix.
OWNER_TAG = ".dagster/classfeed_owner"
# The process in which a run of the local instance started, after the run's id.
PROCESS_TAG = ".dagster/classfeed_process"


def executed_again(tags: Mapping[str, str]) -> bool:
    """Return True for a run that a person executed again in the UI: its other tags are those of its parent."""
    return PARENT_TAG in tags and RETRY_TAG not in tags


def feed_job_name(feed: str) -> str:
    """Return the name of the job that delivers one business date of a feed."""
    return f"{feed}_job"


def reconciliation_job_name(feed: str) -> str:
    """Return the name of the job that reconciles a delivered date and loads it into the warehouse."""
    return f"{feed}_reconciliation_job"


def parity_job_name(feed: str) -> str:
    """Return the name of the job that compares a feed with the old app's files of a date."""
    return f"{feed}_parity_job"


def new_correlation_id() -> str:
    """Return the correlation id of a new attempt: 32 hexadecimal digits, unique."""
    return uuid.uuid4().hex
