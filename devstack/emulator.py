"""The embedded AWS: ministack, patched with the AWS behavior that this project needs.

Runs in its own virtual environment. The patches:
- CloudTrail sends an event to EventBridge for each ECR call that changes something, and for each
  repository that ECR creates for a pull-through cache (here: names that start with `docker-hub/`).
- ECR sends an event to EventBridge for each pushed image.
- `registryId` selects another account's registry. A cross-account call needs permission in both the
  caller's identity policy and the repository's policy.
- ECR rejects a repository policy that names a role or a user that does not exist.
- `aws:SecureTransport` is true for every call.
- `lambda:SourceFunctionArn` is present in calls from the code of a function.
- CloudFormation accepts saved queries (AWS::Logs::QueryDefinition) and ignores them.
- CloudFormation accepts alarms on metric math. They are never evaluated.
- CloudFormation accepts `Fn::Split` and `Fn::Sub` in conditions.
- DescribeRepositories without names is authorized on `repository/*`, not on `*`.
- A registry has a policy that can be set and read, and repository creation templates, by which repositories
  that ECR creates get their policy.
- The metrics in the log lines of functions (EMF) reach CloudWatch, and its alarms.
- Lambda unpacks the code of a function once, and not for each process, which takes most of a cold start.
- ECR takes its time to read the policy of a repository with `/slow/` in its name for a role.
- With STACK_EVENTS=true, CloudFormation sends an event to EventBridge when a stack is deployed.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.iam_evaluator import request_caller_arn
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, ecr, eventbridge, iam, lambda_svc, sts
from ministack.services.cloudformation import changesets, engine, handlers, provisioners, stacks

type Headers = Mapping[str, str]
type Query = Mapping[str, list[str]]
type Response = tuple[int, dict[str, str], bytes]

_READ_PREFIXES = ("BatchCheck", "BatchGet", "Describe", "Get", "List")
_OK = 200
_SLOW = 1.2  # seconds
_ROLE_OR_USER = re.compile(r"arn:aws:iam::(?P<account>\d{12}):(?P<kind>role|user)/(?:.*/)?(?P<name>[^/]+)")
_PULL_THROUGH_PREFIX = "docker-hub/"
REGISTRY_POLICY_OPERATIONS = ("GetRegistryPolicy", "PutRegistryPolicy", "DeleteRegistryPolicy")
_registry_policies: dict[str, str] = {}
_creation_templates: dict[str, str] = {}
_cloudtrail_delay = float(os.environ["CLOUDTRAIL_DELAY"])  # seconds
_original_serve_ecr = app.SERVICE_HANDLERS["ecr"]
_original_resource_arn = iam_actions.extract_resource_arn
_original_repository_policy = ecr.repository_policy_for_arn
_original_put_events = eventbridge._put_events
_original_add_event = stacks._add_event
_original_condition_key = iam_evaluator._resolve_condition_key
_original_execution_credentials = lambda_runtime.execution_credentials
_original_emit_logs = lambda_svc._emit_lambda_logs
_original_principal_keys = iam_evaluator._principal_keys
_original_alarm_record = provisioners._cw_metric_alarm_record
_original_evaluate_conditions = engine._evaluate_conditions


async def serve_ecr(method: str, path: str, headers: Headers, body: bytes, query: Query) -> Response:
    """Serve an ECR call in the registry that `registryId` selects, then publish its CloudTrail event."""
    caller = request_caller_arn(headers)
    request = json.loads(body or b"{}")
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    if operation in REGISTRY_POLICY_OPERATIONS:
        return serve_registry_policy(operation, request)
    with request_scope(request.get("registryId", get_account_id()), get_region()):
        if (
            operation == "GetRepositoryPolicy"
            and "/slow/" in request["repositoryName"]
            and ":assumed-role/" in caller
        ):
            await asyncio.sleep(_SLOW)
        if operation == "SetRepositoryPolicy" and not all(map(exists, principals(request["policyText"]))):
            status, response_headers, response = principal_not_found()
        else:
            status, response_headers, response = await _original_serve_ecr(method, path, headers, body, query)
        if not operation.startswith(_READ_PREFIXES):
            if operation == "CreateRepository" and request["repositoryName"].startswith(_PULL_THROUGH_PREFIX):
                event = "AWS Service Event via CloudTrail", service_event(request["repositoryName"])
                if text := template_policy(request["repositoryName"]):
                    target = headers["x-amz-target"].replace(operation, "SetRepositoryPolicy")
                    policy = {"repositoryName": request["repositoryName"], "policyText": text}
                    await _original_serve_ecr(
                        method, path, {**headers, "x-amz-target": target}, json.dumps(policy).encode(), query
                    )
            else:
                event = "AWS API Call via CloudTrail", api_call(operation, caller, request, status, response)
            asyncio.get_running_loop().call_later(_cloudtrail_delay, publish_cloudtrail_event, *event)
        if operation == "PutImage" and status == _OK:
            publish_event("ECR Image Action", image_pushed(request, json.loads(response)))
    return status, response_headers, response


def principals(policy: str) -> Iterator[str]:
    """Yield the AWS principals of a policy."""
    for statement in json.loads(policy)["Statement"]:
        element = statement.get("Principal", statement.get("NotPrincipal"))
        named = element.get("AWS", []) if isinstance(element, dict) else []
        yield from [named] if isinstance(named, str) else named


def exists(principal: str) -> bool:
    """Return whether a principal exists, as far as it is a role or a user."""
    match = _ROLE_OR_USER.fullmatch(principal)
    if match is None:
        return True
    with request_scope(match["account"], get_region()):
        known = iam._roles if match["kind"] == "role" else iam._users
        return bool(known.get(match["name"], {}).get("Arn") == principal)


def principal_not_found() -> Response:
    """Return ECR's error for a policy that names a principal that does not exist."""
    constraint = "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Principal not found'"
    error = {"__type": "InvalidParameterException", "message": constraint}
    return 400, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(error).encode()


