"""Tests what each part of the sample policies decides, by the embedded AWS's evaluator of IAM policies."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import IO, Any

import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from handler.policy.denials import denials
from handler.policy.document import parse
from handler.policy.grants import PULL, Grant
from scripts.permissions_page import as_list, permissions

SAMPLES = PROJECT / "samples"
EVALUATE = """
import json, sys
from ministack.core.iam_evaluator import EvalContext, evaluate, evaluate_resource_policy
from ministack.core.iam_evaluator import parse_policy_document

for line in sys.stdin:
    task = json.loads(line)
    statements, decisions = parse_policy_document(task["policy"]), []
    for request in task["requests"]:
        context = EvalContext(**request)
        if task["of_a_resource"]:
            decisions.append(evaluate_resource_policy(task["policy"], context).decision)
        else:
            decisions.append(evaluate(context, [statements]).decision)
    print(json.dumps(decisions), flush=True)
"""
ALLOW, DENY, NEITHER = "Allow", "Deny", "ImplicitDeny"
ACCOUNT, DATA_PLANE, OTHER_ACCOUNT = "111122223333", "222222222222", "999999999999"

type Document = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request, and the decision on it by the sample alone."""

    action: str
    resource: str
    principal: str
    decision: str
    keys: dict[str, str] = field(default_factory=dict)

    def context(self) -> dict[str, object]:
        return {
            "principal_arn": self.principal,
            "principal_type": "AssumedRole",
            "principal_account": self.principal.split(":")[4],
            "action": self.action,
            "resource_arn": self.resource,
            "region": "us-east-1",
            "principal_keys": self.keys,
        }


