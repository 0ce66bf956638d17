"""The resources that a stack consists of, whole: function, rules, roles, queue and alarms."""

import json
import re
from graphlib import TopologicalSorter
from typing import Any

import pytest

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
RULES = ("RepositoryCreated", "PolicyChanged", "ImagePushed", "StackDeployed")
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
                    "CREATION_RULE": f"ecr-allow-pull-created-{STACK_UUID}",
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
        """A name of its own for each stack, which is the same if the repository is restored by hand."""
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
            "Input": '{"repositories": ["*"], "scheduled": true}',
            **ON_FAILURE,
        }

    @pytest.mark.parametrize(
        ("parameters", "without"),
        [
            ({"CheckOnPush": "false"}, {"ImagePushed", "ImagePushedPermission"}),
            ({"SweepOnDeploy": "false"}, {"StackDeployed", "StackDeployedPermission"}),
            ({"SweepSchedule": "none"}, {"Schedule", "ScheduleRole", "SweepMissing"}),
        ],
    )
    def test_of_a_disabled_trigger_have_no_resources(
        self, processed_template: dict[str, Any], parameters: dict[str, str], without: set[str]
    ) -> None:
        everything, reduced = deployed(processed_template), deployed(processed_template, **parameters)

        assert everything.keys() - reduced.keys() == without
        changed = {name for name in reduced if reduced[name] != everything[name]}
        assert changed <= {"DeadLetterQueuePolicy", "EventsLost"}
        rules = {rule for rule in RULES if rule in without}
        assert ("EventsLost" in changed) == bool(rules)
        assert not any(f"<{rule}>" in json.dumps(reduced["EventsLost"]) for rule in rules)


