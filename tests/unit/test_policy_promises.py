"""The guarantees of `attach`, tested on random policies with an independent policy evaluator."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from handler.policy.document import Policy, Statement, parse
from handler.policy.grants import ACTIONS, PULL, Entry, Grant
from handler.policy.plan import attach, entries_of
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
OTHER_ACTIONS = [
    "ecr:PutImage",
    "ecr:DescribeImageScanFindings",
    "ecr:SetRepositoryPolicy",
    "ecr:BatchGetImageFoo",
]
CONDITIONS: list[Mapping[str, object]] = [
    {"StringEquals": {"aws:PrincipalOrgID": "o-exampleorgid"}},
    {"Bool": {"aws:SecureTransport": "false"}},
]

GRANTED_ACTIONS = [action for actions in ACTIONS.values() for action in actions]

roles = st.lists(st.sampled_from(WORKERS), unique=True).map(tuple)
grant_lists: SearchStrategy[list[Grant]] = st.tuples(
    *(st.builds(Grant, st.just(sid), roles) for sid in ACTIONS)
).map(list)
names = st.one_of(st.sampled_from(NAMED), st.lists(st.sampled_from(NAMED), min_size=1, max_size=4))
actions: SearchStrategy[object] = st.one_of(
    st.sampled_from(["*", "ecr:*", "ECR:batch*", "ecr:Batch?etImage", *GRANTED_ACTIONS, *OTHER_ACTIONS]),
    st.lists(st.sampled_from([*GRANTED_ACTIONS, *OTHER_ACTIONS, "ecr:Get*"]), min_size=1, max_size=5),
    *(st.permutations(actions_of_sid) for actions_of_sid in ACTIONS.values()),
)
principals: SearchStrategy[object] = st.one_of(
    st.just("*"),
    st.just({"AWS": "*"}),
    st.builds(lambda aws: {"AWS": aws}, names),
    st.just({"Service": "lambda.amazonaws.com"}),
    st.builds(lambda aws: {"AWS": aws, "Service": ["lambda.amazonaws.com"]}, names),
)
sids = st.sampled_from(
    [*(f"{sid}{number}" for sid in ACTIONS for number in ("", 2, 3)), "AllowPush", "Lambda"]
)


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
plain_statement: SearchStrategy[Statement] = st.one_of(
    [
        st.fixed_dictionaries(
            {
                "Sid": st.sampled_from([sid, f"{sid}2", f"{sid}3"]),
                "Effect": st.just("Allow"),
                "Principal": st.builds(lambda aws: {"AWS": aws}, names),
                "Action": st.permutations(actions_of_sid),
            }
        )
        for sid, actions_of_sid in ACTIONS.items()
    ]
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


def is_granted(grants: list[Grant], principal: str, action: str) -> bool:
    return any(principal in grant.roles and action in ACTIONS[grant.sid] for grant in grants)


def entries_for(grants: list[Grant]) -> set[Entry]:
    return {entry for grant in grants for entry in grant.entries()}


@given(policies, grant_lists)
def test_every_role_is_allowed_its_actions_by_an_unconditional_allow(
    policy: Policy | None, grants: list[Grant]
) -> None:
    attached = attach(policy, grants)

    allows = {"Statement": [s for s in listed(attached) if isinstance(s, dict) and s["Effect"] == "Allow"]}
    for grant in grants:
        for role in grant.roles:
            for action in ACTIONS[grant.sid]:
                assert decide(allows, role, action, lambda _: False) is Decision.ALLOWED


@every_condition
@given(policy=policies, grants=grant_lists)
def test_permissions_of_other_principals_and_actions_do_not_change(
    policy: Policy | None, grants: list[Grant], true_conditions: list[object]
) -> None:
    attached = attach(policy, grants)

    for principal in WORKERS + OTHER_PRINCIPALS:
        for action in [*GRANTED_ACTIONS, *OTHER_ACTIONS]:
            before, after = (
                decide(p, principal, action, true_conditions.__contains__) for p in (policy, attached)
            )
            if is_granted(grants, principal, action):
                assert (after is Decision.DENIED) == (before is Decision.DENIED)
            else:
                assert after is before


@given(policy=policies, grants=grant_lists, remove=st.booleans())
def test_attach_is_idempotent(policy: Policy | None, grants: list[Grant], *, remove: bool) -> None:
    attached = attach(policy, grants, remove_unlisted=ACTIONS if remove else ())

    assert attach(attached, grants, remove_unlisted=ACTIONS if remove else ()) is attached


@given(data=st.data(), policy=policies, grants=grant_lists, remove=st.booleans())
def test_attach_is_idempotent_in_any_form_and_order_that_ecr_returns(
    data: st.DataObject, policy: Policy | None, grants: list[Grant], *, remove: bool
) -> None:
    attached = attach(policy, grants, remove_unlisted=ACTIONS if remove else ())

    returned = data.draw(reshaped(attached))

    assert attach(returned, grants, remove_unlisted=ACTIONS if remove else ()) is returned


@given(policy=policies, grants=grant_lists)
def test_foreign_statements_are_kept_when_unlisted_roles_are_removed(
    policy: Policy | None, grants: list[Grant]
) -> None:
    attached = attach(policy, grants, remove_unlisted=ACTIONS)

    assert [s for s in listed(attached) if not entries_of({"Statement": [s]})] == [
        s for s in listed(policy) if not entries_of({"Statement": [s]})
    ]


@given(policies, grant_lists)
def test_foreign_statements_keep_their_content_and_position(
    policy: Policy | None, grants: list[Grant]
) -> None:
    attached = attach(policy, grants)

    before, after = listed(policy), listed(attached)
    touched = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
    assert len(after) - len(before) + len(touched) <= len([grant for grant in grants if grant.roles])
    for old, new in touched:
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        (sid,) = {entry.sid for entry in entries_of({"Statement": [old]})}
        (listed_roles,) = (grant.roles for grant in grants if grant.sid == sid)
        assert old | {"Principal": None} == new | {"Principal": None}
        assert set(names_of(old)) <= set(names_of(new)) <= set(names_of(old)) | set(listed_roles)
    if policy is not None and attached is not None:
        assert attached | {"Statement": None} == policy | {"Statement": None}


@given(policies, grant_lists)
def test_no_role_is_removed_by_default(policy: Policy | None, grants: list[Grant]) -> None:
    assert entries_of(attach(policy, grants)) == entries_of(policy) | entries_for(grants)


@every_condition
@given(policy=policies, grants=grant_lists, removed_from=st.sets(st.sampled_from(list(ACTIONS))))
def test_our_statements_hold_exactly_the_listed_roles_on_request(
    policy: Policy | None, grants: list[Grant], removed_from: set[str], true_conditions: list[object]
) -> None:
    attached = attach(policy, grants, remove_unlisted=removed_from)

    kept = {entry for entry in entries_of(policy) if entry.sid not in removed_from}
    assert entries_of(attached) == entries_for(grants) | kept
    removed = entries_of(policy) - entries_for(grants) - kept
    for principal in OTHER_PRINCIPALS + WORKERS:
        same = {principal, account_of(principal), root_of(principal)}
        for action in [*GRANTED_ACTIONS, *OTHER_ACTIONS]:
            is_removed = any(action in ACTIONS[entry.sid] and entry.principal in same for entry in removed)
            if is_removed or is_granted(grants, principal, action):
                continue
            before, after = (
                decide(p, principal, action, true_conditions.__contains__) for p in (policy, attached)
            )
            assert after is before


@given(policy=policies, grants=grant_lists)
def test_ids_of_deleted_principals_leave_our_statements_on_request(
    policy: Policy | None, grants: list[Grant]
) -> None:
    attached = attach(policy, grants, remove_deleted=True)

    existing = {entry for entry in entries_of(policy) if not entry.principal.startswith("AROA")}
    assert entries_of(attached) == existing | entries_for(grants)


@given(policy=policies, grants=grant_lists, remove=st.booleans())
def test_the_result_is_a_valid_policy_document(
    policy: Policy | None, grants: list[Grant], *, remove: bool
) -> None:
    attached = attach(policy, grants, remove_unlisted=ACTIONS if remove else ())

    assert attached is None or parse(json.dumps(attached)) == attached


def test_a_grant_without_roles_creates_no_policy() -> None:
    assert attach(None, [Grant(PULL, ())]) is None


@st.composite
def reshaped(draw: st.DrawFn, policy: Policy | None) -> Policy | None:
    """Draw a form in which ECR may return the policy: one principal as a string, several in any order."""
    return policy and policy | {
        "Statement": [draw(reordered(s)) for s in listed(policy) if isinstance(s, dict)]
    }


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
