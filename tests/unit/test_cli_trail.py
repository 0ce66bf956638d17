"""Whether a trail announces new repositories: by its state, its region and its selectors."""

from typing import Any

import pytest

from devstack.fake_aws import FakeAws, Response
from tests.unit.command_line import GRANT, PLAN, ROLE, Output, Run, policy

ARN = "arn:aws:cloudtrail:us-east-1:111122223333:trail/audit"
TRAIL = {"Name": "audit", "TrailARN": ARN, "HomeRegion": "us-east-1"}
MANAGEMENT = {"Field": "eventCategory", "Equals": ["Management"]}


@pytest.fixture
def aws() -> FakeAws:
    aws = FakeAws(trails=[TRAIL])
    aws.ecr.create_role(ROLE)
    aws.ecr.create_repository("team/app", policy=policy(GRANT))
    return aws


def status(run: Run) -> str:
    output: Output = run(*PLAN, "--json")
    assert output.code == 0  # a trail is advice
    return str(output.json["trail"]["status"])


def test_that_logs_is_shown(run: Run) -> None:
    assert status(run) == "logs"
    assert "The trail audit logs write management events in us-east-1" in run(*PLAN).words


def test_that_is_missing_is_shown(aws: FakeAws, run: Run) -> None:
    aws.trails = []

    assert status(run) == "none"
    assert "notices new repositories and policy changes by image pushes and sweeps only" in run(*PLAN).words


def test_that_is_stopped_does_not_count(aws: FakeAws, run: Run) -> None:
    aws.stopped = {ARN}

    assert status(run) == "none"
    assert "(audit is stopped)" in run(*PLAN).words


@pytest.mark.parametrize(
    ("trail", "expected"),
    [
        ({"HomeRegion": "eu-west-1"}, "none"),
        ({"HomeRegion": "eu-west-1", "IsMultiRegionTrail": True}, "logs"),
        ({"HomeRegion": "eu-west-1", "IsMultiRegionTrail": True, "IsOrganizationTrail": True}, "logs"),
    ],
    ids=["other region", "all regions", "organization"],
)
def test_of_another_region_counts_if_it_covers_this_one(
    aws: FakeAws, run: Run, trail: dict[str, Any], expected: str
) -> None:
    aws.trails = [TRAIL | trail]

    assert status(run) == expected


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ([{"ReadWriteType": "WriteOnly", "IncludeManagementEvents": True}], "logs"),
        ([{"ReadWriteType": "ReadOnly", "IncludeManagementEvents": True}], "none"),
        ([{"ReadWriteType": "All", "IncludeManagementEvents": False}], "none"),
        ([{"ReadWriteType": "All", "ExcludeManagementEventSources": ["kms.amazonaws.com"]}], "logs"),
        ([{"ReadWriteType": "All", "ExcludeManagementEventSources": ["ecr.amazonaws.com"]}], "none"),
        ([{"ReadWriteType": "ReadOnly"}, {"ReadWriteType": "WriteOnly"}], "logs"),
        ([], "none"),
    ],
)
def test_counts_by_its_basic_selectors(
    aws: FakeAws, run: Run, selectors: list[dict[str, Any]], expected: str
) -> None:
    aws.selectors = {ARN: {"EventSelectors": selectors}}

    assert status(run) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([MANAGEMENT], "logs"),
        ([MANAGEMENT, {"Field": "readOnly", "Equals": ["false"]}], "logs"),
        ([MANAGEMENT, {"Field": "readOnly", "Equals": ["true"]}], "none"),
        ([MANAGEMENT, {"Field": "eventSource", "NotEquals": ["kms.amazonaws.com"]}], "logs"),
        ([MANAGEMENT, {"Field": "eventSource", "NotStartsWith": ["ecr."]}], "none"),
        ([MANAGEMENT, {"Field": "eventName", "StartsWith": ["Create"]}], "logs"),
        ([MANAGEMENT, {"Field": "eventName", "EndsWith": ["Policy"]}], "none"),
        ([MANAGEMENT, {"Field": "userIdentity.arn", "NotEquals": ["arn:x"]}], "filtered"),
        ([{"Field": "eventCategory", "Equals": ["Data"]}], "none"),
        ([{"Field": "readOnly", "Equals": ["false"]}], "none"),
    ],
)
def test_counts_by_its_advanced_selectors(
    aws: FakeAws, run: Run, fields: list[dict[str, Any]], expected: str
) -> None:
    aws.selectors = {ARN: {"AdvancedEventSelectors": [{"Name": "x", "FieldSelectors": fields}]}}

    assert status(run) == expected


@pytest.mark.parametrize("operation", ["DescribeTrails", "GetTrailStatus", "GetEventSelectors"])
def test_that_may_not_be_read_is_unknown_in_one_line(aws: FakeAws, run: Run, operation: str) -> None:
    aws.denied = {operation}

    assert status(run) == "unknown"
    assert f"the credentials have no permission cloudtrail:{operation}." in run(*PLAN).words


def test_of_an_organization_may_be_unreadable(aws: FakeAws, run: Run) -> None:
    aws.trails = [TRAIL | {"IsOrganizationTrail": True}]
    aws.denied = {"GetEventSelectors"}

    assert status(run) == "unknown"
    assert "Whether the trail audit of the organization logs" in run(*PLAN).words


def test_of_a_proxy_is_unknown(aws: FakeAws, run: Run) -> None:
    aws.responses = {"DescribeTrails": Response(200, "text/html", "<html></html>")}

    assert status(run) == "unknown"