def serve_registry_policy(operation: str, request: Mapping[str, str]) -> Response:
    """Set, read or delete the policy of the caller's registry."""
    account = get_account_id()
    if operation == "PutRegistryPolicy":
        _registry_policies[account] = request["policyText"]
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    if account not in _registry_policies:
        error = {"__type": "RegistryPolicyNotFoundException", "message": "Registry policy does not exist"}
        return 400, headers, json.dumps(error).encode()
    text = _registry_policies[account]
    if operation == "DeleteRegistryPolicy":
        del _registry_policies[account]
    return _OK, headers, json.dumps({"registryId": account, "policyText": text}).encode()


def create_template(_: str, properties: Mapping[str, Any], *__: object) -> tuple[str, dict[str, str]]:
    """Create a repository creation template, as CloudFormation does."""
    _creation_templates[properties["Prefix"]] = properties["RepositoryPolicy"]
    return properties["Prefix"], {}


def update_template(
    prefix: str, _: object, properties: Mapping[str, Any], *__: object
) -> tuple[str, dict[str, str]]:
    """Update a repository creation template."""
    _creation_templates.pop(prefix, None)
    return create_template("", properties)


def template_policy(repository: str) -> str | None:
    """Return the policy of the creation template that applies to a repository, if any."""
    prefixes = [prefix for prefix in _creation_templates if repository.startswith(f"{prefix.rstrip('/')}/")]
    return _creation_templates.get(max(prefixes, key=len, default="ROOT"))


def evaluate_conditions(template: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, bool]:
    """Evaluate the conditions of a template, after the functions that make texts of parameters."""

    def resolve(value: object) -> object:
        match value:
            case {"Fn::Select": _} | {"Fn::Sub": _}:
                return engine._resolve_refs(value, {}, parameters, {}, {}, "", "")
            case dict():
                return {key: resolve(item) for key, item in value.items()}
            case list():
                return [resolve(item) for item in value]
        return value

    conditions: dict[str, bool] = _original_evaluate_conditions(
        {**template, "Conditions": resolve(template.get("Conditions", {}))}, parameters
    )
    return conditions


def alarm_record(name: str, properties: Mapping[str, Any]) -> dict[str, object]:
    """Return an alarm as PutMetricAlarm stores it. One without a metric of its own is never evaluated."""
    if "Metrics" not in properties:
        record: dict[str, object] = _original_alarm_record(name, properties)
        return record
    others = {key: value for key, value in properties.items() if key != "Metrics"}
    record = _original_alarm_record(name, {**others, "MetricName": "-", "Namespace": "-"})
    no_metric = dict.fromkeys(("MetricName", "Namespace", "Statistic", "Period"))
    return record | no_metric | {"Metrics": properties["Metrics"]}


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


