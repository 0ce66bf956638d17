"""The account and the clients of the acceptance run, with the SDK's settings, such as AWS_ENDPOINT_URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import CliError, sentence_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# CloudFormation and IAM throttle early.
_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 8})


@dataclass(frozen=True)
class Aws:
    """The caller's account in one region.

    Attributes:
        region: the region.
        caller: the ARN of the caller.
        user_id: the unique id of the caller, with the name of its session.
    """

    region: str
    caller: str
    user_id: str

    @property
    def partition(self) -> str:
        """The partition, such as `aws` or `aws-cn`."""
        return self.caller.split(":")[1]

    @property
    def account(self) -> str:
        """The account's id."""
        return self.caller.split(":")[4]

    @property
    def target(self) -> str:
        """What is tested: AWS, or an emulator."""
        return "emulator" if any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ) else "AWS"

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - the types of some clients are not installed
        return boto3.Session(region_name=self.region)

    @cached_property
    def _clients(self) -> dict[str, Any]:
        return {}

    def client(self, service: str) -> Any:  # noqa: ANN401 - same
        """Return the client of a service, which is created once."""
        if service not in self._clients:
            self._clients[service] = self._session.client(service, config=_CONFIG)
        return self._clients[service]

    def listed(self, service: str, operation: str, query: str, **parameters: object) -> Iterator[Any]:
        """Yield what a JMESPath query finds in all pages of an operation."""
        for item in self.client(service).get_paginator(operation).paginate(**parameters).search(query):
            if item is not None:  # a page without the field
                yield item


def connect() -> Aws:
    """Return the account that the environment's credentials belong to.

    Raises:
        CliError: the region or the credentials are missing or not accepted.
    """
    try:
        region = os.environ.get("AWS_REGION") or boto3.Session().region_name
        if not region:
            raise CliError("No AWS region is set: set AWS_REGION, for example AWS_REGION=us-east-1")
        identity = boto3.Session(region_name=region).client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise CliError(sentence_of(error).replace("--profile", "AWS_PROFILE")) from None
    return Aws(region, identity["Arn"], identity["UserId"])
