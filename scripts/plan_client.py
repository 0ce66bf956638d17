"""The AWS client of `make plan`: an ECR client that refuses every call except three reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3

from handler.ecr.registry import CLIENT_CONFIG

if TYPE_CHECKING:
    from botocore.model import OperationModel
    from mypy_boto3_ecr import ECRClient

# The three calls, and the three permissions, that a plan needs.
READS = ("DescribeRepositories", "GetRepositoryPolicy", "GetRegistryPolicy")


class CallRefused(Exception):
    """A call that is not one of the allowed reads. Nothing was sent."""


def connect(profile: str | None, region: str | None) -> ECRClient:
    """Return a client with the caller's credentials, which refuses each call that is not in `READS`.

    Args:
        profile: a profile of the AWS configuration; None for the SDK's default credentials.
        region: an AWS region; None for that of the profile.

    Raises:
        BotoCoreError: the profile or the region is missing or invalid.
    """
    session = boto3.Session(profile_name=profile, region_name=region)
    client: ECRClient = session.client("ecr", config=CLIENT_CONFIG)
    refuse_other_calls(client)
    return client


def refuse_other_calls(client: ECRClient) -> None:
    """Make a client refuse each call that is not in `READS`."""
    # botocore emits this event for every call of the client, before it builds a request.
    client.meta.events.register_first("before-parameter-build", _refuse)


def _refuse(model: OperationModel, **_: object) -> None:
    if model.name not in READS:
        raise CallRefused(f"the plan refuses {model.name}: it only calls {', '.join(READS)}")
