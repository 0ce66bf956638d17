"""A minimal concurrent sweep with boto3. AWS_RETRY_MODE selects the SDK's retry mode."""

import json
from concurrent.futures import ThreadPoolExecutor

from app import THREADS, attach, client  # type: ignore[import-not-found] # same folder
from botocore.exceptions import ClientError


def attached(name: str) -> bool:
    """Attach the statement, and return whether all calls succeeded."""
    try:
        attach(name)
    except ClientError:
        return False
    return True


pages = client.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 1000})
names = [repository["repositoryName"] for page in pages for repository in page["repositories"]]
with ThreadPoolExecutor(THREADS) as threads:
    succeeded = sum(threads.map(attached, names))
print(json.dumps({"failed": len(names) - succeeded}))  # noqa: T201 - the output