def add_stack_event(
    stack_id: str, stack: str, logical_id: str, kind: str, status: str, reason: str = "", **details: str
) -> None:
    """Add an event to a stack, and publish those of the stack itself on the event bus."""
    _original_add_event(stack_id, stack, logical_id, kind, status, reason, **details)
    if kind == "AWS::CloudFormation::Stack" and logical_id == stack:
        detail = {"stack-id": stack_id, "status-details": {"status": status, "status-reason": reason}}
        entry = {
            "Source": "aws.cloudformation",
            "DetailType": "CloudFormation Stack Status Change",
            "Detail": json.dumps(detail),
            "Resources": [stack_id],
        }
        put_events({"Entries": [entry]})


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


def execution_credentials(config: Mapping[str, str]) -> dict[str, str]:
    """Return the credentials of a function's code, whose session remembers the function."""
    credentials: dict[str, str] = _original_execution_credentials(config)
    sts._sessions[credentials["AWS_ACCESS_KEY_ID"]]["SourceFunctionArn"] = config["FunctionArn"]
    return credentials


def principal_keys(credential: iam_evaluator.ResolvedCredential) -> dict[str, object]:
    """Return the condition keys of the caller, also the function whose code makes the call."""
    keys: dict[str, object] = _original_principal_keys(credential)
    session = sts._sessions.get(credential.access_key_id) or {}
    source = session.get("SourceFunctionArn")
    return keys | ({"lambda:sourcefunctionarn": source} if source else {})


def emit_logs(func: Mapping[str, Any], request: str, text: str, *others: object, **options: object) -> None:
    """Write a function's log, and store the metrics in it, as the specification of EMF says."""
    _original_emit_logs(func, request, text, *others, **options)
    for line in text.splitlines():
        if '"CloudWatchMetrics"' in line:
            metrics = json.loads(line)
            for definition in metrics["_aws"]["CloudWatchMetrics"]:
                store_metrics(definition, metrics)
            cloudwatch._evaluate_all_alarms()


def store_metrics(definition: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Store the values of the metrics of one definition."""
    (dimensions,) = definition["Dimensions"]
    named = {name: values[name] for name in dimensions}
    for metric in definition["Metrics"]:
        found = values[metric["Name"]]
        for value in found if isinstance(found, list) else [found]:
            cloudwatch._store_datum(
                definition["Namespace"],
                metric["Name"],
                named,
                time.time(),
                metric["Unit"],
                value,
                None,
                None,
                None,
            )


class UnpackedOnce(zipfile.ZipFile):
    """The code of a function. All of its processes share one folder, which none of them writes to."""

    lock = threading.Lock()

    def extractall(self, path: str, *_: object) -> None:  # type: ignore[override]
        """Make the path a link to the unpacked code."""
        content = Path(str(self.filename)).read_bytes()
        folder = Path(os.environ["TMPDIR"], f"code-{hashlib.sha256(content).hexdigest()}")
        with self.lock:
            if not folder.exists():
                super().extractall(folder)
        Path(path).rmdir()
        Path(path).symlink_to(folder)


def exit_with_parent() -> None:
    """Exit when the parent process exits, which closes this process's standard input.

    A parent that was killed cannot clean up: delete its files, and end this session's processes.
    """
    sys.stdin.read()
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    # ministack has read its log level. The functions inherit the environment and must not use it.
    del os.environ["LOG_LEVEL"]
    app.SERVICE_HANDLERS["ecr"] = serve_ecr
    eventbridge._put_events = put_events
    iam_actions.extract_resource_arn = resource_arn
    ecr.repository_policy_for_arn = repository_policy
    iam_evaluator._resolve_condition_key = condition_key
    iam_evaluator._principal_keys = principal_keys
    lambda_runtime.execution_credentials = lambda_svc.execution_credentials = execution_credentials
    lambda_svc._emit_lambda_logs = emit_logs
    lambda_runtime.zipfile = SimpleNamespace(ZipFile=UnpackedOnce)
    if os.environ.get("STACK_EVENTS") == "true":
        stacks._add_event = add_stack_event
    provisioners._RESOURCE_HANDLERS["AWS::Logs::QueryDefinition"] = {
        "create": lambda logical_id, *_: (logical_id, {}),
        "update": lambda physical_id, *_: (physical_id, {}),
        "delete": lambda *_: None,
    }
    provisioners._cw_metric_alarm_record = alarm_record
    for module in (changesets, handlers, stacks):
        module._evaluate_conditions = evaluate_conditions
    provisioners._RESOURCE_HANDLERS["AWS::ECR::RepositoryCreationTemplate"] = {
        "create": create_template,
        "update": update_template,
        "delete": lambda prefix, *_: _creation_templates.pop(prefix, None),
    }
    threading.Thread(target=exit_with_parent, daemon=True).start()
    app.main()
