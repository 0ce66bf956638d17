"""Invokes the built function once for all repositories, and prints its report."""

import json
import os
import time

from handler.app import lambda_handler

TIMEOUT = 900  # seconds


class Context:
    """The Lambda context of one invocation."""

    function_name = "ecr-allow-pull"
    memory_limit_in_mb = 1024
    invoked_function_arn = f"arn:aws:lambda:{os.environ['AWS_REGION']}:111122223333:function:ecr-allow-pull"
    aws_request_id = "11111111-2222-3333-4444-555555555555"
    _deadline = time.monotonic() + TIMEOUT

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the timeout."""
        return round((self._deadline - time.monotonic()) * 1000)


print(json.dumps(lambda_handler({"repositories": ["*"]}, Context())))  # type: ignore[arg-type]  # noqa: T201 - the output
