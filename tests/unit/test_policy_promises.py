"""The six promises of the plan, tested on random policies with an independent policy evaluator.

1. Granted: every role is granted, unless it is missing or there is no space for it.
2. Nothing else changes: not for any other principal, and not for any other action.
3. Idempotent: the planned policy needs no further change, in whatever form ECR returns it.
4. Foreign statements, `Version` and `Id` stay.
5. Principals are removed only on request; ids of deleted ones leave with any other change.
6. It fits: no planned policy is too long, and no role is left out that would fit.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from handler.policy.document import Policy, Statement, parse, render
from handler.policy.grants import ACTIONS, PULL, Grant, Grantee
from handler.policy.plan import Plan, grantees_of, plan
from tests.unit.evaluator import Decision, decide

WORKERS = [f"arn:aws:iam::22222222222{n}:role/unionai-acme-flyteworker-node-group" for n in range(4)]
OTHER_PRINCIPALS = [
    "arn:aws:iam::111122223333:role/ci",
    "arn:aws:iam::444444444444:role/path/vendor",
    "arn:aws:iam::222222222220:role/another-role-of-a-workers-account",
    "arn:aws:iam::444444444444:user/operator",
]
DELETED = ["AROAEXAMPLEEXAMPLEEXA", "AIDAEXAMPLEEXAMPLEEXA"]
NAMED = [
    *WORKERS,
    *OTHER_PRINCIPALS,
    "444444444444",
    "arn:aws:iam::222222222221:root",
    *DELETED,
]
# Longer than the others, so that it may not fit where a role after it does.
LONG_ROLE = f"arn:aws:iam::222222222229:role/{'path/' * 60}unionai-acme-flyteworker-node-group"
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


def statement_of(sid: str, effect: str, principals: SearchStrategy[object]) -> SearchStrategy[Statement]:
    return st.fixed_dictionaries(
        {
            "Sid": st.sampled_from([sid, f"{sid}2", f"{sid}3"]),
            "Effect": st.just(effect),
            "Principal": st.builds(lambda aws: {"AWS": aws}, principals),
            "Action": st.permutations(ACTIONS[sid]),
        }
    )


our_statement = st.one_of([statement_of(sid, "Allow", names) for sid in ACTIONS])
# Each has the Sid and the actions of a grant, and yet it is foreign.
similar_statement = st.one_of(
    [
        statement
        for sid in ACTIONS
        for statement in (
            statement_of(sid, "Deny", names),
            statement_of(sid, "Allow", st.sampled_from(["*", ["*", WORKERS[0]], [WORKERS[1], "*"]])),
        )
    ]
)
statements = st.one_of(any_statement, our_statement, similar_statement)
documents: SearchStrategy[Policy] = st.fixed_dictionaries(
    {
        "Statement": st.one_of(
            statements, st.lists(statements, max_size=5), st.lists(our_statement, min_size=1, max_size=4)
        )
    },
    optional={"Version": st.sampled_from(["2012-10-17", "2008-10-17"]), "Id": st.just("theirs")},
)
policies: SearchStrategy[Policy | None] = st.one_of(st.none(), documents)


class Case(NamedTuple):
    """What is planned."""

    policy: Policy | None
    grants: list[Grant]
    missing: set[str]
    remove_unlisted: bool

    def plan(self) -> Plan:
        return plan(self.policy, self.grants, missing=self.missing, remove_unlisted=self.remove_unlisted)


missing_roles = st.one_of(
    st.sets(st.sampled_from(WORKERS)), st.sets(st.sampled_from(WORKERS), min_size=len(WORKERS))
)
cases = st.builds(Case, policies, grant_lists, missing_roles, st.booleans())
cases_without_removal = st.builds(Case, policies, grant_lists, missing_roles, st.just(False))  # noqa: FBT003

# A foreign statement whose length leaves some space, or none, below the limit.
PADDING = {"Sid": "Padding", "Effect": "Allow", "Principal": {"Service": "s"}, "Action": "ecr:PutImage"}


@st.composite
def cases_near_the_limit(draw: st.DrawFn) -> Case:
    document = draw(documents)
    short = document | {"Statement": [*listed(document), PADDING]}
    space = draw(st.integers(-200, 1_200))
    padding = PADDING | {"Sid": "Padding".ljust(10_240 - len(render(short)) - space + len("Padding"), "x")}
    long_roles = st.lists(st.sampled_from([LONG_ROLE, *WORKERS]), unique=True).map(tuple)
    grants = [Grant(sid, draw(long_roles)) for sid in ACTIONS]
    policy = document | {"Statement": [*listed(document), padding]}
    assert len(render(policy)) == 10_240 - space
    return Case(policy, grants, draw(missing_roles), draw(st.booleans()))


def unpadded(policy: Policy | None) -> tuple[Policy, int]:
    """Return the policy with a short padding, and by how much it is shorter."""
    assert policy
    (padding,) = (s for s in listed(policy) if isinstance(s, dict) and str(s.get("Sid")).startswith("Padd"))
    statements = [PADDING if s is padding else s for s in listed(policy)]
    return policy | {"Statement": statements}, len(str(padding["Sid"])) - len("Padding")


every_condition = pytest.mark.parametrize(
    "true_conditions", [[], CONDITIONS[:1], CONDITIONS[1:], CONDITIONS], ids=["none", "one", "other", "all"]
)


def listed(policy: Policy | None) -> list[object]:
    present = (policy or {}).get("Statement", [])
    return present if isinstance(present, list) else [present]


def grantees_in(grants: list[Grant]) -> list[Grantee]:
    return [Grantee(grant.sid, role) for grant in grants for role in grant.roles]


def to_be_added(case: Case) -> list[Grantee]:
    present = grantees_of(case.policy)
    return [g for g in grantees_in(case.grants) if g not in present and g.principal not in case.missing]


def keeping_their_unlisted(case: Case) -> set[str]:
    """Return the Sids of which every role is missing, so that no principal loses the grant on request."""
    present = grantees_of(case.policy)
    return {
        grant.sid
        for grant in case.grants
        if grant.roles
        and not any(Grantee(grant.sid, role) in present or role not in case.missing for role in grant.roles)
    }


def to_be_removed(case: Case) -> set[Grantee]:
    """Return whom the plan removes on request, if a statement is left then."""
    if not case.remove_unlisted:
        return set()
    kept = keeping_their_unlisted(case)
    return {g for g in grantees_of(case.policy) - {*grantees_in(case.grants)} if g.sid not in kept}


def without(case: Case, later: list[Grantee]) -> list[Grant]:
    """Return the grants without these, and without missing roles where that makes no difference."""
    present, kept = grantees_of(case.policy), keeping_their_unlisted(case)

    def stays(sid: str, role: str) -> bool:
        each = Grantee(sid, role)
        return each not in later and (each in present or sid in kept or role not in case.missing)

    return [Grant(g.sid, tuple(role for role in g.roles if stays(g.sid, role))) for g in case.grants]


def is_dead(grantee: Grantee) -> bool:
    return grantee.principal in DELETED


def foreign_statements(policy: Policy | None) -> list[object]:
    return [s for s in listed(policy) if not grantees_of({"Statement": [s]})]


def is_granted(case: Case, principal: str, action: str) -> bool:
    return principal not in case.missing and any(
        principal in grant.roles and action in ACTIONS[grant.sid] for grant in case.grants
    )


class TestGranted:
    @given(cases)
    def test_every_role_that_exists_is_allowed_its_actions_by_an_unconditional_allow(
        self, case: Case
    ) -> None:
        planned = case.plan().policy

        assert not case.plan().unfit
        allows = {"Statement": [s for s in listed(planned) if isinstance(s, dict) and s["Effect"] == "Allow"]}
        for sid, role in grantees_in(case.grants):
            for action in ACTIONS[sid] if role not in case.missing else ():
                assert decide(allows, role, action, lambda _: False) is Decision.ALLOWED

    @given(cases)
    def test_the_plan_adds_exactly_the_roles_that_exist_and_lack_the_grant(self, case: Case) -> None:
        planned = case.plan()

        assert planned.added == {*to_be_added(case)}
        assert grantees_of(planned.policy) == (grantees_of(case.policy) | planned.added) - planned.removed

    @given(cases_near_the_limit())
    def test_near_the_limit_every_role_with_space_is_allowed_its_actions(self, case: Case) -> None:
        planned = case.plan()

        assert planned.added.isdisjoint(planned.unfit)
        assert planned.added.union(planned.unfit) == {*to_be_added(case)}
        assert grantees_of(planned.policy) == (grantees_of(case.policy) | planned.added) - planned.removed
        for sid, role in planned.added:
            for action in ACTIONS[sid]:
                only_ours = {
                    "Statement": [s for s in listed(planned.policy) if grantees_of({"Statement": [s]})]
                }
                assert decide(only_ours, role, action, lambda _: False) is Decision.ALLOWED

    def test_a_grant_without_roles_creates_no_policy(self) -> None:
        assert plan(None, [Grant(PULL, ())]) == Plan(None)


class TestNothingElseChanges:
    @every_condition
    @given(case=cases_without_removal)
    def test_permissions_of_other_principals_and_actions(
        self, case: Case, true_conditions: list[object]
    ) -> None:
        planned = case.plan().policy

        for principal in WORKERS + OTHER_PRINCIPALS:
            for action in [*GRANTED_ACTIONS, *OTHER_ACTIONS]:
                before, after = (
                    decide(p, principal, action, true_conditions.__contains__) for p in (case.policy, planned)
                )
                if is_granted(case, principal, action):
                    assert (after is Decision.DENIED) == (before is Decision.DENIED)
                else:
                    assert after is before

    @every_condition
    @given(case=st.one_of(cases, cases_near_the_limit()))
    def test_permissions_of_principals_that_the_plan_neither_adds_nor_removes(
        self, case: Case, true_conditions: list[object]
    ) -> None:
        planned = case.plan()

        for principal in OTHER_PRINCIPALS + WORKERS:
            same = {principal, account_of(principal), root_of(principal)}
            changed = {
                action
                for sid, name in planned.added | planned.removed
                if name in same
                for action in ACTIONS[sid]
            }
            for action in {*GRANTED_ACTIONS, *OTHER_ACTIONS} - changed:
                before, after = (
                    decide(p, principal, action, true_conditions.__contains__)
                    for p in (case.policy, planned.policy)
                )
                assert after is before


class TestIdempotent:
    @given(st.one_of(cases, cases_near_the_limit()))
    def test_a_planned_policy_needs_no_change(self, case: Case) -> None:
        planned = case.plan()

        again = case._replace(policy=planned.policy).plan()

        assert again.policy is planned.policy
        assert not again.added | again.removed
        assert again.unfit == planned.unfit

    @given(data=st.data(), case=cases)
    def test_in_any_form_and_order_that_ecr_returns_and_in_any_order_of_the_settings(
        self, data: st.DataObject, case: Case
    ) -> None:
        returned = data.draw(reshaped(case.plan().policy))
        grants = data.draw(st.permutations([data.draw(shuffled(grant)) for grant in case.grants]))

        assert case._replace(policy=returned, grants=grants).plan().policy is returned

    @given(case=cases)
    def test_an_answer_that_a_role_is_missing_changes_nothing_once_the_role_is_granted(
        self, case: Case
    ) -> None:
        planned = case._replace(missing=set()).plan().policy

        assert case._replace(policy=planned).plan().policy is planned


class TestForeignStatements:
    @given(st.one_of(cases, cases_near_the_limit()))
    def test_stay_as_they_are_and_in_their_order(self, case: Case) -> None:
        assert foreign_statements(case.plan().policy) == foreign_statements(case.policy)

    @given(st.one_of(cases, cases_near_the_limit()))
    def test_share_their_policy_with_the_same_version_and_id(self, case: Case) -> None:
        planned = case.plan().policy

        if case.policy is None:
            assert planned is None or planned | {"Statement": None} == {
                "Version": "2012-10-17",
                "Statement": None,
            }
        else:
            assert planned is not None
            assert planned | {"Statement": None} == case.policy | {"Statement": None}

    @given(cases_without_removal)
    def test_keep_their_position_and_ours_change_only_in_their_principals(self, case: Case) -> None:
        planned = case.plan()
        gained = {sid: {name for each, name in planned.added if each == sid} for sid in ACTIONS}

        after = listed(planned.policy)
        position = 0
        for old in listed(case.policy):
            ours = grantees_of({"Statement": [old]})
            new = after[position] if position < len(after) else None
            if not ours:
                assert new == old
                position += 1
                continue
            (sid,) = {grantee.sid for grantee in ours}
            living = {grantee.principal for grantee in ours - planned.removed}
            if not living and not (same_but_for_principals(old, new) and {*names_of(new)} == gained[sid]):
                continue  # it had no other principals, and was removed
            assert same_but_for_principals(old, new)
            assert living <= {*names_of(new)} <= living | gained[sid]
            position += 1
        added = [grantees_of({"Statement": [new]}) for new in after[position:]]
        assert all(grantees <= planned.added for grantees in added)
        assert len(added) <= len([sid for sid in ACTIONS if gained[sid]])


class TestRemovals:
    @given(cases_without_removal)
    def test_nobody_is_removed_by_default_but_ids_of_deleted_principals(self, case: Case) -> None:
        planned = case.plan()

        assert {*filter(is_dead, planned.removed)} == planned.removed
        assert {*grantees_of(case.policy)} - {*grantees_of(planned.policy)} == planned.removed
        assert planned.not_removed == ()

    @given(st.one_of(cases, cases_near_the_limit()))
    def test_ids_of_deleted_principals_leave_with_any_other_change_and_never_alone(self, case: Case) -> None:
        planned = case.plan()
        dead = {*filter(is_dead, grantees_of(case.policy))}

        if planned.added or planned.removed - dead:
            assert not {*filter(is_dead, grantees_of(planned.policy))}
            assert dead <= planned.removed
        elif not case.remove_unlisted:
            assert planned.policy is case.policy

    @given(cases.map(lambda case: case._replace(remove_unlisted=True)))
    def test_on_request_our_statements_hold_exactly_the_listed_roles(self, case: Case) -> None:
        planned = case.plan()
        wanted, unlisted = {*to_be_added(case)}, to_be_removed(case)
        dead = {*filter(is_dead, grantees_of(case.policy))}

        expected = grantees_of(case.policy) | wanted
        if wanted or unlisted:
            expected -= unlisted | dead
        if expected or foreign_statements(case.policy):
            assert grantees_of(planned.policy) == expected
        else:
            assert planned.policy is case.policy

    @given(cases.map(lambda case: case._replace(remove_unlisted=True)))
    def test_that_do_not_happen_are_reported(self, case: Case) -> None:
        planned = case.plan()

        unlisted = {*grantees_of(planned.policy)} - {*grantees_in(case.grants)}
        with_access = {grantee.sid for grantee in unlisted if not is_dead(grantee)}
        assert with_access <= {*planned.not_removed}
        assert {*planned.not_removed} <= {grantee.sid for grantee in grantees_of(case.policy)}
        assert planned.not_removed == tuple(sorted(planned.not_removed))

    @given(cases.map(lambda case: case._replace(remove_unlisted=True)))
    def test_of_a_grant_of_which_every_role_is_missing_are_none(self, case: Case) -> None:
        lost = {grantee.sid for grantee in case.plan().removed if not is_dead(grantee)}

        assert lost.isdisjoint(keeping_their_unlisted(case))


class TestFits:
    @given(cases_near_the_limit())
    def test_no_written_policy_is_too_long(self, case: Case) -> None:
        planned = case.plan().policy

        assert planned
        assert planned is case.policy or len(render(planned)) <= 10_240

    @given(cases_near_the_limit())
    def test_nobody_is_left_out_if_all_fit_and_otherwise_the_length_is_that_with_all(
        self, case: Case
    ) -> None:
        planned = case.plan()

        short, padding = unpadded(case.policy)
        with_all = case._replace(policy=short).plan()
        assert not with_all.unfit
        assert with_all.policy
        length = len(render(with_all.policy)) + padding
        if with_all.policy is short or length <= 10_240:
            assert planned == Plan(planned.policy, with_all.added, with_all.removed, with_all.not_removed)
            assert unpadded(planned.policy) == (with_all.policy, padding)
        else:
            assert planned.length == length
            assert bool(planned.unfit) == bool(with_all.added)

    @given(cases_near_the_limit())
    def test_whoever_is_left_out_does_not_fit_in_turn(self, case: Case) -> None:
        planned = case.plan()
        turns = to_be_added(case)

        for each in planned.unfit:
            in_turn = case._replace(grants=without(case, turns[turns.index(each) + 1 :])).plan()
            assert each in in_turn.unfit
            assert in_turn.added == planned.added.intersection(turns[: turns.index(each)])
            short, padding = unpadded(in_turn.policy)
            alone = plan(short, [Grant(each.sid, (each.principal,))])
            assert alone.policy
            assert alone.added == {each}
            assert len(render(alone.policy)) + padding > 10_240


@given(st.one_of(cases, cases_near_the_limit()))
def test_the_planned_policy_is_a_valid_policy_document(case: Case) -> None:
    planned = case.plan().policy

    assert planned is None or parse(json.dumps(planned)) == planned


@given(st.one_of(cases, cases_near_the_limit()))
def test_a_plan_does_not_change_the_current_policy(case: Case) -> None:
    before = json.dumps(case.policy)

    case.plan()

    assert json.dumps(case.policy) == before


@st.composite
def shuffled(draw: st.DrawFn, grant: Grant) -> Grant:
    return Grant(grant.sid, tuple(draw(st.permutations(grant.roles))))


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


def same_but_for_principals(old: object, new: object) -> bool:
    assert isinstance(old, dict)
    return isinstance(new, dict) and old | {"Principal": None} == new | {"Principal": None}


def names_of(statement: object) -> list[str]:
    assert isinstance(statement, dict)
    principal = statement["Principal"]
    assert isinstance(principal, dict)
    aws = principal["AWS"]
    return aws if isinstance(aws, list) else [aws]


def account_of(principal: str) -> str:
    return principal.split(":")[4]


def root_of(principal: str) -> str:
    return f"arn:aws:iam::{account_of(principal)}:root"
