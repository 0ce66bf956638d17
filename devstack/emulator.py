"""The embedded AWS: ministack, patched with the AWS behavior that this project needs.

Runs in its own virtual environment. The patches:
- CloudTrail sends an event to EventBridge for each ECR call that changes something, and for each
  repository that ECR creates for a pull-through cache (here: names that start with `docker-hub/`).
- ECR sends an event to EventBridge for each pushed image.
- `registryId` selects another account's registry. A cross-account call needs permission in both the
  caller's identity policy and the repository's policy.
- `aws:SecureTransport` is true for every call.
- CloudFormation accepts saved queries (AWS::Logs::QueryDefinition) and ignores them.
- DescribeRepositories without names is authorized on `repository/*`, not on `*`.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.iam_evaluator import request_caller_arn
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import ecr, eventbridge
from ministack.services.cloudformation import provisioners

type Headers = Mapping[str, str]
type Query = Mapping[str, list[str]]
type Response = tuple[int, dict[str, str], bytes]

_READ_PREFIXES = ("BatchCheck", "BatchGet", "Describe", "Get", "List")
_OK = 200
_PULL_THROUGH_PREFIX = "docker-hub/"
_cloudtrail_delay = float(os.environ["CLOUDTRAIL_DELAY"])  # seconds
_original_serve_ecr = app.SERVICE_HANDLERS["ecr"]
_original_resource_arn = iam_actions.extract_resource_arn
_original_repository_policy = ecr.repository_policy_for_arn
_original_put_events = eventbridge._put_events
_original_condition_key = iam_evaluator._resolve_condition_key


async def serve_ecr(method: str, path: str, headers: Headers, body: bytes, query: Query) -> Response:
    """Serve an ECR call in the registry that `registryId` selects, then publish its CloudTrail event."""
    caller = request_caller_arn(headers)
    request = json.loads(body or b"{}")
    with request_scope(request.get("registryId", get_account_id()), get_region()):
        status, response_headers, response = await _original_serve_ecr(method, path, headers, body, query)
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        if not operation.startswith(_READ_PREFIXES):
            if operation == "CreateRepository" and request["repositoryName"].startswith(_PULL_THROUGH_PREFIX):
                event = "AWS Service Event via CloudTrail", service_event(request["repositoryName"])
            else:
                event = "AWS API Call via CloudTrail", api_call(operation, caller, request, status, response)
            asyncio.get_running_loop().call_later(_cloudtrail_delay, publish_cloudtrail_event, *event)
        if operation == "PutImage" and status == _OK:
            publish_event("ECR Image Action", image_pushed(request, json.loads(response)))
    return status, response_headers, response


def api_call(operation: str, caller: str, request: object, status: int, response: bytes) -> dict[str, object]:
    """Return the CloudTrail record of an API call, as documented in the CloudTrail user guide."""
    body = json.loads(response)
    outcome = (
        {"responseElements": body}
        if status == _OK
        else {"responseElements": None, "errorCode": body["__type"], "errorMessage": body["message"]}
    )
    return outcome | {
        "eventVersion": "1.11",
        "userIdentity": {"type": "AssumedRole", "arn": caller},
        "eventName": operation,
        "requestParameters": request,
        "readOnly": False,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "eventCategory": "Management",
    }


def service_event(repository: str) -> dict[str, object]:
    """Return the CloudTrail record of a repository that ECR creates for a pull-through cache."""
    return {
        "eventVersion": "1.08",
        "userIdentity": {"invokedBy": "ecr.amazonaws.com"},
        "eventName": "CreateRepository",
        "requestParameters": None,
        "responseElements": None,
        "eventType": "AwsServiceEvent",
        "serviceEventDetails": {"repositoryName": repository},
    }


def publish_cloudtrail_event(detail_type: str, record: Mapping[str, object]) -> None:
    """Publish a CloudTrail record on the event bus."""
    detail = {
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "ecr.amazonaws.com",
        "awsRegion": get_region(),
        "eventID": str(uuid.uuid4()),
        "recipientAccountId": get_account_id(),
        **record,
    }
    publish_event(detail_type, detail)


def image_pushed(request: Mapping[str, object], response: Mapping[str, Any]) -> dict[str, object]:
    """Return the detail of ECR's event for a pushed image."""
    return {
        "result": "SUCCESS",
        "action-type": "PUSH",
        "repository-name": request["repositoryName"],
        "image-digest": response["image"]["imageId"]["imageDigest"],
        "image-tag": request.get("imageTag", ""),
    }


def publish_event(detail_type: str, detail: Mapping[str, object]) -> None:
    """Publish an event with source `aws.ecr` on the event bus."""
    put_events({"Entries": [{"Source": "aws.ecr", "DetailType": detail_type, "Detail": json.dumps(detail)}]})


def put_events(data: Mapping[str, object], *, allow_aws_source: bool = True) -> Response:
    """Accept events with an `aws.*` source, which AWS accepts from its own services only."""
    response: Response = _original_put_events(data, allow_aws_source=allow_aws_source)
    return response


def resource_arn(
    service: str,
    method: str,
    path: str,
    headers: Headers,
    body: bytes,
    query: Query,
    region: str,
    account: str,
) -> str:
    """Return the resource ARN that AWS authorizes a call on."""
    if service == "ecr":
        account = json.loads(body or b"{}").get("registryId", account)
    arn = _original_resource_arn(service, method, path, headers, body, query, region, account)
    lists_repositories = headers.get("x-amz-target", "").endswith(".DescribeRepositories")
    return f"arn:aws:ecr:{region}:{account}:repository/*" if lists_repositories and arn == "*" else arn


def repository_policy(arn: str) -> tuple[str, str] | None:
    """Return the policy and the owner account of a repository in any account."""
    with request_scope(arn.split(":")[4], get_region()):
        policy: tuple[str, str] | None = _original_repository_policy(arn)
        return policy


def condition_key(key: str, context: iam_evaluator.EvalContext) -> object:
    """Return a condition key's value. Every call counts as encrypted in transit."""
    return "true" if key.lower() == "aws:securetransport" else _original_condition_key(key, context)


def exit_with_parent() -> None:
    """Exit when the parent process exits, which closes this process's standard input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # ministack has read its log level. The functions inherit the environment and must not use it.
    del os.environ["LOG_LEVEL"]
    app.SERVICE_HANDLERS["ecr"] = serve_ecr
    eventbridge._put_events = put_events
    iam_actions.extract_resource_arn = resource_arn
    ecr.repository_policy_for_arn = repository_policy
    iam_evaluator._resolve_condition_key = condition_key
    provisioners._RESOURCE_HANDLERS["AWS::Logs::QueryDefinition"] = {
        "create": lambda logical_id, *_: (logical_id, {}),
        "update": lambda physical_id, *_: (physical_id, {}),
        "delete": lambda *_: None,
    }
    threading.Thread(target=exit_with_parent, daemon=True).start()
    app.main()
