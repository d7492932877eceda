"""Code location of a conversation: class super, sent to the bucket of a recipient that answers."""

from __future__ import annotations

import dataclasses
import os

from classfeed_dagster.acknowledgements.mapping import AnswerMapping
from classfeed_dagster.feeds import class_super
from classfeed_dagster.orchestration.definitions import build_definitions
from classfeed_dagster.transmission.destination import OtherBucket

RECIPIENT_VARIABLE = "CLASSFEED_TORTURE_RECIPIENT"  # the recipient's bucket
MAPPING = AnswerMapping()

if RECIPIENT_VARIABLE in os.environ:
    destination = OtherBucket(os.environ[RECIPIENT_VARIABLE], endpoint_url=os.environ["CLASSFEED_S3_ENDPOINT_URL"])
    defs = build_definitions(
        feeds=[dataclasses.replace(class_super.FEED, sends_to=destination, acknowledgements=MAPPING)]
    )
