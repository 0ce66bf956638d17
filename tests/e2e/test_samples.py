"""Tests the sample policies: valid actions, and decisions by the embedded AWS's evaluator of IAM policies."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from handler.policy.denials import denials
from handler.policy.document import parse
from handler.policy.grants import PULL, Grant
from scripts.permissions_page import permissions

SAMPLES = PROJECT / "samples"
EVALUATE = """
import json, sys
from ministack.core.iam_evaluator import EvalContext, evaluate, evaluate_resource_policy
from ministack.core.iam_evaluator import parse_policy_document

for line in sys.stdin:
    request = json.loads(line)
    context = EvalContext(**request["context"])
    if request["of_a_resource"]:
        decision = evaluate_resource_policy(request["policy"], context).decision
    else:
        decision = evaluate(context, [parse_policy_document(request["policy"])]).decision
    print(decision, flush=True)
"""
ACCOUNT = "111122223333"


def sample(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return document


def actions(document: dict[str, Any]) -> set[str]:
    found = [one["Action"] for one in document["Statement"]]
    return {action for each in found for action in (each if isinstance(each, list) else [each])}


@dataclass
class Evaluator:
    """The embedded AWS's evaluator of IAM policies, in a process of its own."""

    requests: IO[str]
    decisions: IO[str]

    def decide(
        self,
        name: str,
        action: str,
        resource: str,
        principal: str,
        *,
        of_a_resource: bool = False,
        **keys: str,
    ) -> str:
        """Return the decision on a sample alone: Allow, Deny or ImplicitDeny."""
        context = {
            "principal_arn": principal,
            "principal_type": "AssumedRole",
            "principal_account": principal.split(":")[4],
            "action": action,
            "resource_arn": resource,
            "region": "us-east-1",
            "principal_keys": keys,
        }
        request = {"policy": sample(name), "context": context, "of_a_resource": of_a_resource}
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()
        return self.decisions.readline().strip()


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    with subprocess.Popen(  # noqa: S603 - the project's emulator
        [str(PROJECT / ".tools/emulator/bin/python"), "-c", EVALUATE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        yield Evaluator(process.stdin, process.stdout)


class TestThePermissionsBoundary:
    ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/ecr-allow-pull-Role-1/function"

    def test_allows_exactly_the_actions_of_the_roles_of_the_stack(self) -> None:
        assert actions(sample("permissions-boundary")) == {one.action for one in permissions()}

    @pytest.mark.parametrize(
        ("action", "repository", "decision"),
        [
            ("ecr:SetRepositoryPolicy", "team-a/app", "Allow"),
            ("ecr:SetRepositoryPolicy", "team-b/deep/app", "Allow"),
            ("ecr:SetRepositoryPolicy", "team-c/app", "ImplicitDeny"),
            ("ecr:SetRepositoryPolicy", "team-a", "ImplicitDeny"),
            ("ecr:GetRepositoryPolicy", "team-c/app", "Allow"),
            ("ecr:BatchGetImage", "team-a/app", "ImplicitDeny"),
        ],
    )
    def test_limits_writes_to_the_prefixes(
        self, evaluator: Evaluator, action: str, repository: str, decision: str
    ) -> None:
        resource = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{repository}"

        assert evaluator.decide("permissions-boundary", action, resource, self.ROLE) == decision


STACK = "cloudformation:*:{account}:stack/ecr-allow-pull/51af3dc0-da77-11e4-872e-1234567db123"
FUNCTION = "lambda:us-east-1:{account}:function:ecr-allow-pull-Function-1A2B3C"
RULE = "events:us-east-1:{account}:rule/ecr-allow-pull-PolicyChanged-1A2B3C"
CREATION_RULE = "events:us-east-1:{account}:rule/ecr-allow-pull-created-51af3dc0-da77-11e4-872e-1234567db123"
ROLE_CHECK = (
    "ecr:us-east-1:{account}:repository/ecr-allow-pull-role-check/51af3dc0-da77-11e4-872e-1234567db123"
)
SCHEDULE = "scheduler:us-east-1:{account}:schedule/default/ecr-allow-pull-Schedule-1A2B3C"
ROLE = "iam::{account}:role/ecr-allow-pull-Role-1A2B3C"
ROLE_WITH_PATH = "iam::{account}:role/team/ecr/ecr-allow-pull-Role-1A2B3C"
SCHEDULE_ROLE = "iam::{account}:role/ecr-allow-pull-ScheduleRole-1A2B3C"
DEPLOYER = "iam::{account}:role/ecr-allow-pull-deployer"
SERVICE_ROLE = "iam::{account}:role/ecr-allow-pull-cloudformation"
CHANGES_OF_A_ROLE = {
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePermissionsBoundary",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:PassRole",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
    "iam:UpdateAssumeRolePolicy",
}
# Calls that open something, by their resources: calls of the deployer alone, and calls of CloudFormation too.
CALLS_OF_THE_DEPLOYER = {
    (STACK,): {
        "cloudformation:CancelUpdateStack",
        "cloudformation:ContinueUpdateRollback",
        "cloudformation:CreateChangeSet",
        "cloudformation:CreateStack",
        "cloudformation:DeleteStack",
        "cloudformation:ExecuteChangeSet",
        "cloudformation:RollbackStack",
        "cloudformation:SetStackPolicy",
        "cloudformation:UpdateStack",
        "cloudformation:UpdateTerminationProtection",
    },
    (DEPLOYER, SERVICE_ROLE): CHANGES_OF_A_ROLE,
}
CALLS_OF_BOTH = {
    (ROLE, ROLE_WITH_PATH, SCHEDULE_ROLE): CHANGES_OF_A_ROLE,
    (FUNCTION,): {
        "lambda:AddPermission",
        "lambda:CreateFunction",
        "lambda:CreateFunctionUrlConfig",
        "lambda:DeleteFunction",
        "lambda:DeleteFunctionCodeSigningConfig",
        "lambda:DeleteFunctionConcurrency",
        "lambda:DeleteFunctionEventInvokeConfig",
        "lambda:PutFunctionCodeSigningConfig",
        "lambda:PutFunctionConcurrency",
        "lambda:PutFunctionEventInvokeConfig",
        "lambda:PutFunctionRecursionConfig",
        "lambda:PutRuntimeManagementConfig",
        "lambda:RemovePermission",
        "lambda:UpdateFunctionCode",
        "lambda:UpdateFunctionConfiguration",
        "lambda:UpdateFunctionEventInvokeConfig",
    },
    (RULE, CREATION_RULE): {
        "events:DeleteRule",
        "events:DisableRule",
        "events:EnableRule",
        "events:PutRule",
        "events:PutTargets",
        "events:RemoveTargets",
    },
    (SCHEDULE,): {"scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:UpdateSchedule"},
    (ROLE_CHECK,): {
        "ecr:CreateRepository",
        "ecr:DeleteRepository",
        "ecr:DeleteRepositoryPolicy",
        "ecr:PutImage",
        "ecr:SetRepositoryPolicy",
    },
}


def calls(by_resources: dict[tuple[str, ...], set[str]]) -> list[tuple[str, str]]:
    return [
        (action, resource)
        for resources, actions in by_resources.items()
        for action in sorted(actions)
        for resource in resources
    ]


def arn(resource: str, partition: str = "aws") -> str:
    return f"arn:{partition}:{resource.format(account=ACCOUNT)}"


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
class TestTheServiceControlPolicy:
    NAME = "service-control-policy"
    DEVELOPER = "iam::{account}:role/developer"

    @pytest.mark.parametrize(("action", "resource"), calls(CALLS_OF_THE_DEPLOYER))
    def test_denies_everyone_but_the_deployer(
        self, evaluator: Evaluator, action: str, resource: str, partition: str
    ) -> None:
        """CloudFormation uses the service role of a stack for whoever updates the stack."""
        decisions = [
            evaluator.decide(self.NAME, action, arn(resource, partition), arn(principal, partition))
            for principal in (DEPLOYER, SERVICE_ROLE, self.DEVELOPER)
        ]

        assert decisions == ["ImplicitDeny", "Deny", "Deny"]

    @pytest.mark.parametrize(("action", "resource"), calls(CALLS_OF_BOTH))
    def test_denies_everyone_but_the_deployer_and_its_service_role(
        self, evaluator: Evaluator, action: str, resource: str, partition: str
    ) -> None:
        decisions = [
            evaluator.decide(self.NAME, action, arn(resource, partition), arn(principal, partition))
            for principal in (DEPLOYER, SERVICE_ROLE, self.DEVELOPER)
        ]

        assert decisions == ["ImplicitDeny", "ImplicitDeny", "Deny"]

    @pytest.mark.parametrize("role", [ROLE, ROLE_WITH_PATH])
    def test_lets_the_function_check_roles(self, evaluator: Evaluator, role: str, partition: str) -> None:
        call = ("ecr:SetRepositoryPolicy", arn(ROLE_CHECK, partition))

        assert evaluator.decide(self.NAME, *call, arn(role, partition)) == "ImplicitDeny"

    @pytest.mark.parametrize(
        ("action", "resource"),
        [
            ("ecr:SetRepositoryPolicy", "ecr:us-east-1:{account}:repository/team/app"),
            ("iam:PassRole", "iam::{account}:role/other"),
            ("lambda:UpdateFunctionCode", "lambda:us-east-1:{account}:function:other"),
            ("cloudformation:UpdateStack", "cloudformation:us-east-1:{account}:stack/other/1"),
            ("lambda:InvokeFunction", FUNCTION),
            ("cloudformation:DescribeStacks", STACK),
        ],
    )
    def test_concerns_no_other_resource_and_no_other_call(
        self, evaluator: Evaluator, action: str, resource: str, partition: str
    ) -> None:
        decision = evaluator.decide(
            self.NAME, action, arn(resource, partition), arn(self.DEVELOPER, partition)
        )

        assert decision == "ImplicitDeny"


def test_the_service_control_policy_denies_exactly_the_calls_of_these_tests_and_fits() -> None:
    document = sample("service-control-policy")

    assert actions(document) == {action for action, _ in calls(CALLS_OF_THE_DEPLOYER | CALLS_OF_BOTH)}
    assert len(json.dumps(document, separators=(",", ":"))) <= 5_120  # without white space, as AWS counts


def test_the_service_control_policy_matches_the_names_of_the_stacks_resources() -> None:
    """CloudFormation names a resource after the stack, the logical id and random characters."""
    resources = yaml_parse((PROJECT / "template.yaml").read_text())["Resources"]

    for resource in (
        "Function",
        "Role",
        "ScheduleRole",
        "Schedule",
        "PolicyChanged",
        "ImagePushed",
        "StackDeployed",
    ):
        assert (
            not {"FunctionName", "RoleName", "Name", "GroupName"} & resources[resource]["Properties"].keys()
        )


def test_the_archive_rule_is_a_filter_for_the_grants_of_the_worker_role() -> None:
    """A finding as Access Analyzer shows it, reduced to what the filter reads."""
    rule = sample("access-analyzer-archive-rule")
    model = get_session().get_service_model("accessanalyzer")
    shape = model.operation_model("CreateArchiveRule").input_shape
    assert shape
    worker = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
    of_a_grant = {"resourceType": "AWS::ECR::Repository", "principal.AWS": worker, "isPublic": "false"}
    others = [
        of_a_grant | {"principal.AWS": "222222222222"},
        of_a_grant | {"isPublic": "true"},
        of_a_grant | {"resourceType": "AWS::S3::Bucket"},
    ]

    validate_parameters({"analyzerName": "a", "ruleName": "r", "filter": rule}, shape)

    def archives(finding: dict[str, str]) -> bool:
        return all(finding[key] in criterion["eq"] for key, criterion in rule.items())

    assert archives(of_a_grant)
    assert not any(map(archives, others))


class TestTheRegistryPolicy:
    @pytest.mark.parametrize(
        ("account", "is_service", "decision"),
        [
            (ACCOUNT, "false", "ImplicitDeny"),
            ("222222222222", "false", "ImplicitDeny"),
            ("999999999999", "false", "Deny"),
            ("999999999999", "true", "ImplicitDeny"),
        ],
    )
    def test_denies_pulls_by_other_accounts(
        self, evaluator: Evaluator, account: str, is_service: str, decision: str
    ) -> None:
        keys = {"aws:principalisawsservice": is_service}
        resource = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app"
        principal = f"arn:aws:iam::{account}:role/worker"

        for action in ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"):
            assert (
                evaluator.decide("registry-policy", action, resource, principal, of_a_resource=True, **keys)
                == decision
            )

    def test_cannot_be_changed_by_the_role_and_is_reported_as_conditional(self) -> None:
        grants = [Grant(PULL, ("arn:aws:iam::222222222222:role/worker",))]
        (denial,) = denials(parse(json.dumps(sample("registry-policy"))), grants)

        assert not {"ecr:PutRegistryPolicy", "ecr:DeleteRegistryPolicy"} & {
            one.action for one in permissions()
        }
        assert denial.conditional
        assert denial.refuses_pull
