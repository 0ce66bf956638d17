"""Random policies on both sides: the verdict of `diagnose` equals that of an independent evaluator.

The evaluator knows which conditions hold, `diagnose` does not. So its verdict must be the one that all
assignments of the conditions share, and may be undecided only if they differ.
"""

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cli.access import Role
from cli.diagnose.check import Verdict
from cli.diagnose.diagnosis import diagnose
from cli.diagnose.facts import OPTIONAL, PULL, TOKEN, Facts, RegistryFacts, RoleFacts
from cli.diagnose.image import parse_image
from cli.diagnose.simulation import interpret
from cli.plan.today import RegistrySide, Today, pull_today
from tests.unit import command_line, evaluator
from tests.unit.command_line import DATA_PLANE, REGISTRY

IMAGE = parse_image(command_line.IMAGE)
ARN_PREFIX = f"{command_line.REPOSITORY_ARN}/"
ARN = f"{ARN_PREFIX}team/app"
ACTIONS = (*PULL, TOKEN)
KEYS = ("aws:SourceVpc", "aws:PrincipalTag/team")

conditions = st.sampled_from(KEYS).map(lambda key: {"Condition": {"StringEquals": {key: "x"}}})
# Most statements matter to a pull: otherwise, nearly every example is a plain denial.
actions = st.sampled_from(
    (
        *("ecr:*", "*", [*PULL], [*PULL, OPTIONAL], "ecr:*", [*PULL]),
        *("ecr:BatchGet*", "ECR:batchgetimage", "ecr:GetDownloadUrlForLayer", "ecr:Get*"),
        *("ecr:PutImage", OPTIONAL, ["ecr:PutImage", "ecr:B*"]),
    )
)
action_elements = st.one_of(
    actions.map(lambda each: {"Action": each}),
    actions.map(lambda each: {"Action": each}),
    st.sampled_from(("ecr:PutImage", "ecr:BatchGetImage", OPTIONAL)).map(lambda each: {"NotAction": each}),
)


# Hypothesis validates each new strategy, which takes longer than an example.
@cache
def principals(role: str) -> st.SearchStrategy[object]:
    account = role.split(":")[4]
    root = f"arn:aws:iam::{account}:root"
    names = st.sampled_from(
        (role, role, root, root, account, f"{role}-gpu", "arn:aws:iam::444444444444:root", "*")
    )
    return st.one_of(st.just("*"), st.lists(names, min_size=1, max_size=3).map(lambda each: {"AWS": each}))


@cache
def statements(role: str, resources: st.SearchStrategy[dict[str, object]]) -> Any:  # noqa: ANN401 - a strategy
    principal = principals(role)
    return st.lists(
        st.builds(
            lambda effect, principal, action, resource, condition: (
                {"Effect": effect} | principal | action | resource | condition
            ),
            st.sampled_from(("Allow", "Allow", "Deny")),
            st.one_of(
                principal.map(lambda each: {"Principal": each}),
                principal.map(lambda each: {"Principal": each}),
                principal.map(lambda each: {"NotPrincipal": each}),
            ),
            action_elements,
            resources,
            st.one_of(st.just({}), conditions),
        ),
        max_size=4,
    ).map(lambda each: {"Version": "2012-10-17", "Statement": each} if each else None)


no_resource: st.SearchStrategy[dict[str, object]] = st.just({})
resources: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {"Resource": "*"},
        {"Resource": ARN},
        {"Resource": f"{ARN_PREFIX}team/*"},
        {"Resource": [f"{ARN_PREFIX}ml/*", f"{ARN_PREFIX}tea?/app"]},
        {"Resource": f"{ARN_PREFIX}ml/*"},
        {"NotResource": f"{ARN_PREFIX}team/*"},
        {"NotResource": f"{ARN_PREFIX}ml/*"},
    )
)


@cache
def registry_policies(role: str) -> Any:  # noqa: ANN401 - a strategy
    return st.one_of(st.none(), statements(role, resources))


ONLY_TOKEN = {"Statement": [{"Effect": "Allow", "Action": TOKEN, "Resource": "*"}]}


identity_statements = st.lists(
    st.builds(
        lambda effect, action, resource: {"Effect": effect} | action | resource,
        st.sampled_from(("Allow", "Allow", "Allow", "Deny")),
        action_elements,
        st.one_of(st.just({"Resource": "*"}), st.just({"Resource": "*"}), resources),
    ),
    min_size=1,
    max_size=3,
).map(lambda each: {"Version": "2012-10-17", "Statement": each})
identities = st.one_of(identity_statements, st.just(ONLY_TOKEN))


def for_resource(policy: Mapping[str, Any] | None, resource: str) -> dict[str, Any] | None:
    """Return the statements of a policy that apply to a resource, by the rules of the IAM user guide."""
    if policy is None:
        return None

    def applies(statement: Mapping[str, Any]) -> bool:
        if "Resource" not in statement and "NotResource" not in statement:
            return True
        element = statement.get("Resource", statement.get("NotResource"))
        globs = {"Action": element}  # the evaluator's globs match actions; an ARN of lower case works alike
        matches = evaluator.decide(
            {"Statement": [{"Effect": "Allow", "Principal": "*"} | globs]},
            f"arn:aws:iam::{DATA_PLANE}:role/x", resource, lambda _: True,
        ) is evaluator.Decision.ALLOWED  # fmt: skip
        return matches == ("Resource" in statement)

    return {"Statement": [each for each in policy["Statement"] if applies(each)]}


