"""Tests the sample policies: valid actions, and decisions by the embedded AWS's evaluator of IAM policies."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

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


class TestTheServiceControlPolicy:
    @pytest.mark.parametrize(
        ("principal", "decision"), [("ecr-allow-pull-deployer", "ImplicitDeny"), ("developer", "Deny")]
    )
    @pytest.mark.parametrize(
        ("action", "resource"),
        [
            ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/ecr-allow-pull-Role-1A2B3C"),
            (
                "lambda:UpdateFunctionCode",
                f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:ecr-allow-pull-Function-1A2B3C",
            ),
        ],
    )
    def test_denies_everyone_but_the_deployer(
        self, evaluator: Evaluator, action: str, resource: str, principal: str, decision: str
    ) -> None:
        arn = f"arn:aws:iam::{ACCOUNT}:role/{principal}"

        assert evaluator.decide("service-control-policy", action, resource, arn) == decision

    def test_concerns_no_other_role(self, evaluator: Evaluator) -> None:
        other, developer = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("other", "developer"))

        assert evaluator.decide("service-control-policy", "iam:PassRole", other, developer) == "ImplicitDeny"


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