EVENTS_OF_THIS_REGION = {"account": [ACCOUNT], "region": [REGION], "source": ["aws.ecr"]}
FROM_ECR = {"eventSource": ["ecr.amazonaws.com", "replication.ecr.amazonaws.com"]}
SUCCESSFUL = {"errorCode": [{"exists": False}]}
PATTERNS = {
    "RepositoryCreated": EVENTS_OF_THIS_REGION
    | {
        "detail-type": ["AWS API Call via CloudTrail", "AWS Service Event via CloudTrail"],
        "detail": FROM_ECR | SUCCESSFUL | {"eventName": ["CreateRepository"]},
    },
    "PolicyChanged": EVENTS_OF_THIS_REGION
    | {
        "detail-type": ["AWS API Call via CloudTrail"],
        "detail": FROM_ECR
        | SUCCESSFUL
        | {
            "eventName": ["SetRepositoryPolicy", "DeleteRepositoryPolicy"],
            "requestParameters": {
                "repositoryName": [
                    {"exists": False},
                    {"anything-but": {"prefix": "ecr-allow-pull-role-check/"}},
                ]
            },
            "userIdentity": {
                "arn": [
                    {"exists": False},
                    {"anything-but": [f"arn:aws:sts::{ACCOUNT}:assumed-role/<Role>/<Function>"]},
                ]
            },
        },
    },
    "ImagePushed": EVENTS_OF_THIS_REGION
    | {
        "$or": [
            {
                "detail-type": ["ECR Image Action"],
                "detail": {"action-type": ["PUSH"], "result": ["SUCCESS"]},
            },
            {"detail-type": ["ECR Pull Through Cache Action"], "detail": {"sync-status": ["SUCCESS"]}},
            {"detail-type": ["ECR Replication Action"], "detail": {"result": ["SUCCESS"]}},
        ]
    },
    "StackDeployed": EVENTS_OF_THIS_REGION
    | {
        "source": ["aws.cloudformation"],
        "detail-type": ["CloudFormation Stack Status Change"],
        "detail": {
            "stack-id": [f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/{STACK_UUID}"],
            "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]},
        },
    },
}


class TestRules:
    def test_are_these(self, resources: Resources) -> None:
        rules = {name: dict(each) for name, each in resources.items() if "EventPattern" in each}
        descriptions = [rule.pop("Description") for rule in rules.values()]
        created = rules["RepositoryCreated"].pop("Name")

        target = {"Id": "Function", "Arn": "<Function.Arn>", **ON_FAILURE}
        assert rules == {
            name: {"EventPattern": pattern, "Targets": [target]} for name, pattern in PATTERNS.items()
        }
        assert all(descriptions)
        # The function reads the metric of this rule.
        assert created == resources["Function"]["Environment"]["Variables"]["CREATION_RULE"]

    def test_for_creations_has_a_name_that_eventbridge_and_the_function_accept(
        self, resources: Resources
    ) -> None:
        name = resources["RepositoryCreated"]["Name"]

        assert re.fullmatch(r"[.\-_A-Za-z0-9]{1,64}", name)
        assert Settings.from_environment(REQUIRED | {"CREATION_RULE": name}).creation_rule == name


class TestOrder:
    """CloudFormation creates a resource after those that it refers to, and deletes it before them."""

    WAITING = (
        *RULES,
        *(f"{rule}Permission" for rule in RULES),
        "Schedule",
        "FunctionEventInvokeConfig",
    )

    def test_of_all_that_invokes_the_function_is_after_the_permissions_of_its_code(
        self, processed_template: dict[str, Any]
    ) -> None:
        waiting = {
            name: resource["DependsOn"]
            for name, resource in processed_template["Resources"].items()
            if "DependsOn" in resource
        }

        assert waiting == {name: ["FunctionCodePolicy"] for name in self.WAITING}

    def test_is_without_a_cycle(self, processed_template: dict[str, Any]) -> None:
        resources = processed_template["Resources"]

        order = [
            *TopologicalSorter({name: references(each) for name, each in resources.items()}).static_order()
        ]

        order = [name for name in order if name in resources]
        assert sorted(order) == sorted(resources)
        for name in self.WAITING:
            assert order.index("Function") < order.index("FunctionCodePolicy") < order.index(name)


def references(part: object) -> set[str]:
    """Return the resources and parameters that a part of the template refers to."""
    match part:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
            return {name}
        case {"Fn::Sub": str(text)}:
            return {name.partition(".")[0] for name in re.findall(r"\$\{([\w.]+)\}", text)}
        case {"Fn::Sub": [str(text), dict(variables)]}:
            return (references({"Fn::Sub": text}) - variables.keys()) | references(variables)
        case dict():
            depends = set(part.get("DependsOn", []))
            return depends.union(*(references(value) for key, value in part.items() if key != "Metadata"))
        case list():
            return set[str]().union(*map(references, part))
    return set()


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
                allow("cloudwatch:GetMetricData", "*", **FROM_THE_FUNCTION),
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
            ({"CheckOnPush": "false"}, ("RepositoryCreated", "PolicyChanged", "StackDeployed")),
            ({"SweepOnDeploy": "false"}, ("RepositoryCreated", "PolicyChanged", "ImagePushed")),
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


def metric(namespace: str, name: str, dimension: str, value: str) -> dict[str, object]:
    dimensions = [{"Name": dimension, "Value": value}]
    return {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}


def ours(name: str) -> dict[str, object]:
    return metric("EcrAllowPull", name, "service", STACK)


def summed(of: dict[str, object], name: str, seconds: int) -> dict[str, object]:
    return {"Id": name, "ReturnData": False, "MetricStat": {"Stat": "Sum", "Period": seconds, "Metric": of}}


def one_or_more(periods: int, to_alarm: int | None = None) -> dict[str, object]:
    return {
        "EvaluationPeriods": periods,
        **({"DatapointsToAlarm": to_alarm} if to_alarm else {}),
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }


AT_ONCE = {"Statistic": "Sum", "Period": 300, **one_or_more(1)}
LOST_BY_RULE = ("AWS/Events", "InvocationsFailedToBeSentToDlq", "RuleName")
ALARMS = {
    "ReconcileFailed": ours("Failed") | AT_ONCE,
    "PullDenied": ours("PullsDenied") | AT_ONCE,
    "CreationEventsMissed": ours("MissedCreations") | AT_ONCE,
    "DeadLetterQueueMessageSent": AT_ONCE
    | metric("AWS/SQS", "NumberOfMessagesSent", "QueueName", "<DeadLetterQueue.QueueName>"),
    "FunctionThrottled": metric("AWS/Lambda", "Throttles", "FunctionName", "<Function>") | AT_ONCE,
    "RecurringDrift": ours("DriftCorrected") | {"Statistic": "Sum", "Period": 3600} | one_or_more(72, 3),
    "ContinuousDrift": {
        "Metrics": [
            {"Id": "drift", "Expression": "FILL(corrected, 0)", "Label": "Restored grants"},
            summed(ours("DriftCorrected"), "corrected", 60),
        ],
        **one_or_more(15, 6),
    },
    "SweepMissing": {
        "Metrics": [
            {"Id": "completed", "Expression": "FILL(sweeps, 0)", "Label": "Completed sweeps"},
            summed(ours("SweepsCompleted"), "sweeps", 86400),
        ],
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1,
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "breaching",
    },
    "EventsLost": {
        "Metrics": [
            {"Id": "lost", "Expression": "SUM(FILL(METRICS(), 0))", "Label": "Events that AWS gave up"},
            *(
                summed(metric("AWS/Lambda", name, "FunctionName", "<Function>"), identifier, 300)
                for identifier, name in (
                    ("undelivered", "DestinationDeliveryFailures"),
                    ("dropped", "AsyncEventsDropped"),
                )
            ),
            *(
                summed(metric(*LOST_BY_RULE, f"<{rule}>"), identifier, 300)
                for identifier, rule in zip(("created", "changed", "pushed", "deployed"), RULES, strict=True)
            ),
        ],
        **one_or_more(3, 1),
    },
}


def test_alarms_are_these(resources: Resources) -> None:
    """`test_alarms.py` has their descriptions and receivers, and simulates when they fire."""
    others = {"AlarmDescription", "AlarmActions", "OKActions"}

    assert {
        name: {key: value for key, value in alarm.items() if key not in others}
        for name, alarm in resources.items()
        if "AlarmDescription" in alarm
    } == ALARMS
