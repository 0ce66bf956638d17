"""What follows from a rejected policy: which roles are proved missing, and the reason for the others."""

import pytest
from handler.reconcile.rejections import (
    Contents,
    Rejection,
    contents,
    principal_hint,
    proved_missing,
    rejection_reason,
)

from handler.ecr.registry import PolicyRejected
from handler.policy.document import Policy, PolicyTooLong
from tests.unit.pull_grant import attach_pull

A, B = (f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "ab")
DELETED_ID = "AROAEXAMPLEEXAMPLEEXA"
PUSH = {"Sid": "Push", "Effect": "Allow", "Principal": {"AWS": DELETED_ID}, "Action": "ecr:PutImage"}
FOREIGN: Policy = {"Version": "2012-10-17", "Statement": [PUSH | {"Principal": {"AWS": [A, B]}}]}
NOTHING = contents(None)
REJECTED = PolicyRejected("Principal not found")
TOO_LONG = PolicyTooLong("10,300 characters")


class TestContents:
    def test_of_no_policy_are_nothing(self) -> None:
        assert not NOTHING

    def test_do_not_depend_on_the_form_in_which_ecr_returns_a_policy(self) -> None:
        reordered: Policy = {
            "Statement": {
                "Action": ["ecr:PutImage"],
                "Principal": {"AWS": [B, A]},
                "Effect": "Allow",
                "Sid": "Push",
            }
        }

        assert contents(FOREIGN) == contents(reordered)

    def test_change_with_a_foreign_statement(self) -> None:
        other: Policy = {"Statement": [PUSH | {"Principal": {"AWS": [A]}}]}

        assert contents(FOREIGN) != contents(other)

    def test_do_not_hold_the_roles_that_are_tried_nor_ids_of_deleted_principals(self) -> None:
        policy = attach_pull(None, [A, B, DELETED_ID])

        assert contents(policy, without=[B]) == contents(attach_pull(None, [A]))


class TestProof:
    def test_is_a_rejection_of_a_policy_that_holds_nothing_else(self) -> None:
        assert proved_missing({A: Rejection(REJECTED, NOTHING)}, accepted=None) == {A}

    def test_is_a_rejection_of_the_policy_that_ecr_accepts_without_the_role(self) -> None:
        others = contents(attach_pull(FOREIGN, [B]))

        assert proved_missing({A: Rejection(REJECTED, others)}, accepted=others) == {A}

    @pytest.mark.parametrize("accepted", [None, NOTHING, contents(attach_pull(None, [B]))])
    def test_is_no_rejection_of_a_policy_that_holds_something_else(self, accepted: Contents | None) -> None:
        assert proved_missing({A: Rejection(REJECTED, contents(FOREIGN))}, accepted) == set()

    def test_is_never_the_length_of_a_policy(self) -> None:
        assert proved_missing({A: Rejection(TOO_LONG, NOTHING)}, accepted=NOTHING) == set()


class TestReason:
    def test_names_the_roles_without_space_and_the_sizes(self) -> None:
        reason = rejection_reason(FOREIGN, {B: Rejection(TOO_LONG, NOTHING)}, existing=[])

        assert reason == f"No space for {B}: 10,300 characters"

    def test_names_both_causes(self) -> None:
        rejections = {A: Rejection(REJECTED, contents(FOREIGN)), B: Rejection(TOO_LONG, contents(FOREIGN))}

        reason = rejection_reason(FOREIGN, rejections, existing=[])

        assert reason.startswith(
            f"No space for {B}: 10,300 characters. Principal not found. Does the role {A} exist?"
        )

    def test_doubts_no_role_that_exists(self) -> None:
        reason = rejection_reason(FOREIGN, {A: Rejection(REJECTED, contents(FOREIGN))}, existing=[A])

        assert reason == f"Principal not found. {principal_hint(FOREIGN)}"
        assert A not in reason

    def test_names_a_foreign_statement_with_a_deleted_principal(self) -> None:
        policy: Policy = {"Statement": [PUSH]}

        assert f'statement "Push" names {DELETED_ID}' in principal_hint(policy)
        assert "Create it, or take it out of WorkerRoleArns" in principal_hint(policy, [A])
