"""The desired policy, by example. test_policy_promises.py tests what holds for every policy."""

import json

import pytest

from handler.policy.document import InvalidPolicy, Policy, PolicyTooLong, Statement, parse, render
from handler.policy.grants import ACTIONS, DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Entry, Grant
from handler.policy.plan import attach, entries_of
from tests.unit.pull_grant import attach_pull, pull_roles

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
OTHER_ROLE = "arn:aws:iam::333333333333:role/unionai-other-flyteworker-node-group"
MANUALLY_ADDED = "arn:aws:iam::444444444444:role/added-manually"

ALLOW_PULL: Statement = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}
FOREIGN: Statement = {
    "Sid": "LambdaECRImageRetrievalPolicy",
    "Effect": "Allow",
    "Principal": {"Service": "lambda.amazonaws.com"},
    "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
    "Condition": {"StringLike": {"aws:sourceArn": "arn:aws:lambda:us-east-1:111122223333:function:*"}},
}


def document(*statements: Statement, **elements: object) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)} | elements


PULL_ACTIONS = ACTIONS[PULL]


class TestAttach:
    def test_creates_a_policy_with_only_our_statement(self) -> None:
        assert render(attach_pull(None, [ROLE])) == (
            '{"Version":"2012-10-17","Statement":[{"Sid":"AllowPull","Effect":"Allow",'
            '"Principal":{"AWS":"arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"},'
            '"Action":["ecr:GetDownloadUrlForLayer","ecr:BatchGetImage","ecr:BatchCheckLayerAvailability"]}]}'
        )

    def test_lists_several_roles_in_one_statement(self) -> None:
        assert attach_pull(None, [ROLE, OTHER_ROLE]) == document(
            ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}
        )

    def test_appends_our_statement_after_foreign_statements(self) -> None:
        assert attach_pull(document(FOREIGN, Id="theirs"), [ROLE]) == document(
            FOREIGN, ALLOW_PULL, Id="theirs"
        )

    def test_accepts_a_statement_that_is_a_single_object(self) -> None:
        assert attach_pull({"Version": "2008-10-17", "Statement": FOREIGN}, [ROLE]) == {
            "Version": "2008-10-17",
            "Statement": [FOREIGN, ALLOW_PULL],
        }

    def test_adds_no_version_to_a_policy_without_one(self) -> None:
        assert attach_pull({"Statement": [FOREIGN]}, [ROLE]) == {"Statement": [FOREIGN, ALLOW_PULL]}

    def test_adds_only_the_missing_roles(self) -> None:
        attached = attach_pull(document(ALLOW_PULL, FOREIGN), [ROLE, OTHER_ROLE])

        assert attached == document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}, FOREIGN)

    @pytest.mark.parametrize(
        "statement",
        [
            ALLOW_PULL,
            ALLOW_PULL | {"Principal": {"AWS": [ROLE]}},
            ALLOW_PULL | {"Principal": {"AWS": [MANUALLY_ADDED, ROLE]}},
            ALLOW_PULL | {"Action": list(reversed(PULL_ACTIONS))},
            ALLOW_PULL | {"Action": [action.upper() for action in PULL_ACTIONS]},
        ],
    )
    def test_does_not_change_a_policy_that_holds_the_grant_in_any_form(self, statement: Statement) -> None:
        present = document(FOREIGN, statement)

        assert attach_pull(present, [ROLE]) is present

    def test_keeps_a_manually_added_role(self) -> None:
        attached = attach_pull(document(ALLOW_PULL | {"Principal": {"AWS": MANUALLY_ADDED}}), [ROLE])

        assert pull_roles(attached) == {MANUALLY_ADDED, ROLE}

    @pytest.mark.parametrize(
        "taken",
        [
            ALLOW_PULL | {"Action": [*PULL_ACTIONS, "ecr:PutImage"]},
            ALLOW_PULL | {"Action": "ecr:BatchGetImage"},
            ALLOW_PULL | {"Action": "ecr:*"},
            ALLOW_PULL | {"Action": []},
            ALLOW_PULL | {"Action": [*PULL_ACTIONS, 7]},
            ALLOW_PULL | {"Effect": "Deny"},
            ALLOW_PULL | {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
            ALLOW_PULL | {"Principal": "*"},
            ALLOW_PULL | {"Principal": {"AWS": "*"}},
            ALLOW_PULL | {"Principal": {"AWS": ["*", ROLE]}},
            ALLOW_PULL | {"Principal": {"AWS": "arn:aws:iam::222222222222:role/unionai-*"}},
            ALLOW_PULL | {"Principal": {"AWS": []}},
            ALLOW_PULL | {"Principal": {"Service": "lambda.amazonaws.com"}},
            ALLOW_PULL | {"Principal": {"AWS": ROLE, "Service": "lambda.amazonaws.com"}},
            {key: value for key, value in ALLOW_PULL.items() if key != "Principal"}
            | {"NotPrincipal": {"AWS": ROLE}},
            {key: value for key, value in ALLOW_PULL.items() if key != "Action"}
            | {"NotAction": "ecr:PutImage"},
        ],
    )
    def test_uses_another_sid_if_ours_is_taken_by_a_foreign_statement(self, taken: Statement) -> None:
        attached = attach_pull(document(taken), [ROLE])

        assert attached == document(taken, ALLOW_PULL | {"Sid": "AllowPull2"})
        assert attach_pull(attached, [ROLE]) is attached

    def test_uses_the_next_free_sid(self) -> None:
        taken = ALLOW_PULL | {"Effect": "Deny"}
        present = document(taken, taken | {"Sid": "AllowPull2"}, taken | {"Sid": "AllowPull3"})

        assert pull_roles(attach_pull(present, [ROLE])) == {ROLE}
        assert attach_pull(present, [ROLE])["Statement"] == [
            *document(taken, taken | {"Sid": "AllowPull2"}, taken | {"Sid": "AllowPull3"})["Statement"],  # type: ignore[misc]
            ALLOW_PULL | {"Sid": "AllowPull4"},
        ]

    @pytest.mark.parametrize("sid", ["AllowPullByVendor", "AllowPull1", "AllowPull02", "allowpull", None, 7])
    def test_treats_a_statement_with_another_sid_as_foreign(self, sid: object) -> None:
        similar = ALLOW_PULL | {"Sid": sid}

        assert attach_pull(document(similar), [ROLE]) == document(similar, ALLOW_PULL)

    def test_keeps_foreign_statements_that_share_a_sid_or_have_none(self) -> None:
        anonymous = {key: value for key, value in FOREIGN.items() if key != "Sid"}

        assert attach_pull(document(FOREIGN, FOREIGN, anonymous, anonymous), [ROLE]) == document(
            FOREIGN, FOREIGN, anonymous, anonymous, ALLOW_PULL
        )

    def test_removes_unlisted_roles_on_request(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [MANUALLY_ADDED, ROLE]}}, FOREIGN)

        assert attach_pull(present, [ROLE], remove_unlisted=True) == document(ALLOW_PULL, FOREIGN)

    def test_replaces_the_roles_of_our_statement_on_request(self) -> None:
        present = document(FOREIGN, ALLOW_PULL | {"Principal": {"AWS": MANUALLY_ADDED}})

        assert attach_pull(present, [ROLE, OTHER_ROLE], remove_unlisted=True) == document(
            FOREIGN, ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}
        )

    def test_removes_a_statement_of_ours_that_would_have_no_principals(self) -> None:
        present = document(
            ALLOW_PULL, FOREIGN, ALLOW_PULL | {"Sid": "AllowPull2", "Principal": {"AWS": MANUALLY_ADDED}}
        )

        assert attach_pull(present, [ROLE], remove_unlisted=True) == document(ALLOW_PULL, FOREIGN)

    def test_does_not_mutate_its_input(self) -> None:
        present = document(FOREIGN, ALLOW_PULL)
        before = json.dumps(present)

        attach_pull(present, [OTHER_ROLE], remove_unlisted=True)

        assert json.dumps(present) == before

    def test_removes_unlisted_and_deleted_principals_together(self) -> None:
        deleted = "AROAEXAMPLEOFADELETED"
        before = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED, deleted]}})

        after = attach(before, [Grant(PULL, (ROLE,))], remove_unlisted={PULL}, remove_deleted=True)

        assert pull_roles(after) == {ROLE}


