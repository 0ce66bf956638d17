"""The log of the function in all scenarios that its log distinguishes, as CloudWatch receives the lines."""

import io
import json
import logging
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from functools import cache
from unittest.mock import patch

from devstack.fake_ecr import LIST, READ, WRITE, EcrError, FakeEcr, Fault
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import NAME, Function, cloudtrail_event
from tests.unit.policies import DENY, FOREIGN_POLICY, A, B, C, Policy, document, grant

APP = "team/app"
# Lambda's own lines in JSON: "Lambda Telemetry API Event schema reference" in the Lambda guide.
_OF_LAMBDA = (
    {"type": "platform.start", "record": {"requestId": "1", "version": "$LATEST"}},
    {
        "level": "ERROR",
        "message": "1 of 1 failed",
        "errorType": "RepositoriesFailed",
        "stackTrace": ["app.py"],
    },
    {
        "type": "platform.report",
        "record": {"requestId": "1", "status": "error", "metrics": {"durationMs": 12.3}},
    },
)


@cache
def log() -> tuple[str, ...]:
    """Run the scenarios once in a process; return the lines of the log, metrics included."""
    stream = io.StringIO()
    logger, handler = logging.getLogger(NAME), logging.StreamHandler(stream)
    handler.setFormatter(logger.handlers[0].formatter)
    logger.addHandler(handler)
    with (
        redirect_stdout(stream),  # to which metrics are printed
        patch("handler.reconcile.creation_events.rule_matched", return_value=False),
        patch("handler.reconcile.sweep.MAX_CONCURRENCY", 1),  # so that every run writes the same lines
    ):
        _run()
    logger.removeHandler(handler)
    return (*map(json.dumps, _OF_LAMBDA), *stream.getvalue().splitlines())


def _run() -> None:
    ecr = FakeEcr(registry_policy=document(DENY | {"Resource": "*", "Condition": {"Bool": {"x": "true"}}}))
    ecr.create_role(A, C)
    ecr.create_repository(ROLE_CHECK_REPOSITORY, created_at=0)
    function = Function(ecr, settings={"DESCRIBE_ROLE_ARNS": C, "REPOSITORIES": "*,!legacy/*"})
    _reconcile_one(ecr, function)
    _fail(ecr, function)
    for mode in ("plan", "remove"):
        ecr.set_policy(APP, document(grant(A)))
        function.reconcile(APP, MODE=mode)
    _sweep(ecr, function)


def _reconcile_one(ecr: FakeEcr, function: Function) -> None:
    """Process events about single repositories."""
    now = datetime.now(UTC).isoformat()
    ecr.create_repository(APP)
    function.invoke(cloudtrail_event("CreateRepository", APP) | {"time": now, "id": "0a"})
    ecr.set_policy(APP, FOREIGN_POLICY)
    function.invoke(cloudtrail_event("SetRepositoryPolicy", APP) | {"id": "0b"})
    function.invoke(cloudtrail_event("SetRepositoryPolicy", APP, errorCode="AccessDenied") | {"id": "0c"})
    function.invoke({"repositories": []})


def _fail(ecr: FakeEcr, function: Function) -> None:
    """Fail, in every way that the log distinguishes."""
    ecr.create_repository("failing/app", "buggy/app")
    for _ in range(2):
        ecr.inject_faults(WRITE, EcrError("AccessDeniedException", "no permission"), repository="failing/app")
        function.reconcile("failing/app")
    function.reconcile("failing/app", WORKER_ROLE_ARNS=f"{A},{B}")
    with patch("handler.reconcile.reconciler.denials", side_effect=ZeroDivisionError):
        function.reconcile("buggy/app")
    ecr.inject_faults(LIST, EcrError("AccessDeniedException", "no permission"))
    function.invoke({"repositories": ["*"]})


def _sweep(ecr: FakeEcr, function: Function) -> None:
    """Sweep a registry with every kind of repository, in several invocations."""
    now = time.time()
    deny_listing = DENY | {"Action": "ecr:DescribeImages"}
    unlisted: Policy = grant(A, "arn:aws:iam::333333333333:root")
    for name, policy in {
        "denied/app": document(DENY),
        "denied/tool": document(DENY | {"Condition": {"Bool": {"aws:ViaAWSService": "true"}}}),
        "denied/listing": document(deny_listing),
        "unlisted/app": document(unlisted),
        "legacy/app": document(grant(A)),
        "missed/app": None,
    }.items():
        ecr.create_repository(name, policy=policy, created_at=now - 7200)
    for _ in range(
        2
    ):  # in the second sweep, the repositories have their grants, and still no creation event came
        function.invoke({"repositories": ["*"], "scheduled": True})
    function.invoke({"repositories": ["*"], "dry_run": True}, REMOVE_UNLISTED_ROLES="true")
    ecr.create_repository(*(f"many/{number:02}" for number in range(60)))
    ecr.inject_faults(READ, *[Fault.THROTTLED] * 99, repository="many/00")
    event: dict[str, object] | None = {"repositories": ["*"]}
    function.seconds_per_call = 0.25
    ecr.max_page_size = 20
    while event:
        event = function.invoke(event, timeout=30).continuation
        ecr.clear_faults()
