"""Foreign statements that deny the grant, according to AWS's evaluation rules."""

from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import given

from handler.policy.denials import deleted_principals, denials, denials_details, rejection_hint
from handler.policy.document import Policy
from handler.policy.grants import ACTIONS, PULL, Grant
from handler.policy.plan import foreign
from tests.unit.evaluator import Decision, decide
from tests.unit.test_policy_promises import policies

ACCOUNT = "222222222222"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/path/unionai-acme-flyteworker-node-group"
OTHER = "arn:aws:iam::333333333333:role/unionai-other-flyteworker-node-group"
PULL_ACTIONS = ACTIONS[PULL]
DELETED_ID = "AROAEXAMPLEEXAMPLEEXA"


def deny(**elements: object) -> Mapping[str, object]:
    return {"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"} | elements


def denied(statement: Mapping[str, object]) -> tuple[str, ...]:
    policy: Policy = {"Version": "2012-10-17", "Statement": [dict(statement)]}
    return tuple(role for denial in denials(policy, [Grant(PULL, (ROLE, OTHER))]) for role in denial.roles)


@pytest.mark.parametrize(
    "principal",
    [{"AWS": ROLE}, {"AWS": ["444444444444", ROLE]}, {"AWS": ACCOUNT}, {"AWS": ROOT}],
)
def test_a_role_is_denied_by_its_arn_and_by_its_account(principal: object) -> None:
    assert denied(deny(Principal=principal)) == (ROLE,)


def test_a_role_whose_path_holds_a_colon_is_denied_by_its_account() -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/a:b/node-group"
    policy: Policy = {"Statement": [dict(deny(Principal={"AWS": ROOT}))]}

    assert [denial.roles for denial in denials(policy, [Grant(PULL, (role,))])] == [(role,)]


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"AWS": ["444444444444", "*"]}])
def test_all_roles_are_denied_by_a_wildcard(principal: object) -> None:
    assert denied(deny(Principal=principal)) == (ROLE, OTHER)


@pytest.mark.parametrize(
    "principal",
    [{"AWS": "444444444444"}, {"Service": "lambda.amazonaws.com"}, {"Federated": "*"}, {}, "222222222222", 7],
)
def test_no_role_is_denied_by_a_statement_for_another_principal(principal: object) -> None:
    assert denied(deny(Principal=principal)) == ()


@pytest.mark.parametrize(
    ("exempt", "roles"),
    [
        ([ROLE, ROOT], (OTHER,)),
        ([ROLE, ACCOUNT], (OTHER,)),
        ([ROLE], (ROLE, OTHER)),
        ([ROOT], (ROLE, OTHER)),
        (["444444444444"], (ROLE, OTHER)),
        (["*"], ()),
    ],
)
def test_not_principal_exempts_a_role_only_together_with_its_account(
    exempt: list[str], roles: tuple[str, ...]
) -> None:
    statement = {
        key: value for key, value in deny(NotPrincipal={"AWS": exempt}).items() if key != "Principal"
    }

    assert denied(statement) == roles


@pytest.mark.parametrize(
    "action",
    [
        *PULL_ACTIONS,
        "*",
        "ecr:*",
        "ECR:BATCHGETIMAGE",
        "ecr:Batch?etImage",
        "ecr:GetDownload*",
        ["ecr:PutImage", "ecr:BatchCheck*"],
    ],
)
def test_pull_actions_are_matched_with_wildcards_and_in_any_case(action: object) -> None:
    assert denied(deny(Action=action)) == (ROLE, OTHER)


@pytest.mark.parametrize(
    "action", ["ecr:PutImage", "ecr:BatchGetImageFoo", "ecr:[Bb]atchGetImage", "s3:*", []]
)
def test_other_actions_are_not_matched(action: object) -> None:
    assert denied(deny(Action=action)) == ()


@pytest.mark.parametrize(
    ("not_action", "roles"),
    [("ecr:PutImage", (ROLE, OTHER)), ("ecr:Batch*", (ROLE, OTHER)), ("ecr:*", ()), (list(PULL_ACTIONS), ())],
)
def test_not_action_denies_all_other_actions(not_action: object, roles: tuple[str, ...]) -> None:
    statement = {key: value for key, value in deny(NotAction=not_action).items() if key != "Action"}

    assert denied(statement) == roles