def as_resource_policy(identity: Mapping[str, Any], resource: str) -> dict[str, Any]:
    document = for_resource(identity, resource)
    assert document
    return {"Statement": [each | {"Principal": "*"} for each in document["Statement"]]}


def assignments() -> Iterator[evaluator.Conditions]:
    for values in itertools.product((True, False), repeat=len(KEYS)):
        known = dict(zip(KEYS, values, strict=True))
        yield lambda condition, known=known: all(  # type: ignore[misc]
            known[key] for keys in condition.values() for key in keys
        )


def is_allowed(
    role: str,
    policies: list[Mapping[str, Any] | None],
    identity: Mapping[str, Any],
    holds: evaluator.Conditions,
) -> bool:
    """Return whether a pull gets what it needs: across accounts from both sides, within one from either."""

    def allowed(action: str) -> bool:
        resource = "*" if action == TOKEN else ARN
        own = evaluator.decide(as_resource_policy(identity, resource), role, action, holds)
        if action == TOKEN:
            return own is evaluator.Decision.ALLOWED
        others = [evaluator.decide(for_resource(policy, ARN), role, action, holds) for policy in policies]
        if evaluator.Decision.DENIED in (own, *others):
            return False
        granted = evaluator.Decision.ALLOWED in others
        if role.split(":")[4] != REGISTRY:
            return own is evaluator.Decision.ALLOWED and granted
        direct = [
            evaluator.decide(without_accounts(for_resource(policy, ARN)), role, action, holds)
            for policy in policies
        ]
        return own is evaluator.Decision.ALLOWED or evaluator.Decision.ALLOWED in direct

    return all(map(allowed, ACTIONS))


def without_accounts(policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the statements without those that only let the account allow its roles."""
    if policy is None:
        return None

    def strip(statement: dict[str, Any]) -> dict[str, Any]:
        element = statement.get("Principal")
        if not isinstance(element, dict):
            return statement
        named = [name for name in element["AWS"] if not name.endswith(":root") and not name.isdecimal()]
        return statement | {"Principal": {"AWS": named}}

    return {"Statement": [strip(each) for each in policy["Statement"]]}


def simulated(role: str, identity: Mapping[str, Any], action: str) -> Any:  # noqa: ANN401 - an answer
    resource = "*" if action == TOKEN else ARN
    decision = evaluator.decide(as_resource_policy(identity, resource), role, action, lambda _: True)
    answer = {"allowed": "allowed", "denied": "explicitDeny", "neither": "implicitDeny"}[
        decision.name.lower()
    ]
    if answer == "allowed" and resource != "*" and role.split(":")[4] != REGISTRY:
        # Across accounts, AWS also expects the repository's policy, and answers with details.
        return interpret({"EvalActionName": action, "EvalDecision": "implicitDeny", "EvalDecisionDetails": {"IAM Policy": "allowed"}})  # fmt: skip # noqa: E501
    return interpret({"EvalActionName": action, "EvalDecision": answer})  # type: ignore[typeddict-item]


ROLES = st.sampled_from((f"arn:aws:iam::{DATA_PLANE}:role/eks/node", f"arn:aws:iam::{REGISTRY}:role/node"))


@settings(max_examples=600)
@given(st.data())
def test_the_verdict_is_the_one_that_every_assignment_of_the_conditions_gives(data: st.DataObject) -> None:
    role = data.draw(ROLES)
    repository = data.draw(statements(role, no_resource))
    registry = data.draw(registry_policies(role))
    identity = data.draw(identities)
    side = RoleFacts(role, {action: simulated(role, identity, action) for action in (*ACTIONS, OPTIONAL)})
    facts = Facts(IMAGE, Role(role), RegistryFacts(policy=repository, registry_policy=registry), side)

    diagnosis = diagnose(facts)

    outcomes = {is_allowed(role, [repository, registry], identity, holds) for holds in assignments()}
    if outcomes == {True}:
        assert diagnosis.verdict is Verdict.ALLOWED or undecided_by_condition(diagnosis, repository, registry)
    elif outcomes == {False}:
        assert diagnosis.verdict is Verdict.DENIED or undecided_by_condition(diagnosis, repository, registry)
    else:
        assert diagnosis.verdict is Verdict.UNDECIDED
    assert diagnosis.reason


def undecided_by_condition(diagnosis: Any, *policies: Mapping[str, Any] | None) -> bool:  # noqa: ANN401
    """Return whether a condition is involved: two conditions together may leave no choice."""
    has_condition = any("Condition" in each for policy in policies if policy for each in policy["Statement"])
    return has_condition and diagnosis.verdict is Verdict.UNDECIDED


@settings(max_examples=300)
@given(st.data())
def test_who_is_denied_today_is_what_every_assignment_of_the_conditions_gives(data: st.DataObject) -> None:
    role = f"arn:aws:iam::{DATA_PLANE}:role/eks/node"
    repository = data.draw(statements(role, no_resource))
    registry = data.draw(registry_policies(role))
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}

    today, _ = pull_today("team/app", repository, RegistrySide(registry, "V2", ARN_PREFIX), [role])

    outcomes = {is_allowed(role, [repository, registry], everything, holds) for holds in assignments()}
    if today is not Today.CONDITIONAL:
        assert outcomes == {today is Today.ALLOWED}
    assert today is not Today.CONDITIONAL or "Condition" in str((repository, registry))
