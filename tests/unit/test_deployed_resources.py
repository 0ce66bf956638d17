"""The resources that a stack consists of, whole: functions, roles, queue, alarms and queries."""

import json
import shlex
from typing import Any

import pytest

from handler.events.request import Request
from handler.reconcile.result import Outcome
from handler.report.report import Report
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.cloudformation import (
    ACCOUNT,
    REGION,
    ROLE_ARN,
    STACK,
    STACK_UUID,
    Evaluator,
    Resources,
    deployed,
)

QUEUE = "<DeadLetterQueue.Arn>"
ON_FAILURE = {"DeadLetterConfig": {"Arn": QUEUE}}
RULES = ("FunctionRepositoryCreated", "FunctionPolicyChanged", "ImagePushed", "StackDeployed")
ALL_REPOSITORIES = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/*"
FROM_THE_FUNCTION = {"Condition": {"ArnEquals": {"lambda:SourceFunctionArn": "<Function.Arn>"}}}


@pytest.fixture(scope="module")
def resources(processed_template: dict[str, Any]) -> Resources:
    return deployed(processed_template)


def policy(*statements: object) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action: object, resource: str, **others: object) -> dict[str, object]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **others}


def trust(service: str, **others: object) -> dict[str, object]:
    return policy(
        {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", **others}
    )


class TestTheFunction:
    def test_has_exactly_these_properties(self, resources: Resources) -> None:
        function = {name: value for name, value in resources["Function"].items() if name != "Description"}

        assert function.pop("Code")
        assert function.pop("Tags")
        assert function == {
            "Handler": "handler.app.lambda_handler",
            "Runtime": "python3.13",
            "Architectures": ["arm64"],
            "MemorySize": 1024,
            "Timeout": 900,
            "Role": "<Role.Arn>",
            "RecursiveLoop": "Allow",
            "LoggingConfig": {
                "LogGroup": "<LogGroup>",
                "LogFormat": "JSON",
                "ApplicationLogLevel": "INFO",
            },
            "TracingConfig": {"Mode": "Active"},
            "Environment": {
                "Variables": {
                    "WORKER_ROLE_ARNS": ROLE_ARN,
                    "DESCRIBE_ROLE_ARNS": "none",
                    "REPOSITORIES": "*",
                    "PULL_THROUGH_CACHE_REPOSITORIES": "none",
                    "MODE": "enforce",
                    "REMOVE_UNLISTED_ROLES": "false",
                    "ROLE_NAME": "<Role>",
                    "ROLE_CHECK_REPOSITORY": "<RoleCheckRepository>",
                    "POWERTOOLS_SERVICE_NAME": STACK,
                    "POWERTOOLS_LOG_LEVEL": "INFO",
                }
            },
        }

    @pytest.mark.parametrize(
        ("level", "of_lambda"), [("DEBUG", "DEBUG"), ("INFO", "INFO"), ("WARN", "INFO"), ("ERROR", "INFO")]
    )
    def test_keeps_its_metrics_at_every_log_level(
        self, processed_template: dict[str, Any], level: str, of_lambda: str
    ) -> None:
        """Metrics are lines at INFO. Lambda would drop them; the function's own logger doesn't see them."""
        function = deployed(processed_template, LogLevel=level)["Function"]

        assert function["LoggingConfig"]["ApplicationLogLevel"] == of_lambda
        assert function["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == level

    @pytest.mark.parametrize(("parameter", "expected"), [("none", None), ("5", "5")])
    def test_reserves_concurrency_only_on_request(
        self, processed_template: dict[str, Any], parameter: str, expected: str | None
    ) -> None:
        function = deployed(processed_template, MaxConcurrency=parameter)["Function"]

        assert function.get("ReservedConcurrentExecutions") == expected

    def test_has_two_retries_and_then_sends_the_event_to_the_queue(self, resources: Resources) -> None:
        assert resources["FunctionEventInvokeConfig"] == {
            "FunctionName": "<Function>",
            "Qualifier": "$LATEST",
            "MaximumRetryAttempts": 2,
            "DestinationConfig": {"OnFailure": {"Destination": QUEUE}},
        }

    def test_logs_to_a_group_that_keeps_the_lines_for_the_requested_days(
        self, processed_template: dict[str, Any]
    ) -> None:
        group = deployed(processed_template, LogRetentionInDays="30")["LogGroup"]

        assert group == {"LogGroupName": f"/aws/lambda/{STACK}", "RetentionInDays": "30"}


class TestTheRoleCheckRepository:
    def test_is_named_after_the_id_of_the_stack(self, resources: Resources) -> None:
        """A name of its own for each stack, which is the same if somebody restores the repository by hand."""
        repository = dict(resources["RoleCheckRepository"])
        lifecycle = json.loads(repository.pop("LifecyclePolicy")["LifecyclePolicyText"])

        assert repository == {
            "RepositoryName": f"ecr-allow-pull-role-check/{STACK_UUID}",
            "EmptyOnDelete": True,
            "ImageScanningConfiguration": {"ScanOnPush": True},
            "ImageTagMutability": "IMMUTABLE",
        }
        (rule,) = lifecycle["rules"]
        assert rule["action"] == {"type": "expire"}
        assert rule["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1}

    @pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
    def test_has_a_name_that_ecr_and_the_function_accept(
        self, processed_template: dict[str, Any], partition: str
    ) -> None:
        name = Evaluator(processed_template, partition=partition).resources()["RoleCheckRepository"][
            "RepositoryName"
        ]
        settings = Settings.from_environment(REQUIRED | {"ROLE_CHECK_REPOSITORY": name})

        assert settings.role_check_repository == name
        assert name not in settings.scope

    @pytest.mark.parametrize(
        "parameters", [{"Mode": "plan"}, {"SweepSchedule": "none"}, {"CreationTemplatePrefix": "ROOT"}]
    )
    def test_exists_whatever_the_parameters_are(
        self, processed_template: dict[str, Any], parameters: dict[str, str]
    ) -> None:
        assert "RoleCheckRepository" in deployed(processed_template, **parameters)


class TestInvocations:
    @pytest.mark.parametrize("rule", RULES)
    def test_of_a_rule_are_permitted_for_that_rule_only(self, resources: Resources, rule: str) -> None:
        (permission,) = (each for each in resources.values() if each.get("SourceArn") == f"<{rule}.Arn>")

        assert permission == {
            "Action": "lambda:InvokeFunction",
            "FunctionName": "<Function>",
            "Principal": "events.amazonaws.com",
            "SourceArn": f"<{rule}.Arn>",
        }

    def test_have_no_other_permission(self, resources: Resources) -> None:
        permitted = [each for each in resources.values() if each.get("Action") == "lambda:InvokeFunction"]

        assert len(permitted) == len(RULES)

    @pytest.mark.parametrize("rule", RULES)
    def test_that_a_rule_cannot_deliver_go_to_the_queue(self, resources: Resources, rule: str) -> None:
        (target,) = resources[rule]["Targets"]

        assert {key: value for key, value in target.items() if key != "Id"} == {
            "Arn": "<Function.Arn>", **ON_FAILURE,
        }  # fmt: skip

    def test_of_the_schedule_have_the_payload_of_a_sweep(self, resources: Resources) -> None:
        schedule = resources["Schedule"]

        assert schedule["ScheduleExpression"] == "rate(1 day)"
        assert schedule["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15}
        assert schedule["Target"] == {
            "Arn": "<Function.Arn>",
            "RoleArn": "<ScheduleRole.Arn>",
            "Input": '{"repositories": ["*"]}',
            **ON_FAILURE,
        }

    @pytest.mark.parametrize(
        ("parameters", "without"),
        [
            ({"CheckOnPush": "false"}, {"ImagePushed", "ImagePushedPermission"}),
            ({"SweepOnDeploy": "false"}, {"StackDeployed", "StackDeployedPermission"}),
            ({"SweepSchedule": "none"}, {"Schedule", "ScheduleRole"}),
        ],
    )
    def test_of_a_disabled_trigger_have_no_resources(
        self, processed_template: dict[str, Any], parameters: dict[str, str], without: set[str]
    ) -> None:
        everything, reduced = deployed(processed_template), deployed(processed_template, **parameters)

        assert everything.keys() - reduced.keys() == without
        changed = {name for name in reduced if reduced[name] != everything[name]}
        assert changed <= {"DeadLetterQueuePolicy"}


class TestRoles:
    def test_that_of_the_function(self, resources: Resources) -> None:
        role = resources["Role"]

        assert role.keys() == {"Description", "Path", "AssumeRolePolicyDocument", "Policies"}
        assert role["Path"] == "/"
        assert role["AssumeRolePolicyDocument"] == trust("lambda.amazonaws.com")
        # Lambda makes two of these calls without lambda:SourceFunctionArn. A wrong condition on the others
        # would silence the log and the alarms.
        assert {one["PolicyName"]: one["PolicyDocument"] for one in role["Policies"]} == {
            "WriteLog": policy(allow(["logs:CreateLogStream", "logs:PutLogEvents"], "<LogGroup.Arn>")),
            "SendToDeadLetterQueue": policy(allow("sqs:SendMessage", QUEUE)),
            "Trace": policy(allow(["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*")),
        }

    @pytest.mark.parametrize(
        ("mode", "writable", "further"),
        [
            ("enforce", ALL_REPOSITORIES, []),
            # It tries policies, but only in its own repository.
            ("plan", "<RoleCheckRepository.Arn>", []),
            ("remove", ALL_REPOSITORIES, ["ecr:DeleteRepositoryPolicy"]),
        ],
    )
    def test_that_of_the_function_reaches_ecr_from_the_code_of_the_function_only(
        self, processed_template: dict[str, Any], mode: str, writable: str, further: list[str]
    ) -> None:
        reads = ["ecr:DescribeRepositories", "ecr:GetRepositoryPolicy"]

        assert deployed(processed_template, Mode=mode)["FunctionCodePolicy"] == {
            "PolicyName": "CallsFromFunctionCode",
            "Roles": ["<Role>"],
            "PolicyDocument": policy(
                allow(reads, ALL_REPOSITORIES, **FROM_THE_FUNCTION),
                allow("ecr:SetRepositoryPolicy", writable, **FROM_THE_FUNCTION),
                *(allow(action, ALL_REPOSITORIES, **FROM_THE_FUNCTION) for action in further),
                allow("ecr:GetRegistryPolicy", "*", **FROM_THE_FUNCTION),
                allow("lambda:InvokeFunction", "<Function.Arn>", **FROM_THE_FUNCTION),
            ),
        }

    def test_that_of_the_schedule(self, resources: Resources) -> None:
        role = resources["ScheduleRole"]

        assert role.keys() == {"Description", "Path", "AssumeRolePolicyDocument", "Policies"}
        assert role["Path"] == "/"
        assert role["AssumeRolePolicyDocument"] == trust(
            "scheduler.amazonaws.com", Condition={"StringEquals": {"aws:SourceAccount": ACCOUNT}}
        )
        assert [one["PolicyDocument"] for one in role["Policies"]] == [
            policy(allow("lambda:InvokeFunction", "<Function.Arn>"), allow("sqs:SendMessage", QUEUE))
        ]

    def test_have_the_requested_permissions_boundary(self, processed_template: dict[str, Any]) -> None:
        boundary = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
        resources = deployed(processed_template, PermissionsBoundaryArn=boundary)

        roles = [each for each in resources.values() if "AssumeRolePolicyDocument" in each]

        assert [role["PermissionsBoundary"] for role in roles] == [boundary, boundary]

    def test_have_the_requested_path_which_is_not_in_the_name_and_the_session_of_the_role(
        self, processed_template: dict[str, Any]
    ) -> None:
        default, resources = deployed(processed_template), deployed(processed_template, RolePath="/team/ecr/")

        roles = [each for each in resources.values() if "AssumeRolePolicyDocument" in each]

        assert [role["Path"] for role in roles] == ["/team/ecr/", "/team/ecr/"]
        changed = {name for name in resources if resources[name] != default[name]}
        assert changed == {"Role", "ScheduleRole"}


class TestTheDeadLetterQueue:
    def test_keeps_messages_for_14_days_encrypted(self, resources: Resources) -> None:
        expected = {"MessageRetentionPeriod": 14 * 24 * 3600, "SqsManagedSseEnabled": True}

        assert resources["DeadLetterQueue"] == expected

    @pytest.mark.parametrize(
        ("parameters", "rules"),
        [
            ({}, RULES),
            (
                {"CheckOnPush": "false"},
                ("FunctionRepositoryCreated", "FunctionPolicyChanged", "StackDeployed"),
            ),
            (
                {"SweepOnDeploy": "false"},
                ("FunctionRepositoryCreated", "FunctionPolicyChanged", "ImagePushed"),
            ),
        ],
    )
    def test_takes_messages_of_the_rules_only_and_over_tls_only(
        self, processed_template: dict[str, Any], parameters: dict[str, str], rules: tuple[str, ...]
    ) -> None:
        resources = deployed(processed_template, **parameters)

        assert resources["DeadLetterQueuePolicy"] == {
            "Queues": ["<DeadLetterQueue>"],
            "PolicyDocument": policy(
                allow(
                    "sqs:SendMessage",
                    QUEUE,
                    Sid="AllowRulesToSend",
                    Principal={"Service": "events.amazonaws.com"},
                    Condition={"ArnEquals": {"aws:SourceArn": [f"<{rule}.Arn>" for rule in rules]}},
                ),
                {
                    "Sid": "DenyInsecureTransport",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sqs:*",
                    "Resource": QUEUE,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                },
            ),
        }


# Namespace, metric, dimension, period in seconds, evaluation periods, and of these how many for an alarm.
ALARMS = {
    "DeadLetterQueueMessageSent": (
        *("AWS/SQS", "NumberOfMessagesSent", ("QueueName", "<DeadLetterQueue.QueueName>"), 300, 1, None),
    ),
    "ReconcileFailed": ("EcrAllowPull", "Failed", ("service", STACK), 300, 1, None),
    "PullDenied": ("EcrAllowPull", "PullsDenied", ("service", STACK), 300, 1, None),
    "FunctionThrottled": ("AWS/Lambda", "Throttles", ("FunctionName", "<Function>"), 300, 1, None),
    "RecurringDrift": ("EcrAllowPull", "DriftCorrected", ("service", STACK), 3600, 72, 3),
}


class TestAlarms:
    def test_are_these(self, resources: Resources) -> None:
        alarms = {name: each for name, each in resources.items() if "AlarmDescription" in each}

        assert {
            name: (
                alarm["Namespace"],
                alarm["MetricName"],
                *((one["Name"], one["Value"]) for one in alarm["Dimensions"]),
                alarm["Period"],
                alarm["EvaluationPeriods"],
                alarm.get("DatapointsToAlarm"),
            )
            for name, alarm in alarms.items()
        } == ALARMS

    @pytest.mark.parametrize("name", ALARMS)
    def test_go_off_at_a_sum_of_one(self, resources: Resources, name: str) -> None:
        alarm = resources[name]

        assert (alarm["Statistic"], alarm["ComparisonOperator"], alarm["Threshold"]) == (
            "Sum",
            "GreaterThanOrEqualToThreshold",
            1,
        )
        assert alarm["TreatMissingData"] == "notBreaching"

    @pytest.mark.parametrize("name", ALARMS)
    def test_notify_the_email_address_of_the_stack(
        self, processed_template: dict[str, Any], name: str
    ) -> None:
        resources = deployed(processed_template, AlarmEmail="rota@example.com")

        assert resources["AlarmTopic"]["Subscription"] == [
            {"Protocol": "email", "Endpoint": "rota@example.com"}
        ]
        assert resources[name]["AlarmActions"] == ["<AlarmTopic>"]
        on_recovery = ["<AlarmTopic>"] if name == "FunctionThrottled" else None
        assert resources[name].get("OKActions") == on_recovery

    @pytest.mark.parametrize("name", ALARMS)
    def test_notify_nobody_without_an_email_address(self, resources: Resources, name: str) -> None:
        assert "AlarmTopic" not in resources
        assert "AlarmActions" not in resources[name]
        assert "OKActions" not in resources[name]


# The name of each saved query, and what it keeps of the log.
QUERIES = {
    "repository history": 'repository = "team/app"',
    "changes": 'ispresent(repository) and @message like /"(added|removed)":/',
    "reports": 'message = "report"',
    "failed repositories": 'message = "reconcile failed"',
    "unlisted principals": 'message = "unlisted principals"',
    "recurring drift": 'message = "drift corrected"',
    "warnings and errors": 'level in ["WARNING", "ERROR", "CRITICAL"]',
}


def test_saved_queries_filter_the_function_log(resources: Resources) -> None:
    queries = [each for each in resources.values() if "QueryString" in each]

    assert {one["Name"].removeprefix(f"{STACK}/"): filters(one["QueryString"]) for one in queries} == {
        name: [condition] for name, condition in QUERIES.items()
    }
    assert all(one["LogGroupNames"] == ["<LogGroup>"] for one in queries)


def test_the_query_of_reports_names_fields_that_a_report_has(resources: Resources) -> None:
    (query,) = (each["QueryString"] for each in resources.values() if each.get("Name") == f"{STACK}/reports")
    report = Report(Request(("*",)), dry_run=False)
    report.end((), continued=True)

    first_line, *_ = query.splitlines()
    fields = set(first_line.removeprefix("fields ").split(", ")) - {
        "@timestamp",
        "@message",
        "correlation_id",
    }
    outcomes = {field.removeprefix("outcomes.") for field in fields if field.startswith("outcomes.")}
    assert {"failed", "incomplete"} <= outcomes <= set(Outcome)
    assert {field.partition(".")[0] for field in fields} <= report.response().keys()


def filters(query: str) -> list[str]:
    commands = [line.strip(" |") for line in query.splitlines()]
    return [line.removeprefix("filter ") for line in commands if line.startswith("filter ")]


def test_dashboard_shows_metrics_of_this_stack_in_this_region(resources: Resources) -> None:
    dashboard = resources["Dashboard"]
    widgets = [widget["properties"] for widget in json.loads(dashboard["DashboardBody"])["widgets"]]

    assert dashboard["DashboardName"] == f"{STACK}-{REGION}"
    assert {widget["region"] for widget in widgets} == {REGION}
    dimensions = {tuple(line[2:4]) for widget in widgets for line in widget.get("metrics", [])}
    assert dimensions == {
        ("service", STACK),
        ("QueueName", "<DeadLetterQueue.QueueName>"),
        ("FunctionName", "<Function>"),
    }


def test_sweep_command_invokes_the_function_asynchronously_for_all_repositories(
    processed_template: dict[str, Any],
) -> None:
    command = Evaluator(processed_template).evaluate(processed_template["Outputs"]["SweepCommand"]["Value"])

    assert shlex.split(command) == [
        *("aws", "lambda", "invoke", "--region", REGION, "--function-name", "<Function>"),
        *("--invocation-type", "Event", "--cli-binary-format", "raw-in-base64-out"),
        *("--payload", '{"repositories":["*"]}', "/dev/null"),
    ]
