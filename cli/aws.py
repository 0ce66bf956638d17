"""The AWS clients of the command line: each refuses every call that is not one of the listed reads."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from cli.errors import CliError, explain, not_from_aws
from cli.permissions import READS
from handler.ecr.registry import CLIENT_CONFIG
from handler.ecr.retry import CONNECT_TIMEOUT, READ_TIMEOUT

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.model import OperationModel
    from mypy_boto3_cloudtrail import CloudTrailClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_sts import STSClient

_FEW_READS = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    retries={"mode": "standard", "total_max_attempts": 3},
)


class CallRefused(Exception):
    """A call that is not one of the allowed reads. Nothing was sent."""


class Aws:
    """The clients of one profile in one region."""

    def __init__(self, profile: str | None, region: str | None) -> None:
        """Use a profile and a region; None for the SDK's defaults.

        Raises:
            CliError: the profile does not exist.
        """
        try:
            self._session = boto3.Session(profile_name=profile, region_name=region)
        except BotoCoreError as error:
            raise CliError(explain(error) or str(error)) from None

    @property
    def region(self) -> str | None:
        """The region, if one is set."""
        return self._session.region_name

    def partition(self, region: str) -> str | None:
        """Return the partition of a region, if the SDK knows the region."""
        try:
            return self._session.get_partition_for_region(region)
        except BotoCoreError:
            return None

    @cached_property
    def account(self) -> str:
        """The account of the credentials."""
        try:
            return self.sts().get_caller_identity()["Account"]
        except KeyError:
            raise not_from_aws("GetCallerIdentity") from None

    def ecr(self, region: str | None = None) -> ECRClient:
        """Return an ECR client for a few reads, which retries."""
        client = self._session.client("ecr", region_name=region, config=_FEW_READS)
        refuse_other_calls(client)
        return client

    def ecr_of_the_function(self) -> ECRClient:
        """Return an ECR client with the function's configuration: the function's code retries itself."""
        client = self._session.client("ecr", config=CLIENT_CONFIG)
        refuse_other_calls(client)
        return client

    def cloudtrail(self) -> CloudTrailClient:
        """Return a CloudTrail client."""
        client: CloudTrailClient = self._session.client("cloudtrail", config=_FEW_READS)
        refuse_other_calls(client)
        return client

    def sts(self) -> STSClient:
        """Return an STS client."""
        client: STSClient = self._session.client("sts", config=_FEW_READS)
        refuse_other_calls(client)
        return client

    def iam(self) -> IAMClient:
        """Return an IAM client."""
        client: IAMClient = self._session.client("iam", config=_FEW_READS)
        refuse_other_calls(client)
        return client


def refuse_other_calls(client: BaseClient) -> None:
    """Make a client refuse each call that is not in `READS`."""
    # botocore emits this event for every call of the client, before it builds a request.
    client.meta.events.register_first("before-parameter-build", _refuse)


def _refuse(model: OperationModel, **_: object) -> None:
    service = model.service_model.service_name
    allowed = READS.get(service, ())
    if model.name not in allowed:
        calls = ", ".join(allowed) or "nothing"
        raise CallRefused(f"the command refuses {service}:{model.name}: it only calls {calls}")
