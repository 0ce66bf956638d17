"""The five promises of `attach`, held against random policies and an evaluator of its own."""

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
STRANGERS = [
    "arn:aws:iam::111122223333:role/ci",
    "arn:aws:iam::444444444444:role/path/vendor",
    "arn:aws:iam::222222222220:role/another-role-of-a-workers-account",
    "arn:aws:iam::444444444444:user/somebody",
]
NAMED = [*WORKERS, *STRANGERS, "444444444444", "arn:aws:iam::222222222221:root", "AROAEXAMPLEEXAMPLEEXA"]
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


anything: SearchStrategy[Statement] = st.builds(
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
plain: SearchStrategy[Statement] = st.fixed_dictionaries(
    {
        "Sid": sids,
        "Effect": st.just("Allow"),
        "Principal": st.builds(lambda aws: {"AWS": aws}, names),
        "Action": pull_actions,
    }
)
statements = st.one_of(anything, plain)
documents: SearchStrategy[Policy] = st.fixed_dictionaries(
    {"Statement": st.one_of(statements, st.lists(statements, max_size=5))},
    optional={"Version": st.sampled_from(["2012-10-17", "2008-10-17"]), "Id": st.just("theirs")},
)
policies: SearchStrategy[Policy | None] = st.one_of(st.none(), documents)

every_condition = pytest.mark.parametrize(
    "holding", [[], CONDITIONS[:1], CONDITIONS[1:], CONDITIONS], ids=["none", "one", "other", "all"]
)


def listed(policy: Policy | None) -> list[object]:
    present = (policy or {}).get("Statement", [])
    return present if isinstance(present, list) else [present]


@given(policies, roles)
def test_granted_every_role_is_allowed_to_pull_by_an_unconditional_allow(
    policy: Policy | None, roles: list[str]
) -> None:
    attached = attach(policy, roles)

    allows = {"Statement": [s for s in listed(attached) if isinstance(s, dict) and s["Effect"] == "Allow"]}
    for role in roles:
        for action in PULL_ACTIONS:
            assert decide(allows, role, action, lambda _: False) is Decision.ALLOWED


@every_condition
@given(policy=policies, roles=roles)
def test_nothing_else_moves_for_any_other_principal_or_action(
    policy: Policy | None, roles: list[str], holding: list[object]
) -> None:
    attached = attach(policy, roles)

    for principal in WORKERS + STRANGERS:
        for action in [*PULL_ACTIONS, *OTHER_ACTIONS]:
            before, after = (decide(p, principal, action, holding.__contains__) for p in (policy, attached))
            if principal in roles and action in PULL_ACTIONS:
                assert (after is Decision.DENIED) == (before is Decision.DENIED)
            else:
                assert after is before


@given(policy=policies, roles=roles, remove=st.booleans())
def test_settled_what_is_attached_is_left_alone(
    policy: Policy | None, roles: list[str], *, remove: bool
) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    assert attach(attached, roles, remove_unlisted=remove) is attached


@given(data=st.data(), policy=policies, roles=roles, remove=st.booleans())
def test_settled_in_whatever_form_and_order_ecr_gives_it_back(
    data: st.DataObject, policy: Policy | None, roles: list[str], *, remove: bool
) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    given_back = data.draw(reshaped(attached))

    assert attach(given_back, roles, remove_unlisted=remove) is given_back


@given(policy=policies, roles=roles)
def test_kept_also_when_roles_are_removed(policy: Policy | None, roles: list[str]) -> None:
    attached = attach(policy, roles, remove_unlisted=True)

    assert [s for s in listed(attached) if not granted({"Statement": [s]})] == [
        s for s in listed(policy) if not granted({"Statement": [s]})
    ]


@given(policies, roles)
def test_kept_every_statement_of_others_in_its_place(policy: Policy | None, roles: list[str]) -> None:
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
def test_removed_nothing_unless_it_is_asked_for(policy: Policy | None, roles: list[str]) -> None:
    assert granted(attach(policy, roles)) == granted(policy) | set(roles)


@every_condition
@given(policy=policies, roles=roles)
def test_removed_on_request_our_statement_holds_exactly_the_roles(
    policy: Policy | None, roles: list[str], holding: list[object]
) -> None:
    attached = attach(policy, roles, remove_unlisted=True)

    assert granted(attached) == set(roles)
    lost = granted(policy) - set(roles)
    for principal in STRANGERS + WORKERS:
        is_lost = not {principal, account_of(principal), root_of(principal)}.isdisjoint(lost)
        for action in [*PULL_ACTIONS, *OTHER_ACTIONS]:
            if action in PULL_ACTIONS and (principal in roles or is_lost):
                continue
            before, after = (decide(p, principal, action, holding.__contains__) for p in (policy, attached))
            assert after is before


@given(policy=policies, roles=roles, remove=st.booleans())
def test_what_is_attached_is_still_a_policy_document(
    policy: Policy | None, roles: list[str], *, remove: bool
) -> None:
    attached = attach(policy, roles, remove_unlisted=remove)

    assert parse(json.dumps(attached)) == attached


@st.composite
def reshaped(draw: st.DrawFn, policy: Policy) -> Policy:
    """Draw a form in which ECR may give the policy back: one principal as a text, several in any order."""
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
