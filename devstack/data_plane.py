"""A data plane in another account: creates its roles, pulls images and describes images as these roles."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import ClientError

from devstack.aws import ACCOUNT, Credentials, LocalAws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_ecr import ECRClient

DATA_PLANE_ACCOUNT = "222222222222"
ROLE_NAME = "unionai-acme-flyteworker-node-group"
ROLE_ARN = f"arn:aws:iam::{DATA_PLANE_ACCOUNT}:role/{ROLE_NAME}"
OPERATOR_PROXY_ROLE_NAME = "unionai-acme-operator-proxy"
OPERATOR_PROXY_ROLE_ARN = f"arn:aws:iam::{DATA_PLANE_ACCOUNT}:role/{OPERATOR_PROXY_ROLE_NAME}"

_OWNER = Credentials(DATA_PLANE_ACCOUNT)
_POLICY_NAME = "Pull"
TAG = "v1"
_LAYERS = [b"a configuration", b"a layer"]
_PULL_ACTIONS = [
    "ecr:GetAuthorizationToken",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
    "ecr:BatchCheckLayerAvailability",
]


class Roles(NamedTuple):
    """ECR clients of the data plane's roles."""

    worker: ECRClient
    operator_proxy: ECRClient


def create_role(aws: LocalAws) -> ECRClient:
    """Create the worker role with an identity policy, and return an ECR client of that role."""
    return _create_role(aws, ROLE_NAME, _PULL_ACTIONS)


def create_operator_proxy_role(aws: LocalAws) -> ECRClient:
    """Create the role of the operator-proxy, and return an ECR client of that role."""
    return _create_role(aws, OPERATOR_PROXY_ROLE_NAME, ["ecr:DescribeImages"])


def create_roles(aws: LocalAws) -> Roles:
    """Create both roles."""
    return Roles(create_role(aws), create_operator_proxy_role(aws))


def create_role_alone(aws: LocalAws, name: str) -> str:
    """Create a role without an identity policy, and return its ARN."""
    trust = {"Effect": "Allow", "Principal": {"AWS": DATA_PLANE_ACCOUNT}, "Action": "sts:AssumeRole"}
    created = aws.iam(_OWNER).create_role(RoleName=name, AssumeRolePolicyDocument=_document(trust))
    return created["Role"]["Arn"]


def delete_role_alone(aws: LocalAws, name: str) -> None:
    """Delete a role that has no identity policy."""
    aws.iam(_OWNER).delete_role(RoleName=name)


def _create_role(aws: LocalAws, name: str, actions: list[str]) -> ECRClient:
    arn = create_role_alone(aws, name)
    _put_identity_policy(aws, name, actions)
    session = aws.sts(_OWNER).assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
    return aws.ecr(Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]))


@contextmanager
def without_identity_policy(aws: LocalAws) -> Iterator[None]:
    """Delete the worker role's identity policy until the block ends."""
    aws.iam(_OWNER).delete_role_policy(RoleName=ROLE_NAME, PolicyName=_POLICY_NAME)
    try:
        yield
    finally:
        _put_identity_policy(aws, ROLE_NAME, _PULL_ACTIONS)


def push(registry: ECRClient, repository: str) -> None:
    """Push an image to a repository as the registry's owner."""
    registry.put_image(repositoryName=repository, imageManifest=manifest(), imageTag=TAG)


def manifest() -> str:
    """Return the manifest of the image that `push` pushes."""
    config, layer = (
        {"mediaType": media_type, "size": len(content), "digest": _digest(content)}
        for media_type, content in zip(
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            _LAYERS,
            strict=True,
        )
    )
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": [layer],
    }
    return json.dumps(document)


def pull_error(worker: ECRClient, repository: str) -> str | None:
    """Make the ECR calls of a pull. Return the access-denied message, or None if the pull is allowed."""
    target = {"registryId": ACCOUNT, "repositoryName": repository}
    digests = [_digest(content) for content in _LAYERS]
    return _access_error(
        partial(worker.batch_get_image, **target, imageIds=[{"imageTag": TAG}]),
        partial(worker.batch_check_layer_availability, **target, layerDigests=digests),
        *(partial(worker.get_download_url_for_layer, **target, layerDigest=digest) for digest in digests),
    )


def describe_error(operator_proxy: ECRClient, repository: str) -> str | None:
    """List a repository's images. Return the access-denied message, or None if that is allowed."""
    return _access_error(
        partial(operator_proxy.describe_images, registryId=ACCOUNT, repositoryName=repository)
    )


def _access_error(*calls: Callable[[], object]) -> str | None:
    try:
        for call in calls:
            call()
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDeniedException":
            raise
        return error.response["Error"]["Message"]
    return None


def _put_identity_policy(aws: LocalAws, role: str, actions: list[str]) -> None:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    aws.iam(_OWNER).put_role_policy(
        RoleName=role, PolicyName=_POLICY_NAME, PolicyDocument=_document(statement)
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _document(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
