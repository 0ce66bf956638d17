"""The metrics that the deployed function emits, against those that the alarms and the dashboard read."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from devstack.fake_ecr import FakeEcr
from handler.events.request import InvalidEvent
from handler.report.report import RepositoriesFailed
from handler.settings import Settings
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.cloudformation import ROLE_ARN, STACK, deployed
from tests.unit.process import starter

type Metric = tuple[str, str, str]

MISSING_ROLE = f"{ROLE_ARN}-missing"
PULL = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]


def statement(effect: str, sid: str, action: object, *principals: str) -> dict[str, object]:
    return {"Sid": sid, "Effect": effect, "Principal": {"AWS": list(principals)}, "Action": action}


@pytest.fixture
def ecr() -> FakeEcr:
    return FakeEcr()


@pytest.fixture
def invoke(
    ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch, processed_template: dict[str, Any]
) -> Iterator[Callable[[object], object]]:
    """Start the function with the variables that the template sets, and invoke it."""
    function = deployed(processed_template, WorkerRoleArns=f"{ROLE_ARN},{MISSING_ROLE}")["Function"]
    variables = function["Environment"]["Variables"] | {
        "ROLE_CHECK_REPOSITORY": ROLE_CHECK_REPOSITORY,
        "ROLE_NAME": "role",
    }
    for start in starter(ecr, monkeypatch):
        yield start(**variables).invoke


def emitted(printed: str) -> set[Metric]:
    """Read namespace, dimensions and name of each metric, as CloudWatch does."""
    metrics = set()
    for line in (json.loads(line) for line in printed.splitlines() if '"_aws"' in line):
        for directive in line["_aws"]["CloudWatchMetrics"]:
            for dimensions in directive["Dimensions"]:
                described = ", ".join(f"{name}={line[name]}" for name in dimensions)
                metrics |= {
                    (directive["Namespace"], described, metric["Name"]) for metric in directive["Metrics"]
                }
    return metrics


def read_by_the_template(template: dict[str, Any]) -> set[Metric]:
    resources = deployed(template)
    alarms = [one for one in resources.values() if "AlarmDescription" in one]
    read_by_alarms = [one for one in alarms if "MetricName" in one] + [
        each["MetricStat"]["Metric"]
        for one in alarms
        for each in one.get("Metrics", [])
        if "MetricStat" in each
    ]
    of_alarms = {
        (
            one["Namespace"],
            ", ".join(f"{each['Name']}={each['Value']}" for each in one["Dimensions"]),
            one["MetricName"],
        )
        for one in read_by_alarms
    }
    widgets = json.loads(resources["Dashboard"]["DashboardBody"])["widgets"]
    lines = [line for widget in widgets for line in widget["properties"].get("metrics", [])]
    shown = {(line[0], f"{line[2]}={line[3]}", line[1]) for line in lines}
    return {metric for metric in of_alarms | shown if not metric[0].startswith("AWS/")}


def test_every_metric_of_an_alarm_or_the_dashboard_is_emitted_with_its_dimensions(
    ecr: FakeEcr,
    invoke: Callable[[object], object],
    capsys: pytest.CaptureFixture[str],
    saved_event: Callable[[str], dict[str, Any]],
    processed_template: dict[str, Any],
) -> None:
    ecr.create_role(ROLE_ARN, MISSING_ROLE)
    ecr.create_repository(ROLE_CHECK_REPOSITORY, "created", "drifted")
    denied = statement("Deny", "No", "ecr:*", ROLE_ARN)
    unlisted = statement("Allow", "AllowPull", PULL, "arn:aws:iam::333333333333:root")
    ecr.create_repository("denied", policy={"Version": "2012-10-17", "Statement": [denied, unlisted]})
    created, changed = (
        json.loads(json.dumps(saved_event(name)).replace("team/app", repository))
        for name, repository in (("created-by-api", "created"), ("policy-set", "drifted"))
    )

    for event in (created, created, changed):
        invoke(event)
    ecr.delete_role(MISSING_ROLE)
    with pytest.raises(RepositoriesFailed, match=MISSING_ROLE):
        invoke({"repositories": ["denied"]})
    with pytest.raises(InvalidEvent):
        invoke({})
    ecr.created_at[ROLE_CHECK_REPOSITORY] = 0
    ecr.create_repository("missed", created_at=time.time() - 7200)
    for mode, event in (
        ("remove", {"repositories": ["created"]}),
        ("plan", {"repositories": ["created"]}),
        ("enforce", {"repositories": ["*"], "scheduled": True}),
    ):
        settings = Settings.from_environment(os.environ | {"MODE": mode, "WORKER_ROLE_ARNS": ROLE_ARN})
        with (
            patch("handler.app.settings", settings),
            patch("handler.reconcile.creation_events.rule_matched", return_value=False),
        ):
            invoke(event)

    metrics = emitted(capsys.readouterr().out)
    assert {(namespace, dimensions) for namespace, dimensions, _ in metrics} == {
        ("EcrAllowPull", f"service={STACK}")
    }
    assert read_by_the_template(processed_template) <= metrics
    assert len(read_by_the_template(processed_template)) >= 9


def test_the_metrics_name_each_added_principal_once_because_they_are_logged_at_every_level(
    ecr: FakeEcr, invoke: Callable[[object], object], capsys: pytest.CaptureFixture[str]
) -> None:
    ecr.create_role(ROLE_ARN, MISSING_ROLE)
    ecr.create_repository(ROLE_CHECK_REPOSITORY, "one", "two")

    for dry_run in (True, False, False):
        invoke({"repositories": ["*"], "dry_run": dry_run})

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert [line.get("principals_added") for line in lines if "Attached" in line] == [
        {"AllowPull": [ROLE_ARN, MISSING_ROLE]}
    ]
    assert not [line for line in lines if "principals_added" in line and "Attached" not in line]
