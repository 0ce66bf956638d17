"""A minimal Lambda handler: reads the policy of a new repository, and writes one if there is none."""

import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

THREADS = 24  # of a sweep, same as the function
STATEMENT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": os.environ["WORKER_ROLE_ARNS"]},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}

client = boto3.client("ecr", config=Config(max_pool_connections=THREADS))


def lambda_handler(event: dict[str, dict[str, dict[str, str]]], _: object) -> None:
    """Attach the statement to the repository in the event."""
    attach(event["detail"]["requestParameters"]["repositoryName"])


def attach(name: str) -> None:
    """Attach the statement to a repository without a policy."""
    try:
        client.get_repository_policy(repositoryName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "RepositoryPolicyNotFoundException":
            raise
        text = json.dumps({"Version": "2012-10-17", "Statement": [STATEMENT]})
        client.set_repository_policy(repositoryName=name, policyText=text)