class TestSeveralGrants:
    GRANTS = (
        Grant(PULL, (ROLE,)),
        Grant(DESCRIBE_IMAGES, (OTHER_ROLE,)),
        Grant(PULL_THROUGH_CACHE, (ROLE,)),
    )
    STATEMENTS = (
        ALLOW_PULL,
        ALLOW_PULL
        | {"Sid": "AllowDescribeImages", "Principal": {"AWS": OTHER_ROLE}, "Action": ["ecr:DescribeImages"]},
        ALLOW_PULL | {"Sid": "AllowPullThroughCache", "Action": ["ecr:BatchImportUpstreamImage"]},
    )

    def test_get_a_statement_each(self) -> None:
        assert attach(None, self.GRANTS) == document(*self.STATEMENTS)
        assert attach(document(FOREIGN), self.GRANTS) == document(FOREIGN, *self.STATEMENTS)

    def test_without_roles_get_no_statement(self) -> None:
        assert attach(None, [Grant(PULL, (ROLE,)), Grant(DESCRIBE_IMAGES, ())]) == document(ALLOW_PULL)

    def test_are_found_in_a_policy(self) -> None:
        assert entries_of(document(FOREIGN, *self.STATEMENTS)) == {
            Entry(PULL, ROLE),
            Entry(DESCRIBE_IMAGES, OTHER_ROLE),
            Entry(PULL_THROUGH_CACHE, ROLE),
        }

    def test_are_recognized_by_the_sid_and_the_actions_together(self) -> None:
        swapped = self.STATEMENTS[1] | {"Sid": "AllowPullThroughCache"}

        attached = attach(document(swapped), self.GRANTS)

        assert attached == document(
            swapped, *self.STATEMENTS[:2], self.STATEMENTS[2] | {"Sid": "AllowPullThroughCache2"}
        )

    def test_keep_their_statement_where_they_no_longer_apply(self) -> None:
        present = document(*self.STATEMENTS)

        assert attach(present, [*self.GRANTS[:2], Grant(PULL_THROUGH_CACHE, ())]) is present

    def test_lose_their_statement_where_they_no_longer_apply_on_request(self) -> None:
        grants = [*self.GRANTS[:2], Grant(PULL_THROUGH_CACHE, ())]

        attached = attach(document(*self.STATEMENTS), grants, remove_unlisted=ACTIONS)

        assert attached == document(*self.STATEMENTS[:2])


