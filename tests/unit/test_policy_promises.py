"""The guarantees of `attach`, tested on random policies with an independent policy evaluator."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from handler.policy import PULL_ACTIONS, attach, granted
from handler.policy_document import Policy, Statement, parse
from tests.unit.evaluator import Decision, decide

WORKERS = [f"arn:aws:iam::22222222222{n}:role/unionai-acme-flyteworker-node-group" for n in range(4)]
OTHER_PRINCIPALS = [
    "arn:aws:iam::111122223333:role/ci",
    "arn:aws:iam::444444444444:role/path/vendor",
    "arn:aws:iam::222222222220:role/another-role-of-a-workers-account",
    "arn:aws:iam::444444444444:user/operator",
]
NAMED = [
    *WORKERS,
    *OTHER_PRINCIPALS,
    "444444444444",
    "arn:aws:iam::222222222221:root",
    "AROAEXAMPLEEXAMPLEEXA",
]
OTHER_ACTIONS = ["ecr:PutImage", "ecr:DescribeImages", "ecr:SetRepositoryPolicy", "ecr:BatchGetImageFoo"]
CONDITIONS: list[Mapping[str, object]] = [
    {"StringEquals": {"aws:PrincipalOrgID": "o-exampleorgid"}},
    {"Bool": {"aws:SecureTransport": "false"}},
]

roles = st.lists(st.sampled_from(WORKERS), min_size=1, unique=True)
names = st.one_of(st.sampled_from(NAMED), st.lists(st.sampled_from(NAMED), min_size=1, max_size=4))
pull_actions = st.permutations(PULL_ACTIONS)
actions: SearchStrategy[object] = st.one_of(
    st.sampled_from(["*", "ecr:*", "ECR:batch*", "ecr:Batch?etImage", *PULL_ACTIONS, *OTHER_ACTIONS]),
    st.lists(st.sampled_from([*PULL_ACTIONS, *OTHER_ACTIONS, "ecr:Get*"]), min_size=1, max_size=5),
    pull_actions,
)
principals: SearchStrategy[object] = st.one_of(
    st.just("*"),
    st.just({"AWS": "*"}),
    st.builds(lambda aws: {"AWS": aws}, names),
    st.just({"Service": "lambda.amazonaws.com"}),
    st.builds(lambda aws: {"AWS": aws, "Service": ["lambda.amazonaws.com"]}, names),
)
sids = st.sampled_from(["AllowPull", "AllowPull2", "AllowPull3", "AllowPush", "Lambda"])


def statement(
    principal: Mapping[str, object], action: Mapping[str, object], rest: Mapping[str, object]
) -> Statement:
    return {**rest, **principal, **action}


any_statement: SearchStrategy[Statement] = st.builds(
    statement,
    st.one_of(
        st.fixed_dictionaries({"Principal": principals}), st.fixed_dictionaries({"NotPrincipal": principals})
    ),
    st.one_of(st.fixed_dictionaries({"Action": actions}), st.fixed_dictionaries({"NotAction": actions})),
    st.fixed_dictionaries(
        {"Effect": st.sampled_from(["Allow", "Deny"])},
        optional={"Sid": sids, "Condition": st.sampled_from(CONDITIONS)},
    ),
)
plain_statement: SearchStrategy[Statement] = st.fixed_dictionaries(
    {
        "Sid": sids,
        "Effect": st.just("Allow"),
        "Principal": st.builds(lambda aws: {"AWS": aws}, names),
        "Action": pull_actions,
    }
)
statements = st.one_of(any_statement, plain_statement)
documents: SearchStrategy[Policy] = st.fixed_dictionaries(
    {"Statement": st.one_of(statements, st.lists(statements, max_size=5))},
    optional={"Version": st.sampled_from(["2012-10-17", "2008-10-17"]), "Id": st.just("theirs")},
)
policies: SearchStrategy[Policy | None] = st.one_of(st.none(), documents)

every_condition = pytest.mark.parametrize(
    "true_conditions", [[], CONDITIONS[:1], CONDITIONS[1:], CONDITIONS], ids=["none", "one", "other", "all"]
)


def listed(policy: Policy | None) -> list[object]:
    present = (policy or {}).get("Statement", [])
    return present if isinstance(present, list) else [present]


@given(policies, roles)
def test_every_role_is_allowed_to_pull_by_an_unconditional_allow(
    policy: Policy | None, roles: list[str]
) -> None:
    attached = attach(policy, roles)

    allows = {"Statement": [s for s in listed(attached) if isinstance(s, dict) and s["Effect"] == "Allow"]}
    for role in roles:
        for action in PULL_ACTIONS:
            assert decide(allows, role, action, lambda _: False) is Decision.ALLOWED


@every_condition
@given(policy=policies, roles=roles)
def test_permissions_of_other_principals_and_actions_do_not_change(
    policy: Policy | None, roles: list[str], true_conditions: list[object]
) -> None:
    attached = attach(policy, roles)

    for principal in WORKERS + OTHER_PRINCIPALS:
        for action in [*PULL_ACTIONS, *OTHER_ACTIONS]:
            before, after = (
                decide(p, principal, action, true_conditions.__contains__) for p in (policy, attached)
            )
            if principal in roles and action in PULL_ACTIONS:
                assert (after is Decision.DENIED) == (before is Decision.DENIED)
            else:
                assert after is before


@given(policy=policies, roles=roles, remove=st.booleans())
def test_attach_is_idempotent(policy: Policy | None, roles: list[str], *, remove: bool) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    assert attach(attached, roles, remove_unlisted=remove) is attached


@given(data=st.data(), policy=policies, roles=roles, remove=st.booleans())
def test_attach_is_idempotent_in_any_form_and_order_that_ecr_returns(
    data: st.DataObject, policy: Policy | None, roles: list[str], *, remove: bool
) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    returned = data.draw(reshaped(attached))

    assert attach(returned, roles, remove_unlisted=remove) is returned


@given(policy=policies, roles=roles)
def test_foreign_statements_are_kept_when_unlisted_roles_are_removed(
    policy: Policy | None, roles: list[str]
) -> None:
    attached = attach(policy, roles, remove_unlisted=True)

    assert [s for s in listed(attached) if not granted({"Statement": [s]})] == [
        s for s in listed(policy) if not granted({"Statement": [s]})
    ]


@given(policies, roles)
def test_foreign_statements_keep_their_content_and_position(policy: Policy | None, roles: list[str]) -> None:
    attached = attach(policy, roles)

    before, after = listed(policy), listed(attached)
    touched = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
    assert len(after) - len(before) + len(touched) <= 1
    for old, new in touched:
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        assert old["Sid"].startswith("AllowPull")
        assert old | {"Principal": None} == new | {"Principal": None}
        assert set(names_of(old)) <= set(names_of(new)) <= set(names_of(old)) | set(roles)
    if policy is not None:
        assert attached | {"Statement": None} == policy | {"Statement": None}


@given(policies, roles)
def test_no_role_is_removed_by_default(policy: Policy | None, roles: list[str]) -> None:
    assert granted(attach(policy, roles)) == granted(policy) | set(roles)


@every_condition
@given(policy=policies, roles=roles)
def test_our_statement_holds_exactly_the_listed_roles_on_request(
    policy: Policy | None, roles: list[str], true_conditions: list[object]
) -> None:
    attached = attach(policy, roles, remove_unlisted=True)

    assert granted(attached) == set(roles)
    removed = granted(policy) - set(roles)
    for principal in OTHER_PRINCIPALS + WORKERS:
        is_removed = not {principal, account_of(principal), root_of(principal)}.isdisjoint(removed)
        for action in [*PULL_ACTIONS, *OTHER_ACTIONS]:
            if action in PULL_ACTIONS and (principal in roles or is_removed):
                continue
            before, after = (
                decide(p, principal, action, true_conditions.__contains__) for p in (policy, attached)
            )
            assert after is before


@given(policy=policies, roles=roles, remove=st.booleans())
def test_the_result_is_a_valid_policy_document(
    policy: Policy | None, roles: list[str], *, remove: bool
) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    assert parse(json.dumps(attached)) == attached


@st.composite
def reshaped(draw: st.DrawFn, policy: Policy) -> Policy:
    """Draw a form in which ECR may return the policy: one principal as a string, several in any order."""
    return policy | {"Statement": [draw(reordered(s)) for s in listed(policy) if isinstance(s, dict)]}


@st.composite
def reordered(draw: st.DrawFn, statement: Statement) -> Statement:
    principal = statement.get("Principal")
    if not isinstance(principal, dict) or "AWS" not in principal:
        return statement
    shuffled = draw(st.permutations(list(dict.fromkeys(names_of(statement)))))
    return statement | {"Principal": principal | {"AWS": shuffled[0] if len(shuffled) == 1 else shuffled}}


def names_of(statement: Statement) -> list[str]:
    principal = statement["Principal"]
    assert isinstance(principal, dict)
    aws = principal["AWS"]
    return aws if isinstance(aws, list) else [aws]


def account_of(principal: str) -> str:
    return principal.split(":")[4]


def root_of(principal: str) -> str:
    return f"arn:aws:iam::{account_of(principal)}:root"
