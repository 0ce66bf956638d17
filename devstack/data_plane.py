"""A data plane in another account: creates its roles, pulls images and describes images as these roles."""

from __future__ import annotations

import gzip
import hashlib
import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import ClientError

from devstack.aws import ACCOUNT
from devstack.target import Aws, Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_ecr import ECRClient

DATA_PLANE_ACCOUNT = "222222222222"
ROLE_NAME = "unionai-acme-flyteworker-node-group"
ROLE_ARN = f"arn:aws:iam::{DATA_PLANE_ACCOUNT}:role/{ROLE_NAME}"
OPERATOR_PROXY_ROLE_NAME = "unionai-acme-operator-proxy"
OPERATOR_PROXY_ROLE_ARN = f"arn:aws:iam::{DATA_PLANE_ACCOUNT}:role/{OPERATOR_PROXY_ROLE_NAME}"

OWNER = Credentials(DATA_PLANE_ACCOUNT)
_POLICY_NAME = "Pull"
TAG = "v1"
_CONFIGURATION = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
_LAYERS = [_CONFIGURATION, gzip.compress(b"a layer", mtime=0)]
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


def create_role(aws: Aws) -> ECRClient:
    """Create the worker role with an identity policy, and return an ECR client of that role."""
    return _create_role(aws, ROLE_NAME, _PULL_ACTIONS)


def create_operator_proxy_role(aws: Aws) -> ECRClient:
    """Create the role of the operator-proxy, and return an ECR client of that role."""
    return _create_role(aws, OPERATOR_PROXY_ROLE_NAME, ["ecr:DescribeImages"])


def create_roles(aws: Aws) -> Roles:
    """Create both roles."""
    return Roles(create_role(aws), create_operator_proxy_role(aws))


def create_role_alone(
    aws: Aws, name: str, owner: Credentials | None = OWNER, account: str = DATA_PLANE_ACCOUNT
) -> str:
    """Create a role without an identity policy in an owner's account, and return its ARN."""
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{aws.partition}:iam::{account}:root"},
        "Action": "sts:AssumeRole",
    }
    created = aws.iam(owner).create_role(RoleName=name, AssumeRolePolicyDocument=_document(trust))
    return created["Role"]["Arn"]


def delete_role_alone(aws: Aws, name: str, owner: Credentials | None = OWNER) -> None:
    """Delete a role that has no identity policy."""
    aws.iam(owner).delete_role(RoleName=name)


def assume(aws: Aws, arn: str, owner: Credentials | None = OWNER) -> ECRClient:
    """Return an ECR client of a role."""
    session = aws.sts(owner).assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
    return aws.ecr(Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]))


def _create_role(aws: Aws, name: str, actions: list[str]) -> ECRClient:
    arn = create_role_alone(aws, name)
    _put_identity_policy(aws, name, actions)
    return assume(aws, arn)


@contextmanager
def without_identity_policy(aws: Aws) -> Iterator[None]:
    """Delete the worker role's identity policy until the block ends."""
    aws.iam(OWNER).delete_role_policy(RoleName=ROLE_NAME, PolicyName=_POLICY_NAME)
    try:
        yield
    finally:
        _put_identity_policy(aws, ROLE_NAME, _PULL_ACTIONS)


def push(registry: ECRClient, repository: str) -> None:
    """Push an image to a repository as the registry's owner."""
    for layer in _LAYERS:
        upload = registry.initiate_layer_upload(repositoryName=repository)["uploadId"]
        registry.upload_layer_part(
            repositoryName=repository,
            uploadId=upload,
            partFirstByte=0,
            partLastByte=len(layer) - 1,
            layerPartBlob=layer,
        )
        registry.complete_layer_upload(
            repositoryName=repository, uploadId=upload, layerDigests=[_digest(layer)]
        )
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


def pull_error(worker: ECRClient, repository: str, registry: str = ACCOUNT) -> str | None:
    """Make the ECR calls of a pull. Return the access-denied message, or None if the pull is allowed."""
    target = {"registryId": registry, "repositoryName": repository}
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


def _put_identity_policy(aws: Aws, role: str, actions: list[str]) -> None:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    aws.iam(OWNER).put_role_policy(
        RoleName=role, PolicyName=_POLICY_NAME, PolicyDocument=_document(statement)
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _document(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
