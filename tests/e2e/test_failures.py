"""Tests what happens to an event that fails: retries, the dead-letter queue, and the repair by a sweep."""

import json
import time
from typing import Any

from tests.e2e.conftest import Stack

# A function error is retried after one and after two more minutes on AWS.
RETRIES = 360  # seconds


class TestFailedEvent:
    def test_is_retried_then_sent_to_the_dead_letter_queue_and_fixed_by_a_sweep(self, stack: Stack) -> None:
        too_long = {
            "Sid": "x" * 9_900,
            "Effect": "Allow",
            "Principal": {"AWS": stack.foreign["Principal"]["AWS"]},
            "Action": "ecr:PutImage",
        }
        # The embedded AWS retries asynchronous invocations, but not those of a rule.
        repository = stack.named("too-long/app")
        event = {"repositories": [repository]}
        with stack.only_rules():
            stack.create_repository(repository, too_long)
            invoke_async(stack, event)
            message = wait_for_dead_letter(stack, event)

        assert message["requestContext"]["approximateInvokeCount"] == 3
        assert "shorten the other statements" in message["responsePayload"]["errorMessage"]

        with stack.only_rules():
            stack.registry.delete_repository_policy(repositoryName=repository)
            assert stack.invoke({"repositories": [stack.named("too-long/*")]})["outcomes"] == {"attached": 1}
        assert stack.statements(repository) == [stack.allow_pull]

    def test_with_invalid_input_is_retried_then_sent_to_the_dead_letter_queue(self, stack: Stack) -> None:
        event = {
            "source": "aws.ecr",
            "detail-type": "ECR Image Action",
            "id": "0e",
            "detail": {},
            "region": "x",
        }

        since = time.time()
        invoke_async(stack, event)
        message = wait_for_dead_letter(stack, event)

        assert message["requestContext"]["approximateInvokeCount"] == 3
        assert "the event comes from account None, region x" in message["responsePayload"]["errorMessage"]
        lines = [line for line in stack.log_lines(since) if line.get("correlation_id") == "0e"]
        assert [line["message"] for line in lines] == ["invalid input"] * 3


def invoke_async(stack: Stack, event: object) -> None:
    stack.aws.lambda_().invoke(
        FunctionName=stack.outputs["FunctionName"], InvocationType="Event", Payload=json.dumps(event)
    )


def wait_for_dead_letter(stack: Stack, event: object) -> dict[str, Any]:
    """Wait until an event is in the dead-letter queue, and return its message."""
    found: list[dict[str, Any]] = []

    def received() -> bool:
        found.extend(each for each in dead_letters(stack) if each["requestPayload"] == event)
        return bool(found)

    stack.wait_until(received, RETRIES)
    return found[0]


def dead_letters(stack: Stack) -> list[dict[str, Any]]:
    received = stack.aws.sqs().receive_message(
        QueueUrl=stack.outputs["DeadLetterQueueUrl"], MaxNumberOfMessages=10, VisibilityTimeout=0
    )
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]