@pytest.mark.parametrize(
    ("action", "actions", "refuses_pull"),
    [
        ("ecr:BatchGetImage", ("ecr:BatchGetImage",), True),
        ("ecr:GetDownloadUrlForLayer", ("ecr:GetDownloadUrlForLayer",), True),
        ("ecr:BatchCheckLayerAvailability", ("ecr:BatchCheckLayerAvailability",), False),
        ("ecr:BatchC*", ("ecr:BatchCheckLayerAvailability",), False),
        ("ecr:Batch*", ("ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"), True),
        ("*", PULL_ACTIONS, True),
    ],
)
def test_a_denial_lists_the_denied_actions_and_whether_they_refuse_a_pull(
    action: str, actions: tuple[str, ...], *, refuses_pull: bool
) -> None:
    (denial,) = denials({"Statement": [deny(Action=action)]}, [Grant(PULL, (ROLE,))])

    assert (denial.actions, denial.refuses_pull) == (actions, refuses_pull)


def test_an_allow_statement_denies_no_role() -> None:
    assert denied(deny(Effect="Allow")) == ()


def test_a_denial_names_the_statement_by_sid_or_number_and_reports_a_condition() -> None:
    unnamed = {key: value for key, value in deny().items() if key != "Sid"}
    policy: Policy = {"Statement": [unnamed, deny(Condition={"Bool": {"aws:SecureTransport": "false"}})]}

    assert [(denial.statement, denial.conditional) for denial in denials(policy, [Grant(PULL, (ROLE,))])] == [
        ("number 1", False),
        ('"No"', True),
    ]


@given(policies)
def test_an_action_is_reported_as_denied_exactly_if_the_evaluator_denies_it(policy: Policy | None) -> None:
    roles = tuple(f"arn:aws:iam::22222222222{n}:role/unionai-acme-flyteworker-node-group" for n in range(4))
    reported = {
        (denial.grant, role, action)
        for denial in denials(policy, [Grant(sid, roles) for sid in ACTIONS])
        for role in denial.roles
        for action in denial.actions
    }

    assert reported == {
        (sid, role, action)
        for sid, actions in ACTIONS.items()
        for role in roles
        for action in actions
        if decide(policy, role, action, lambda _: True) is Decision.DENIED
    }


def test_ids_of_deleted_principals_are_reported_for_foreign_statements_only() -> None:
    ours: Mapping[str, object] = {
        "Sid": "AllowPull",
        "Effect": "Allow",
        "Principal": {"AWS": [DELETED_ID]},
        "Action": list(PULL_ACTIONS),
    }
    policy: Policy = {
        "Statement": [ours, deny(Principal={"AWS": ["444444444444", DELETED_ID, "AIDAEXAMPLEEXAMPLEEXA"]})]
    }

    assert [name for name, _ in foreign(policy)] == ['"No"']
    assert deleted_principals(policy) == [f'statement "No" names AIDAEXAMPLEEXAMPLEEXA, {DELETED_ID}']


def test_the_hint_on_a_rejection_names_the_foreign_statement_with_a_deleted_principal() -> None:
    policy: Policy = {"Statement": [deny(), deny(Sid="Push", Effect="Allow", Principal={"AWS": DELETED_ID})]}

    hint = rejection_hint(policy)

    assert f'deleted: statement "Push" names {DELETED_ID}. Ask the owner of the statement' in hint
    assert '"No"' not in hint


def test_the_hint_on_a_rejection_names_every_foreign_statement_with_deleted_principals() -> None:
    unnamed = {
        key: value
        for key, value in deny(NotPrincipal={"AWS": "AIDAEXAMPLEEXAMPLEEXA"}).items()
        if key not in {"Sid", "Principal"}
    }
    policy: Policy = {"Statement": [deny(Principal={"AWS": [ROLE, DELETED_ID]}), unnamed]}

    named = f'statement "No" names {DELETED_ID}; statement number 2 names AIDAEXAMPLEEXAMPLEEXA'
    assert named in rejection_hint(policy)


@pytest.mark.parametrize("policy", [None, {"Statement": [deny(Principal={"AWS": [ROLE, ROOT]})]}])
def test_the_hint_on_a_rejection_without_deleted_principals_says_what_to_look_for(
    policy: Policy | None,
) -> None:
    hint = rejection_hint(policy)

    assert hint.startswith("Find the principal in the repository's policy that no longer exists, or the part")
    assert ROLE not in hint


def test_the_details_hold_ten_denials_and_the_number_of_the_others() -> None:
    (denial,) = denials({"Statement": [deny(Principal="*")]}, [Grant("AllowPull", (ROLE,))])

    details = denials_details([denial] * 12)

    (one,) = cast("list[object]", denials_details([denial])["denied_by"])
    assert details == {"denied_by": [one] * 10, "denied_by_more": 2}