@dataclass
class Evaluator:
    """The embedded AWS's evaluator of IAM policies, in a process of its own."""

    tasks: IO[str]
    decisions: IO[str]

    def decide(self, policy: Document, requests: Sequence[Request]) -> list[str]:
        """Return the decision of a policy on each request: Allow, Deny or ImplicitDeny."""
        of_a_resource = any("Principal" in statement for statement in policy["Statement"])
        contexts = [request.context() for request in requests]
        task = {"policy": policy, "requests": contexts, "of_a_resource": of_a_resource}
        self.tasks.write(json.dumps(task) + "\n")
        self.tasks.flush()
        decisions: list[str] = json.loads(self.decisions.readline())
        return decisions


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    with subprocess.Popen(  # noqa: S603 - the project's emulator
        [str(PROJECT / ".tools/emulator/bin/python"), "-c", EVALUATE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        yield Evaluator(process.stdin, process.stdout)


# The permissions boundary.


def boundary_requests() -> Iterator[Request]:
    role = f"arn:aws:sts::{ACCOUNT}:assumed-role/ecr-allow-pull-Role-1/function"
    limited = ("ecr:SetRepositoryPolicy", "ecr:DeleteRepositoryPolicy")
    allowed = [f"{prefix}/{name}" for prefix in ("team-a", "team-b") for name in ("app", "deep/app")]
    allowed += ["ecr-allow-pull-role-check/1", "ecr-allow-pull-role-check/2"]
    for action, region in product(limited, ("us-east-1", "eu-west-1")):
        prefix = f"arn:aws:ecr:{region}:{ACCOUNT}:repository/"
        for name in allowed:
            yield Request(action, prefix + name, role, ALLOW)
        for name in ("team-c/app", "team-a", "x/team-a/app", "ecr-allow-pull-role-check"):
            yield Request(action, prefix + name, role, NEITHER)
    for action in {one.action for one in permissions()} - {*limited}:
        for resource in (f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team-c/app", "*"):
            yield Request(action, resource, role, ALLOW)
    yield Request(
        "ecr:BatchGetImage", f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team-a/app", role, NEITHER
    )


# The service control policy.

CHANGES_OF_A_ROLE = (
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
)
# Two places that differ in all that the policy leaves open.
PLACES = (
    {"partition": "aws", "region": "us-east-1", "account": ACCOUNT, "id": "1A2B3C", "path": "team/ecr"},
    {
        "partition": "aws-cn",
        "region": "cn-north-1",
        "account": DATA_PLANE,
        "id": "4D5E6F",
        "path": "platform",
    },
)
DEPLOYER = "iam::{account}:role/{stack}-deployer"
SERVICE_ROLE = "iam::{account}:role/{stack}-cloudformation"
DEVELOPER = "iam::{account}:role/developer"
ROLES = ("iam::{account}:role/{stack}-Role-{id}", "iam::{account}:role/{path}/{stack}-Role-{id}")
SCHEDULE_ROLES = tuple(role.replace("-Role-", "-ScheduleRole-") for role in ROLES)
FUNCTION = "lambda:{region}:{account}:function:{stack}-Function-{id}"
RULES = (
    "events:{region}:{account}:rule/{stack}-PolicyChanged-{id}",
    "events:{region}:{account}:rule/ecr-allow-pull-created-{id}",
)
SCHEDULE = "scheduler:{region}:{account}:schedule/default/{stack}-Schedule-{id}"
ROLE_CHECK = "ecr:{region}:{account}:repository/ecr-allow-pull-role-check/{id}"
STACK = "cloudformation:{region}:{account}:stack/{stack}/{id}"
REPOSITORY = "ecr:{region}:{account}:repository/team/app"


@dataclass(frozen=True)
class Protected:
    """Calls on resources that everyone is denied, except some principals; allowed on the other resources."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    exempt: tuple[str, ...]
    others: tuple[str, ...]


PROTECTED = {
    "OnlyTheDeployerChangesTheStack": Protected(
        tuple(
            f"cloudformation:{name}"
            for name in (
                *("CancelUpdateStack", "ContinueUpdateRollback", "CreateChangeSet", "CreateStack"),
                *("DeleteStack", "ExecuteChangeSet", "RollbackStack", "SetStackPolicy", "UpdateStack"),
                "UpdateTerminationProtection",
            )
        ),
        (STACK,),
        (DEPLOYER,),
        ("cloudformation:{region}:{account}:stack/other/{id}",),
    ),
    # CloudFormation uses the service role of a stack for whoever updates the stack.
    "OnlyTheDeployerUsesTheDeployingRoles": Protected(
        CHANGES_OF_A_ROLE, (DEPLOYER, SERVICE_ROLE), (DEPLOYER,), ("iam::{account}:role/other",)
    ),
    "OnlyDeployersChangeTheRoles": Protected(
        CHANGES_OF_A_ROLE,
        (*ROLES, *SCHEDULE_ROLES),
        (DEPLOYER, SERVICE_ROLE),
        ("iam::{account}:role/other", "iam::{account}:role/{path}/other"),
    ),
    "OnlyDeployersChangeTheFunctionAndItsTriggers": Protected(
        tuple(
            f"lambda:{name}"
            for name in (
                *("AddPermission", "CreateFunction", "CreateFunctionUrlConfig", "DeleteFunction"),
                *("DeleteFunctionCodeSigningConfig", "DeleteFunctionConcurrency"),
                *(
                    "DeleteFunctionEventInvokeConfig",
                    "PutFunctionCodeSigningConfig",
                    "PutFunctionConcurrency",
                ),
                *("PutFunctionEventInvokeConfig", "PutFunctionRecursionConfig", "PutRuntimeManagementConfig"),
                *("RemovePermission", "UpdateFunctionCode", "UpdateFunctionConfiguration"),
                "UpdateFunctionEventInvokeConfig",
            )
        )
        + tuple(
            f"events:{name}"
            for name in ("DeleteRule", "DisableRule", "EnableRule", "PutRule", "PutTargets", "RemoveTargets")
        )
        + tuple(f"scheduler:{name}" for name in ("CreateSchedule", "DeleteSchedule", "UpdateSchedule")),
        (FUNCTION, *RULES, SCHEDULE),
        (DEPLOYER, SERVICE_ROLE),
        (
            "lambda:{region}:{account}:function:other",
            "events:{region}:{account}:rule/other",
            "scheduler:{region}:{account}:schedule/default/other",
        ),
    ),
    "OnlyTheFunctionUsesTheRoleCheck": Protected(
        tuple(
            f"ecr:{name}"
            for name in (
                *("CreateRepository", "DeleteRepository", "DeleteRepositoryPolicy", "PutImage"),
                "SetRepositoryPolicy",
            )
        ),
        (ROLE_CHECK,),
        (DEPLOYER, SERVICE_ROLE, *ROLES),
        (REPOSITORY,),
    ),
}


def service_control_requests(stack: str) -> Iterator[Request]:
    for place in PLACES:

        def arn(resource: str, place: dict[str, str] = place) -> str:
            return f"arn:{place['partition']}:{resource.format(stack=stack, **place)}"

        for calls in PROTECTED.values():
            for action in calls.actions:
                service = action.partition(":")[0]
                for resource in (each for each in calls.resources if each.startswith(f"{service}:")):
                    for principal in (DEPLOYER, SERVICE_ROLE, DEVELOPER, *ROLES, *SCHEDULE_ROLES):
                        decision = NEITHER if principal in calls.exempt else DENY
                        yield Request(action, arn(resource), arn(principal), decision)
                for resource in (each for each in calls.others if each.startswith(f"{service}:")):
                    yield Request(action, arn(resource), arn(DEVELOPER), NEITHER)
        for action, resource in (
            ("lambda:InvokeFunction", FUNCTION),
            ("cloudformation:DescribeStacks", STACK),
            ("ecr:GetRepositoryPolicy", ROLE_CHECK),
        ):
            yield Request(action, arn(resource), arn(DEVELOPER), NEITHER)


# The registry policy.


def registry_requests() -> Iterator[Request]:
    service = "aws:principalisawsservice"
    for action, name in product(
        ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchImportUpstreamImage"),
        ("team/app", "docker-hub/library/alpine"),
    ):
        resource = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{name}"
        for account in (ACCOUNT, DATA_PLANE):
            yield Request(
                action, resource, f"arn:aws:iam::{account}:role/worker", NEITHER, {service: "false"}
            )
        other = f"arn:aws:iam::{OTHER_ACCOUNT}:role/worker"
        yield Request(action, resource, other, DENY, {service: "false"})
        yield Request(action, resource, other, DENY)
        yield Request(action, resource, other, NEITHER, {service: "true"})
    resource = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app"
    yield Request("ecr:DescribeImages", resource, f"arn:aws:iam::{OTHER_ACCOUNT}:role/worker", NEITHER)


def sample(name: str, stack: str = "ecr-allow-pull") -> Document:
    """Return a sample, with the name of a stack as SECURITY.md describes."""
    text = re.sub(r"ecr-allow-pull(?!-created-|-role-check/)", stack, (SAMPLES / f"{name}.json").read_text())
    document: Document = json.loads(text)
    return document


type Mutation = tuple[str, Document, Sequence[Request]]


def mutations(document: Document, position: int, requests: Sequence[Request]) -> Iterator[Mutation]:
    """Yield each change of a statement: a part removed, narrowed or widened; the policy, and the requests.

    All actions of a service have requests for the same resources by the same principals. So one action of
    each service shows what the other parts of the statement decide.
    """
    statement = document["Statement"][position]
    actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])

    def changed(**elements: object) -> Document:
        statements = [*document["Statement"]]
        statements[position] = statement | elements
        return document | {"Statement": statements}

    for action in actions:
        kept = [each for each in actions if each != action]
        yield f"without {action}", changed(Action=kept), [each for each in requests if each.action == action]
    of_services = {action.partition(":")[0]: action for action in actions}.values()
    requests = [request for request in requests if request.action in of_services]
    for others in _changes_of(resources, [request.resource for request in requests]):
        yield f"Resource {others}", changed(Resource=others), requests
    if "Principal" in statement:
        yield "Principal", changed(Principal={"AWS": f"arn:aws:iam::{DATA_PLANE}:root"}), requests
    for operator, keys in statement.get("Condition", {}).items():
        kept_conditions = {each: tests for each, tests in statement["Condition"].items() if each != operator}
        yield f"without {operator}", changed(Condition=kept_conditions), requests
        if operator.endswith("IfExists"):
            required = {operator.removesuffix("IfExists"): keys}
            yield f"{required}", changed(Condition=kept_conditions | required), requests
        ((key, values),) = keys.items()
        for others in _changes_of(as_list(values), [request.principal for request in requests]):
            test = {operator: {key: others}}
            yield f"{test}", changed(Condition=kept_conditions | test), requests


def _changes_of(patterns: list[str], texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the patterns with one removed, with one widened to all, and with one wildcard replaced."""
    for position, pattern in enumerate(patterns):
        before, after = patterns[:position], patterns[position + 1 :]
        yield before + after or ["nothing"]
        if pattern != "*" and "arn:" in pattern:
            yield [*before, "*", *after]
        parts = pattern.split("*")
        matches = [
            match for text in texts if (match := re.fullmatch("(.+?)".join(map(re.escape, parts)), text))
        ]
        for wildcard in range(1, len(parts)):
            for text in sorted({match[wildcard] for match in matches} - {"*"}):
                yield [*before, "*".join(parts[:wildcard]) + text + "*".join(parts[wildcard:]), *after]


EFFECTS = dict(
    re.findall(
        r"^\| \[[^\]]+\]\(samples/([a-z-]+)\.json\) \| (.+) \|$",
        (PROJECT / "SECURITY.md").read_text(),
        re.MULTILINE,
    )
)
# The policies: with the name of the stack in the sample, and with another one.
POLICIES = {
    "permissions-boundary": [(sample("permissions-boundary"), [*boundary_requests()])],
    "service-control-policy": [
        (sample("service-control-policy", stack), [*service_control_requests(stack)])
        for stack in ("ecr-allow-pull", "acme-pulls")
    ],
    "registry-policy": [(sample("registry-policy"), [*registry_requests()])],
}


@pytest.mark.parametrize("name", POLICIES, ids=EFFECTS.get)
def test_a_sample_decides_as_documented(evaluator: Evaluator, name: str) -> None:
    for policy, requests in POLICIES[name]:
        decisions = evaluator.decide(policy, requests)

        assert [each for each in zip(decisions, requests, strict=True) if each[0] != each[1].decision] == []


@pytest.mark.parametrize(
    ("name", "position"),
    [
        pytest.param(name, position, id=f"{EFFECTS.get(name)}: {statement['Sid']}")
        for name, policies in POLICIES.items()
        for position, statement in enumerate(policies[-1][0]["Statement"])
    ],
)
def test_every_part_of_a_statement_decides_a_request(evaluator: Evaluator, name: str, position: int) -> None:
    """In the policy for another stack: one of the default name has one rule in two resources."""
    policy, requests = POLICIES[name][-1]

    without_effect = [
        change
        for change, mutant, affected in mutations(policy, position, requests)
        if evaluator.decide(mutant, affected) == [request.decision for request in affected]
    ]

    assert without_effect == []


def test_the_security_page_lists_the_samples() -> None:
    samples = {path.stem for path in SAMPLES.glob("*.json")}

    assert EFFECTS.keys() == POLICIES.keys() == samples - {"access-analyzer-archive-rule"}


def test_the_permissions_boundary_allows_exactly_the_actions_of_the_roles_of_the_stack() -> None:
    assert actions("permissions-boundary") == {one.action for one in permissions()}


def test_the_service_control_policy_denies_exactly_the_calls_of_these_tests_and_fits() -> None:
    document = sample("service-control-policy")

    assert {one["Sid"]: {*one["Action"]} for one in document["Statement"]} == {
        name: {*calls.actions} for name, calls in PROTECTED.items()
    }
    assert len(json.dumps(document, separators=(",", ":"))) <= 5_120  # without white space, as AWS counts


def actions(name: str) -> set[str]:
    return {action for one in sample(name)["Statement"] for action in as_list(one["Action"])}


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


def test_the_registry_policy_cannot_be_changed_by_the_role_and_is_reported_as_conditional() -> None:
    grants = [Grant(PULL, ("arn:aws:iam::222222222222:role/worker",))]
    (denial,) = denials(parse(json.dumps(sample("registry-policy"))), grants)

    assert not {"ecr:PutRegistryPolicy", "ecr:DeleteRegistryPolicy"} & {one.action for one in permissions()}
    assert denial.conditional
    assert denial.refuses_pull
