"""The barest sweep with boto3, with as many calls at once as the function; may be told `adaptive` retries."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

THREADS = 24
STATEMENT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": os.environ["WORKER_ROLE_ARNS"]},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [STATEMENT]})

config = Config(
    max_pool_connections=THREADS,
    retries={"mode": "adaptive" if "adaptive" in sys.argv else "legacy"},
)
client = boto3.client("ecr", config=config)


def check(name: str) -> bool:
    """Attach the statement to a repository without a policy; tell whether that went well."""
    try:
        client.get_repository_policy(repositoryName=name)
    except client.exceptions.RepositoryPolicyNotFoundException:
        try:
            client.set_repository_policy(repositoryName=name, policyText=POLICY)
        except ClientError:
            return False
    except ClientError:
        return False
    return True


names = [
    repository["repositoryName"]
    for page in client.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 1000})
    for repository in page["repositories"]
]
with ThreadPoolExecutor(THREADS) as threads:
    done = sum(threads.map(check, names))
print(json.dumps({"checked": len(names), "failed": len(names) - done}))  # noqa: T201 - it is the answer
