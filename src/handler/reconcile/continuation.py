"""The continuation: the rest of a sweep goes to a new invocation of the function."""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.events.request import Request
from handler.ecr.timeouts import CONNECT_TIMEOUT, CONTINUATION_ATTEMPTS, READ_TIMEOUT

_CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    retries={"total_max_attempts": CONTINUATION_ATTEMPTS},
)


class ContinuationFailed(Exception):
    """The rest of a sweep could not be passed to a new invocation."""


def continue_in_new_invocation(remaining: Request, function_name: str, correlation_id: str) -> None:
    """Invoke the function asynchronously with what remains of a sweep.

    The log lines of all invocations of a sweep have the same correlation id.

    A retried call may start two continuations. That does no harm: the second one finds nothing to do.

    Raises:
        ContinuationFailed: Lambda did not accept the invocation; says why.
    """
    try:
        boto3.client("lambda", config=_CONFIG).invoke(
            FunctionName=function_name,
            InvocationType="Event",
            Payload=json.dumps(remaining.payload(correlation_id)),
        )
    except (BotoCoreError, ClientError) as error:
        raise ContinuationFailed(f"the sweep could not continue in a new invocation: {error}") from None
