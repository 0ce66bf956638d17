"""The barest Lambda handler that does the job of one event: read the policy, write it if there is none."""

import json
import os

import boto3
from botocore.exceptions import ClientError

STATEMENT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": os.environ["WORKER_ROLE_ARNS"]},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}

client = boto3.client("ecr")


def lambda_handler(event: dict[str, dict[str, dict[str, str]]], _: object) -> None:
    """Attach the statement to the repository of the event."""
    name = event["detail"]["requestParameters"]["repositoryName"]
    try:
        client.get_repository_policy(repositoryName=name)
    except ClientError:
        text = json.dumps({"Version": "2012-10-17", "Statement": [STATEMENT]})
        client.set_repository_policy(repositoryName=name, policyText=text)
