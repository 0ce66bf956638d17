"""A data plane in another account: creates its worker role and pulls images as that role."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from devstack.aws import ACCOUNT, Credentials, LocalAws

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_ecr import ECRClient

DATA_PLANE_ACCOUNT = "222222222222"
ROLE_NAME = "unionai-acme-flyteworker-node-group"
ROLE_ARN = f"arn:aws:iam::{DATA_PLANE_ACCOUNT}:role/{ROLE_NAME}"

_OWNER = Credentials(DATA_PLANE_ACCOUNT)
_POLICY_NAME = "Pull"
_TAG = "v1"
_LAYERS = [b"a configuration", b"a layer"]


def create_role(aws: LocalAws) -> ECRClient:
    """Create the worker role with an identity policy, and return an ECR client of that role."""
    trust = {"Effect": "Allow", "Principal": {"AWS": DATA_PLANE_ACCOUNT}, "Action": "sts:AssumeRole"}
    aws.iam(_OWNER).create_role(RoleName=ROLE_NAME, AssumeRolePolicyDocument=_document(trust))
    _put_identity_policy(aws)
    session = aws.sts(_OWNER).assume_role(RoleArn=ROLE_ARN, RoleSessionName="node")["Credentials"]
    return aws.ecr(Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]))


@contextmanager
def without_identity_policy(aws: LocalAws) -> Iterator[None]:
    """Delete the worker role's identity policy until the block ends."""
    aws.iam(_OWNER).delete_role_policy(RoleName=ROLE_NAME, PolicyName=_POLICY_NAME)
    try:
        yield
    finally:
        _put_identity_policy(aws)


def push(registry: ECRClient, repository: str) -> None:
    """Push an image to a repository as the registry's owner."""
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
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": [layer],
    }
    registry.put_image(repositoryName=repository, imageManifest=json.dumps(manifest), imageTag=_TAG)


def pull_error(worker: ECRClient, repository: str) -> str | None:
    """Make the ECR calls of a pull. Return the access-denied message, or None if the pull is allowed."""
    target = {"registryId": ACCOUNT, "repositoryName": repository}
    try:
        worker.batch_get_image(**target, imageIds=[{"imageTag": _TAG}])
        worker.batch_check_layer_availability(
            **target, layerDigests=[_digest(content) for content in _LAYERS]
        )
        for content in _LAYERS:
            worker.get_download_url_for_layer(**target, layerDigest=_digest(content))
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDeniedException":
            raise
        return error.response["Error"]["Message"]
    return None


def _put_identity_policy(aws: LocalAws) -> None:
    pull = {
        "Effect": "Allow",
        "Action": [
            "ecr:GetAuthorizationToken",
            "ecr:GetDownloadUrlForLayer",
            "ecr:BatchGetImage",
            "ecr:BatchCheckLayerAvailability",
        ],
        "Resource": "*",
    }
    aws.iam(_OWNER).put_role_policy(
        RoleName=ROLE_NAME, PolicyName=_POLICY_NAME, PolicyDocument=_document(pull)
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _document(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
