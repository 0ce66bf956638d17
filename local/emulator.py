"""The embedded AWS: ministack, with what it lacks for this project. Runs in an environment of its own.

What AWS does and ministack does not:
- CloudTrail tells EventBridge of each call that changes something in ECR, and of each repository
  that ECR makes itself for a pull-through cache: here, those whose name begins with `docker-hub/`.
- ECR tells EventBridge of each image that was pushed.
- `registryId` names the registry of another account, and a call across accounts needs the leave of
  both sides: the caller's identity policy and the repository's policy.
- Every call comes encrypted, as conditions on aws:SecureTransport see it.
- CloudFormation knows saved queries (AWS::Logs::QueryDefinition): here they are taken and kept nowhere.
- DescribeRepositories without names is authorised on all repositories, `repository/*`, not on `*`.
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

_READING = ("BatchCheck", "BatchGet", "Describe", "Get", "List")
_OK = 200
_PULL_THROUGH = "docker-hub/"
_cloudtrail_delay = float(os.environ["CLOUDTRAIL_DELAY"])  # seconds
_serve_ecr = app.SERVICE_HANDLERS["ecr"]
_resource_arn = iam_actions.extract_resource_arn
_repository_policy = ecr.repository_policy_for_arn
_put_events = eventbridge._put_events
_condition_key = iam_evaluator._resolve_condition_key


async def serve_ecr(method: str, path: str, headers: Headers, body: bytes, query: Query) -> Response:
    """Serve a call to ECR in the registry that it names; have it told if it may have changed something."""
    caller = request_caller_arn(headers)
    request = json.loads(body or b"{}")
    with request_scope(request.get("registryId", get_account_id()), get_region()):
        status, response_headers, response = await _serve_ecr(method, path, headers, body, query)
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        if not operation.startswith(_READING):
            if operation == "CreateRepository" and request["repositoryName"].startswith(_PULL_THROUGH):
                told = "AWS Service Event via CloudTrail", service_event(request["repositoryName"])
            else:
                told = "AWS API Call via CloudTrail", api_call(operation, caller, request, status, response)
            asyncio.get_running_loop().call_later(_cloudtrail_delay, tell, *told)
        if operation == "PutImage" and status == _OK:
            put_event("ECR Image Action", image_pushed(request, json.loads(response)))
    return status, response_headers, response


def api_call(operation: str, caller: str, request: object, status: int, response: bytes) -> dict[str, object]:
    """Make CloudTrail's record of a call, in the form that its user guide gives."""
    answer = json.loads(response)
    outcome = (
        {"responseElements": answer}
        if status == _OK
        else {"responseElements": None, "errorCode": answer["__type"], "errorMessage": answer["message"]}
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
    """Make CloudTrail's record of a repository that ECR made itself."""
    return {
        "eventVersion": "1.08",
        "userIdentity": {"invokedBy": "ecr.amazonaws.com"},
        "eventName": "CreateRepository",
        "requestParameters": None,
        "responseElements": None,
        "eventType": "AwsServiceEvent",
        "serviceEventDetails": {"repositoryName": repository},
    }


def tell(detail_type: str, record: Mapping[str, object]) -> None:
    """Put a record of CloudTrail's on the event bus."""
    detail = {
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "ecr.amazonaws.com",
        "awsRegion": get_region(),
        "eventID": str(uuid.uuid4()),
        "recipientAccountId": get_account_id(),
        **record,
    }
    put_event(detail_type, detail)


def image_pushed(request: Mapping[str, object], response: Mapping[str, Any]) -> dict[str, object]:
    """Make ECR's own event of a push."""
    return {
        "result": "SUCCESS",
        "action-type": "PUSH",
        "repository-name": request["repositoryName"],
        "image-digest": response["image"]["imageId"]["imageDigest"],
        "image-tag": request.get("imageTag", ""),
    }


def put_event(detail_type: str, detail: Mapping[str, object]) -> None:
    """Put an event of ECR's on the event bus."""
    put_events({"Entries": [{"Source": "aws.ecr", "DetailType": detail_type, "Detail": json.dumps(detail)}]})


def put_events(data: Mapping[str, object], *, allow_aws_source: bool = True) -> Response:
    """Take events that come from AWS itself too, as CloudTrail's do: AWS takes none from its users."""
    response: Response = _put_events(data, allow_aws_source=allow_aws_source)
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
    """Tell which resource AWS would authorise a call on."""
    if service == "ecr":
        account = json.loads(body or b"{}").get("registryId", account)
    arn = _resource_arn(service, method, path, headers, body, query, region, account)
    lists_repositories = headers.get("x-amz-target", "").endswith(".DescribeRepositories")
    return f"arn:aws:ecr:{region}:{account}:repository/*" if lists_repositories and arn == "*" else arn


def repository_policy(arn: str) -> tuple[str, str] | None:
    """Give the policy and the owner of the repository that an ARN names, in whatever account it is."""
    with request_scope(arn.split(":")[4], get_region()):
        policy: tuple[str, str] | None = _repository_policy(arn)
        return policy


def condition_key(key: str, context: iam_evaluator.EvalContext) -> object:
    """Give a condition key's value as AWS would, to which all calls come encrypted."""
    return "true" if key.lower() == "aws:securetransport" else _condition_key(key, context)


def end_with_parent() -> None:
    """End when whoever started this process has ended, and so has closed its standard input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # It is ministack's. The functions inherit the environment, and would take it for theirs.
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
    threading.Thread(target=end_with_parent, daemon=True).start()
    app.main()
