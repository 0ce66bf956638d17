"""The hand-over: what a sweep has no time for goes to a new invocation of the function itself."""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.request import Request

# It must not take the time that is kept for it, nor hand over again and again.
_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})  # seconds


class HandOverFailed(Exception):
    """The rest of a sweep could not be handed over."""


def hand_over(rest: Request, function_name: str) -> None:
    """Invoke the function with what is left to check, and do not wait for it.

    To be handed the same rest twice does no harm: a check of what is checked already changes nothing.

    Raises:
        HandOverFailed: Lambda did not take it; says why.
    """
    try:
        boto3.client("lambda", config=_CONFIG).invoke(
            FunctionName=function_name, InvocationType="Event", Payload=json.dumps(rest.payload())
        )
    except (BotoCoreError, ClientError) as error:
        raise HandOverFailed(f"the rest of the sweep could not be handed over: {error}") from None
