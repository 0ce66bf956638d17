"""The template, as CloudFormation gets it once SAM has transformed it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from handler.settings import Settings

TEMPLATE = Path(__file__).parent.parent.parent / "template.yaml"

type Resource = dict[str, Any]


class NoManagedPolicies:
    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    template: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return template


@pytest.fixture(scope="module")
def resources() -> dict[str, Resource]:
    template = yaml_parse(TEMPLATE.read_text())
    # What `sam package` puts in its place.
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/key"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        found: dict[str, Resource] = transform(template, {}, NoManagedPolicies())["Resources"]
    return found


def of_type(resources: dict[str, Resource], kind: str) -> list[Resource]:
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]


def test_the_role_may_do_what_the_function_does_and_nothing_else(resources: dict[str, Resource]) -> None:
    role = resources["Role"]["Properties"]

    repositories = {"Fn::Sub": "arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/*"}
    assert [policy["PolicyDocument"]["Statement"] for policy in role["Policies"]] == [
        [
            {
                "Effect": "Allow",
                "Action": ["ecr:DescribeRepositories", "ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy"],
                "Resource": repositories,
            }
        ],
        [
            {
                "Effect": "Allow",
                "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": {"Fn::GetAtt": ["LogGroup", "Arn"]},
            }
        ],
    ]
    assert "ManagedPolicyArns" not in role
    assert role["AssumeRolePolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ]


def test_only_the_rules_of_the_stack_may_invoke_the_function(resources: dict[str, Resource]) -> None:
    rules = {name for name, resource in resources.items() if resource["Type"] == "AWS::Events::Rule"}

    permissions = of_type(resources, "AWS::Lambda::Permission")
    invoke = {
        "Effect": "Allow",
        "Action": "lambda:InvokeFunction",
        "Resource": {"Fn::GetAtt": ["Function", "Arn"]},
    }

    assert resources["HandOver"]["Properties"]["PolicyDocument"]["Statement"] == [invoke]
    assert resources["ScheduleRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"] == [
        invoke,
        {
            "Effect": "Allow",
            "Action": "sqs:SendMessage",
            "Resource": {"Fn::GetAtt": ["UndeliveredSweeps", "Arn"]},
        },
    ]
    assert {permission["SourceArn"]["Fn::GetAtt"][0] for permission in permissions} == rules
    assert {permission["Principal"] for permission in permissions} == {"events.amazonaws.com"}


@pytest.mark.parametrize(
    ("switch", "condition", "switched"),
    [
        ("CheckOnPush", "ChecksOnPush", {"ImageArrived", "ImageArrivedPermission"}),
        ("SweepOnDeploy", "SweepsOnDeploy", {"Deployed", "DeployedPermission"}),
        ("SweepSchedule", "SweepsOnSchedule", {"Schedule", "ScheduleRole", "UndeliveredSweeps"}),
    ],
)
def test_what_is_switched_off_is_not_there(
    source: dict[str, Any], resources: dict[str, Resource], switch: str, condition: str, switched: set[str]
) -> None:
    conditional = {name for name, resource in resources.items() if resource.get("Condition") == condition}

    assert conditional == switched
    assert f'"Ref": "{switch}"' in json.dumps(source["Conditions"][condition])


@pytest.mark.parametrize("schedule", ["none", "rate(1 day)", "cron(0 3 * * ? *)", "at(2026-11-23T03:00:00)"])
def test_a_schedule_is_an_expression_or_none(source: dict[str, Any], schedule: str) -> None:
    pattern = source["Parameters"]["SweepSchedule"]["AllowedPattern"]

    assert re.fullmatch(pattern, schedule)
    assert not re.fullmatch(pattern, f"every {schedule}")


def test_the_schedule_sends_the_payload_that_people_send(
    resources: dict[str, Resource], saved_event: Callable[[str], dict[str, object]]
) -> None:
    (schedule,) = of_type(resources, "AWS::Scheduler::Schedule")

    assert json.loads(schedule["Target"]["Input"]) == saved_event("scheduled")


def test_lambda_does_not_take_a_long_sweep_for_a_loop(resources: dict[str, Resource]) -> None:
    (function,) = of_type(resources, "AWS::Lambda::Function")

    assert function["RecursiveLoop"] == "Allow"


def test_the_function_runs_the_handler_on_arm64_with_python_3_13(
    source: dict[str, Any], resources: dict[str, Resource]
) -> None:
    (function,) = of_type(resources, "AWS::Lambda::Function")

    assert function["Handler"] == "handler.app.lambda_handler"
    assert function["Runtime"] == "python3.13"
    assert function["Architectures"] == [{"Ref": "Architecture"}]
    assert source["Parameters"]["Architecture"]["Default"] == "arm64"
    assert source["Parameters"]["Architecture"]["AllowedValues"] == ["arm64", "x86_64"]


def test_the_function_logs_where_the_log_is_not_kept_for_ever(resources: dict[str, Resource]) -> None:
    (function,) = of_type(resources, "AWS::Lambda::Function")
    (group,) = of_type(resources, "AWS::Logs::LogGroup")

    assert function["LoggingConfig"]["LogGroup"] == {"Ref": "LogGroup"}
    assert group["RetentionInDays"] == {"Ref": "LogRetentionInDays"}


def test_every_setting_of_the_function_is_a_parameter_whose_default_it_starts_with(
    source: dict[str, Any], resources: dict[str, Resource]
) -> None:
    (function,) = of_type(resources, "AWS::Lambda::Function")
    variables = dict(function["Environment"]["Variables"])
    role_name = variables.pop("ROLE_NAME")

    defaults = {
        variable: source["Parameters"][reference["Ref"]].get("Default", "arn:aws:iam::222222222222:role/r")
        for variable, reference in variables.items()
    }

    assert role_name == {"Ref": "Role"}
    assert variables.keys() == {"WORKER_ROLE_ARNS", "REPOSITORIES", "MODE", "REMOVE_UNLISTED_ROLES"}
    assert Settings.from_environment(defaults) == Settings.from_environment(
        {"WORKER_ROLE_ARNS": "arn:aws:iam::222222222222:role/r"}
    )


@pytest.mark.parametrize("section", ["Parameters", "Outputs"])
def test_every_parameter_and_output_is_described(source: dict[str, Any], section: str) -> None:
    assert all(entry["Description"] for entry in source[section].values())


def test_nothing_in_the_template_is_tied_to_an_account_a_region_or_a_partition(
    resources: dict[str, Resource],
) -> None:
    text = json.dumps(resources)

    assert "arn:aws:" not in text
    assert "us-east-1" not in text
