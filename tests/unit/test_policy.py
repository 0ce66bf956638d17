"""The policy that should be, by example. What holds for every policy is in test_policy_promises.py."""

import json

import pytest

from handler.policy import PULL_ACTIONS, attach, granted
from handler.policy_document import InvalidPolicy, Policy, PolicyTooLong, Statement, parse, render

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
OTHER_ROLE = "arn:aws:iam::333333333333:role/unionai-other-flyteworker-node-group"
BY_HAND = "arn:aws:iam::444444444444:role/somebody-typed-this"

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


class TestAttach:
    def test_gives_a_repository_without_a_policy_exactly_our_statement(self) -> None:
        assert render(attach(None, [ROLE])) == (
            '{"Version":"2012-10-17","Statement":[{"Sid":"AllowPull","Effect":"Allow",'
            '"Principal":{"AWS":"arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"},'
            '"Action":["ecr:GetDownloadUrlForLayer","ecr:BatchGetImage","ecr:BatchCheckLayerAvailability"]}]}'
        )

    def test_lists_several_roles_in_one_statement(self) -> None:
        assert attach(None, [ROLE, OTHER_ROLE]) == document(
            ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}
        )

    def test_puts_our_statement_behind_those_of_others(self) -> None:
        assert attach(document(FOREIGN, Id="theirs"), [ROLE]) == document(FOREIGN, ALLOW_PULL, Id="theirs")

    def test_takes_a_statement_that_is_one_object(self) -> None:
        assert attach({"Version": "2008-10-17", "Statement": FOREIGN}, [ROLE]) == {
            "Version": "2008-10-17",
            "Statement": [FOREIGN, ALLOW_PULL],
        }

    def test_adds_no_version_where_there_was_none(self) -> None:
        assert attach({"Statement": [FOREIGN]}, [ROLE]) == {"Statement": [FOREIGN, ALLOW_PULL]}

    def test_adds_only_the_roles_that_are_missing(self) -> None:
        attached = attach(document(ALLOW_PULL, FOREIGN), [ROLE, OTHER_ROLE])

        assert attached == document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}, FOREIGN)

    @pytest.mark.parametrize(
        "statement",
        [
            ALLOW_PULL,
            ALLOW_PULL | {"Principal": {"AWS": [ROLE]}},
            ALLOW_PULL | {"Principal": {"AWS": [BY_HAND, ROLE]}},
            ALLOW_PULL | {"Action": list(reversed(PULL_ACTIONS))},
            ALLOW_PULL | {"Action": [action.upper() for action in PULL_ACTIONS]},
        ],
    )
    def test_leaves_a_policy_alone_that_holds_the_grant_in_any_form(self, statement: Statement) -> None:
        present = document(FOREIGN, statement)

        assert attach(present, [ROLE]) is present

    def test_keeps_a_role_that_somebody_put_in_by_hand(self) -> None:
        attached = attach(document(ALLOW_PULL | {"Principal": {"AWS": BY_HAND}}), [ROLE])

        assert granted(attached) == {BY_HAND, ROLE}

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
            ALLOW_PULL | {"Principal": {"AWS": []}},
            ALLOW_PULL | {"Principal": {"Service": "lambda.amazonaws.com"}},
            ALLOW_PULL | {"Principal": {"AWS": ROLE, "Service": "lambda.amazonaws.com"}},
            {key: value for key, value in ALLOW_PULL.items() if key != "Principal"}
            | {"NotPrincipal": {"AWS": ROLE}},
            {key: value for key, value in ALLOW_PULL.items() if key != "Action"}
            | {"NotAction": "ecr:PutImage"},
        ],
    )
    def test_takes_another_sid_if_ours_is_on_a_statement_that_is_not_plain(self, taken: Statement) -> None:
        attached = attach(document(taken), [ROLE])

        assert attached == document(taken, ALLOW_PULL | {"Sid": "AllowPull2"})
        assert attach(attached, [ROLE]) is attached

    def test_takes_the_next_free_sid(self) -> None:
        taken = ALLOW_PULL | {"Effect": "Deny"}
        present = document(taken, taken | {"Sid": "AllowPull2"}, taken | {"Sid": "AllowPull3"})

        assert granted(attach(present, [ROLE])) == {ROLE}
        assert attach(present, [ROLE])["Statement"] == [
            *document(taken, taken | {"Sid": "AllowPull2"}, taken | {"Sid": "AllowPull3"})["Statement"],  # type: ignore[misc]
            ALLOW_PULL | {"Sid": "AllowPull4"},
        ]

    @pytest.mark.parametrize("sid", ["AllowPullByVendor", "AllowPull1", "AllowPull02", "allowpull", None, 7])
    def test_does_not_take_a_statement_with_another_sid_for_ours(self, sid: object) -> None:
        look_alike = ALLOW_PULL | {"Sid": sid}

        assert attach(document(look_alike), [ROLE]) == document(look_alike, ALLOW_PULL)

    def test_keeps_statements_of_others_that_share_a_sid_or_have_none(self) -> None:
        anonymous = {key: value for key, value in FOREIGN.items() if key != "Sid"}

        assert attach(document(FOREIGN, FOREIGN, anonymous, anonymous), [ROLE]) == document(
            FOREIGN, FOREIGN, anonymous, anonymous, ALLOW_PULL
        )

    def test_removes_unlisted_roles_on_request(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [BY_HAND, ROLE]}}, FOREIGN)

        assert attach(present, [ROLE], remove_unlisted=True) == document(ALLOW_PULL, FOREIGN)

    def test_replaces_the_roles_of_our_statement_on_request(self) -> None:
        present = document(FOREIGN, ALLOW_PULL | {"Principal": {"AWS": BY_HAND}})

        assert attach(present, [ROLE, OTHER_ROLE], remove_unlisted=True) == document(
            FOREIGN, ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}
        )

    def test_removes_a_statement_of_ours_in_which_nobody_stays(self) -> None:
        present = document(
            ALLOW_PULL, FOREIGN, ALLOW_PULL | {"Sid": "AllowPull2", "Principal": {"AWS": BY_HAND}}
        )

        assert attach(present, [ROLE], remove_unlisted=True) == document(ALLOW_PULL, FOREIGN)

    def test_changes_nothing_of_the_policy_that_it_was_given(self) -> None:
        present = document(FOREIGN, ALLOW_PULL)
        before = json.dumps(present)

        attach(present, [OTHER_ROLE], remove_unlisted=True)

        assert json.dumps(present) == before


class TestParse:
    @pytest.mark.parametrize("text", [None, "", "  \n"])
    def test_takes_no_text_for_no_policy(self, text: str | None) -> None:
        assert parse(text) is None

    def test_reads_a_policy(self) -> None:
        assert parse(json.dumps(document(FOREIGN))) == document(FOREIGN)

    @pytest.mark.parametrize(
        ("text", "complaint"),
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
        ],
    )
    def test_refuses_what_is_no_policy(self, text: str, complaint: str) -> None:
        with pytest.raises(InvalidPolicy, match=complaint):
            parse(text)


class TestRender:
    def test_keeps_letters_of_any_language(self) -> None:
        assert render({"Id": "für später"}) == '{"Id":"für später"}'
        assert render({"Id": "ü" * 10_000})

    def test_refuses_a_policy_that_ecr_would_refuse_for_its_length(self) -> None:
        overhead = len(render({"Id": ""}))

        assert len(render({"Id": "x" * (10_240 - overhead)})) == 10_240
        with pytest.raises(PolicyTooLong, match=r"10,241 characters and ECR allows 10,240"):
            render({"Id": "x" * (10_241 - overhead)})
