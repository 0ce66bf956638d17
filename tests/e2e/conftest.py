"""The stack, deployed once to an embedded AWS, for all end-to-end tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from local import worker
from local.aws import LocalAws, local_aws

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


@dataclass
class Stack:
    """The deployed stack: the AWS it is in, its outputs, ECR as its owner and as a worker node see it."""

    aws: LocalAws
    outputs: dict[str, str]
    registry: "ECRClient"
    node: "ECRClient"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with local_aws() as aws:
        aws.build()
        outputs = aws.deploy({"WorkerRoleArns": worker.ROLE_ARN})
        yield Stack(aws, outputs, aws.ecr(), worker.hire(aws))


@pytest.fixture
def rule_pattern(stack: Stack) -> str:
    (rule,) = (rule for rule in stack.aws.events().list_rules()["Rules"] if "EventPattern" in rule)
    pattern: Any = rule["EventPattern"]
    return str(pattern)
