"""The continuation: a new invocation of the function continues a sweep."""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.ecr.retry import CONNECT_TIMEOUT, READ_TIMEOUT
from handler.events.request import Request

ATTEMPTS = 2
_CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    retries={"total_max_attempts": ATTEMPTS},
)


class ContinuationFailed(Exception):
    """A sweep could not continue in a new invocation."""


def continue_in_new_invocation(continuation: Request, function_name: str, correlation_id: str) -> None:
    """Invoke the function asynchronously with the continuation of a sweep.

    The log lines of all invocations of a sweep have the same correlation id.

    A retried call may start two continuations. That does no harm: the second one finds nothing to do.

    Raises:
        ContinuationFailed: Lambda did not accept the invocation; says why.
    """
    try:
        boto3.client("lambda", config=_CONFIG).invoke(
            FunctionName=function_name,
            InvocationType="Event",
            Payload=json.dumps(continuation.payload(correlation_id)),
        )
    except (BotoCoreError, ClientError) as error:
        raise ContinuationFailed(f"the sweep could not continue in a new invocation: {error}") from None
