"""Invokes the built function once for all repositories, as Lambda would, and prints its report."""

import json
import os
import time

from handler.app import lambda_handler

TIMEOUT = 900  # seconds


class Context:
    """What Lambda tells an invocation."""

    function_name = "ecr-allow-pull"
    memory_limit_in_mb = 1024
    invoked_function_arn = f"arn:aws:lambda:{os.environ['AWS_REGION']}:111122223333:function:ecr-allow-pull"
    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self) -> None:
        """Begin the invocation's time."""
        self._ends = time.monotonic() + TIMEOUT

    def get_remaining_time_in_millis(self) -> int:
        """Tell what is left of it."""
        return round((self._ends - time.monotonic()) * 1000)


print(json.dumps(lambda_handler({"repositories": ["*"]}, Context())))  # type: ignore[arg-type]  # noqa: T201 - it is the answer