class TestParse:
    @pytest.mark.parametrize("text", [None, "", "  \n"])
    def test_returns_none_for_an_empty_text(self, text: str | None) -> None:
        assert parse(text) is None

    def test_returns_the_policy(self) -> None:
        assert parse(json.dumps(document(FOREIGN))) == document(FOREIGN)

    def test_keeps_a_number_that_can_be_written_back_exactly(self) -> None:
        assert parse('{"Statement": {"Condition": 1.5}}') == {"Statement": {"Condition": 1.5}}

    @pytest.mark.parametrize(
        ("text", "error_message"),
        [
            ("not JSON", "cannot be parsed, or not written back, as JSON"),
            ("[" * 100_000, "cannot be parsed, or not written back, as JSON"),
            ("[]", "not a JSON object"),
            ("null", "not a JSON object"),
            ('{"Statement": "all"}', "Statement"),
            ('{"Statement": ["all"]}', "Statement"),
            ('{"Statement": null}', "Statement"),
            ('{"Version": "2012-10-17"}', "Statement"),
            ('{"version": "2012-10-17", "statement": []}', "unknown elements: statement, version"),
            ('{"Statement": [], "Statement": []}', "same key twice"),
            ('{"Statement": {"Condition": {"Bool": {"a": "1"}, "Bool": {"b": "1"}}}}', "same key twice"),
            ('{"Statement": {"Condition": NaN}}', "as JSON"),
            ('{"Statement": {"Condition": 0.10000000000000000001}}', "cannot be written back unchanged"),
        ],
    )
    def test_rejects_an_invalid_policy(self, text: str, error_message: str) -> None:
        with pytest.raises(InvalidPolicy, match=error_message):
            parse(text)


class TestRender:
    def test_keeps_non_ascii_characters(self) -> None:
        assert render({"Id": "für später"}) == '{"Id":"für später"}'
        assert render({"Id": "ü" * 10_000})

    def test_rejects_a_policy_over_the_size_limit(self) -> None:
        overhead = len(render({"Id": ""}))

        assert len(render({"Id": "x" * (10_240 - overhead)})) == 10_240
        with pytest.raises(PolicyTooLong, match=r"10,241 characters and ECR allows 10,240"):
            render({"Id": "x" * (10_241 - overhead)})
