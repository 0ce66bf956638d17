"""The desired policy, by example. test_policy_promises.py tests what holds for every policy."""

import json

import pytest

from handler.policy.document import InvalidPolicy, Policy, Statement, parse, render
from handler.policy.grants import ACTIONS, DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant, Grantee
from handler.policy.plan import Plan, grantees_of, plan
from tests.unit.pull_grant import attach_pull, pull_roles

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
OTHER_ROLE = "arn:aws:iam::333333333333:role/unionai-other-flyteworker-node-group"
MANUALLY_ADDED = "arn:aws:iam::444444444444:role/added-manually"
DELETED = "AROAEXAMPLEOFADELETED"

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

    def test_says_what_it_adds_and_removes(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [MANUALLY_ADDED, ROLE]}})

        planned = plan(present, [Grant(PULL, (ROLE, OTHER_ROLE))], remove_unlisted=True)

        assert planned.added == {Grantee(PULL, OTHER_ROLE)}
        assert planned.removed == {Grantee(PULL, MANUALLY_ADDED)}


class TestIdsOfDeletedPrincipals:
    PRESENT = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, DELETED]}}, FOREIGN)

    @pytest.mark.parametrize("deleted", [DELETED, "AIDAEXAMPLEOFADELETED"])
    def test_leave_when_a_role_is_added(self, deleted: str) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, deleted]}}, FOREIGN)

        planned = plan(present, [Grant(PULL, (ROLE, OTHER_ROLE))])

        assert planned.policy == document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}, FOREIGN)
        assert planned.removed == {Grantee(PULL, deleted)}

    def test_leave_the_statements_of_other_grants_too(self) -> None:
        describe = allow_describe(DELETED)

        planned = plan(document(ALLOW_PULL, describe), [Grant(PULL, (ROLE, OTHER_ROLE))])

        assert grantees_of(planned.policy) == {Grantee(PULL, ROLE), Grantee(PULL, OTHER_ROLE)}
        assert planned.removed == {Grantee(DESCRIBE_IMAGES, DELETED)}

    def test_stay_if_nothing_else_changes(self) -> None:
        """Their removal grants nothing, and each write is an event."""
        assert plan(self.PRESENT, [Grant(PULL, (ROLE,))]) == Plan(self.PRESENT)
        assert plan(self.PRESENT, [Grant(PULL, (ROLE, OTHER_ROLE))], missing=[OTHER_ROLE]) == Plan(
            self.PRESENT
        )

    def test_stay_if_the_role_that_is_to_be_added_does_not_fit(self) -> None:
        present = padded(self.PRESENT, space=0)

        planned = plan(present, [Grant(PULL, (ROLE, f"{OTHER_ROLE}-whose-name-is-longer-than-the-id"))])

        assert planned.policy is present
        assert planned.removed == set()

    def test_are_unlisted_principals_too(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED, DELETED]}})

        assert pull_roles(attach_pull(self.PRESENT, [ROLE], remove_unlisted=True)) == {ROLE}
        assert pull_roles(attach_pull(present, [ROLE], remove_unlisted=True)) == {ROLE}

    @pytest.mark.parametrize(
        "name", ["AROASHORT", "AGPAEXAMPLEEXAMPLEEXA", f"{DELETED}:session", DELETED.lower()]
    )
    def test_are_told_from_other_principals(self, name: str) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, name]}})

        assert pull_roles(attach_pull(present, [ROLE, OTHER_ROLE])) == {ROLE, OTHER_ROLE, name}

    def test_stay_in_foreign_statements(self) -> None:
        foreign = FOREIGN | {"Principal": {"AWS": DELETED}}

        assert attach_pull(document(foreign), [ROLE], remove_unlisted=True) == document(foreign, ALLOW_PULL)


class TestAMissingRole:
    def test_is_not_added(self) -> None:
        planned = plan(None, [Grant(PULL, (ROLE, OTHER_ROLE))], missing={OTHER_ROLE})

        assert planned == Plan(document(ALLOW_PULL), added=frozenset({Grantee(PULL, ROLE)}))

    def test_alone_changes_nothing(self) -> None:
        assert plan(None, [Grant(PULL, (ROLE,))], missing=[ROLE]) == Plan(None)
        present = document(FOREIGN)
        assert plan(present, [Grant(PULL, (ROLE,))], missing=[ROLE]).policy is present

    @pytest.mark.parametrize("remove_unlisted", [False, True])
    def test_that_the_policy_names_stays(self, *, remove_unlisted: bool) -> None:
        """It exists: a policy shows the ARN of a role only while the role exists."""
        present = document(ALLOW_PULL)

        planned = plan(present, [Grant(PULL, (ROLE,))], missing=[ROLE], remove_unlisted=remove_unlisted)

        assert planned == Plan(present)

    def test_that_the_policy_names_is_reason_enough_to_remove_others(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED]}})

        planned = plan(present, [Grant(PULL, (ROLE,))], missing=[ROLE], remove_unlisted=True)

        assert planned == Plan(document(ALLOW_PULL), removed=frozenset({Grantee(PULL, MANUALLY_ADDED)}))

    def test_does_not_prevent_removals_if_another_role_of_the_grant_exists(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED]}})

        planned = plan(present, [Grant(PULL, (ROLE, OTHER_ROLE))], missing=[OTHER_ROLE], remove_unlisted=True)

        assert planned.policy == document(ALLOW_PULL)
        assert planned.not_removed == ()


class TestUnlistedPrincipals:
    """Not even on request are principals removed where no principal, or no statement, would be left."""

    def test_stay_if_every_role_of_the_grant_is_missing(self) -> None:
        present = document(ALLOW_PULL | {"Principal": {"AWS": MANUALLY_ADDED}}, FOREIGN)

        planned = plan(present, [Grant(PULL, (ROLE,))], missing=[ROLE], remove_unlisted=True)

        assert planned.policy is present
        assert planned.not_removed == (PULL,)

    def test_leave_the_other_grants_then(self) -> None:
        pull = ALLOW_PULL | {"Principal": {"AWS": MANUALLY_ADDED}}
        grants = [Grant(PULL, (ROLE,)), Grant(DESCRIBE_IMAGES, (OTHER_ROLE,))]

        planned = plan(
            document(pull, allow_describe(MANUALLY_ADDED)), grants, missing=[ROLE], remove_unlisted=True
        )

        assert planned.policy == document(pull, allow_describe(OTHER_ROLE))
        assert planned.not_removed == (PULL,)

    def test_stay_if_the_policy_would_have_no_statement(self) -> None:
        present = document(ALLOW_PULL)

        planned = plan(present, [Grant(PULL, ())], remove_unlisted=True)

        assert planned == Plan(present, not_removed=(PULL,))

    def test_leave_a_policy_that_keeps_another_statement(self) -> None:
        assert plan(document(ALLOW_PULL, FOREIGN), [Grant(PULL, ())], remove_unlisted=True) == Plan(
            document(FOREIGN), removed=frozenset({Grantee(PULL, ROLE)})
        )


class TestLength:
    """ECR allows 10,240 characters."""

    def test_of_exactly_the_limit_fits(self) -> None:
        added = len(render(attach_pull(document(FOREIGN), [ROLE]))) - len(render(document(FOREIGN)))

        planned = plan(padded(document(FOREIGN), space=added), [Grant(PULL, (ROLE,))])

        assert planned.policy
        assert len(render(planned.policy)) == 10_240
        assert (planned.unfit, planned.length, planned.length_error) == ((), 0, "")

    def test_of_one_character_more_leaves_the_policy_as_it_is_and_names_the_role(self) -> None:
        added = len(render(attach_pull(document(FOREIGN), [ROLE]))) - len(render(document(FOREIGN)))
        present = padded(document(FOREIGN), space=added - 1)

        planned = plan(present, [Grant(PULL, (ROLE,))])

        assert planned.policy is present
        assert planned.added == set()
        assert planned.unfit == (Grantee(PULL, ROLE),)
        assert planned.length == 10_241
        assert planned.length_error.startswith(
            f"no space for {ROLE}: the policy would have 10,241 characters and ECR allows 10,240: shorten the"
        )

    def test_is_counted_in_characters_of_the_text_and_not_in_bytes(self) -> None:
        present = document(FOREIGN | {"Sid": "ü" * 9_000})

        assert pull_roles(attach_pull(present, [ROLE])) == {ROLE}

    def test_leaves_out_a_role_and_adds_a_shorter_one_after_it(self) -> None:
        long = f"arn:aws:iam::222222222222:role/{'path/' * 90}name"
        present = padded(document(ALLOW_PULL), space=200)

        planned = plan(present, [Grant(PULL, (ROLE, long, OTHER_ROLE))])

        assert planned.added == {Grantee(PULL, OTHER_ROLE)}
        assert planned.unfit == (Grantee(PULL, long),)
        assert planned.length > 10_240

    def test_gives_the_space_to_the_first_of_the_roles(self) -> None:
        present = padded(document(ALLOW_PULL), space=len(OTHER_ROLE) + len('[,""]'))

        planned = plan(present, [Grant(PULL, (ROLE, OTHER_ROLE, f"{OTHER_ROLE}2"))])

        assert planned.added == {Grantee(PULL, OTHER_ROLE)}
        assert planned.unfit == (Grantee(PULL, f"{OTHER_ROLE}2"),)
        assert planned.policy
        assert len(render(planned.policy)) == 10_240

    def test_counts_the_space_of_what_is_removed(self) -> None:
        both = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED]}})
        roles = (ROLE, MANUALLY_ADDED.replace("added", "other"))

        planned = plan(padded(both, space=0), [Grant(PULL, roles)], remove_unlisted=True)

        assert pull_roles(planned.policy) == set(roles)
        assert planned.unfit == ()

    def test_does_not_keep_unlisted_roles_from_being_removed(self) -> None:
        both = document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED]}})
        long = f"arn:aws:iam::222222222222:role/{'path/' * 90}name"

        planned = plan(padded(both, space=0), [Grant(PULL, (ROLE, long))], remove_unlisted=True)

        assert pull_roles(planned.policy) == {ROLE}
        assert planned.unfit == (Grantee(PULL, long),)

    def test_of_a_policy_that_is_too_long_even_without_unlisted_roles_leaves_it_as_it_is(self) -> None:
        present = padded(document(ALLOW_PULL | {"Principal": {"AWS": [ROLE, MANUALLY_ADDED]}}), space=-1_000)

        planned = plan(present, [Grant(PULL, (ROLE,))], remove_unlisted=True)

        assert planned.policy is present
        assert planned.removed == set()
        assert planned.length_error.startswith("nothing removed: the policy would have 11,")

    def test_of_a_policy_that_needs_no_change_is_no_error(self) -> None:
        present = padded(document(ALLOW_PULL), space=-1_000)

        assert plan(present, [Grant(PULL, (ROLE,))]) == Plan(present)


def padded(policy: Policy, space: int) -> Policy:
    """Return the policy with a foreign statement that leaves this space for more characters."""
    statements = policy["Statement"]
    assert isinstance(statements, list)
    with_padding = {**policy, "Statement": [*statements, FOREIGN | {"Sid": ""}]}
    sid = "x" * (10_240 - len(render(with_padding)) - space)
    return {**policy, "Statement": [*statements, FOREIGN | {"Sid": sid}]}


def allow_describe(role: str) -> Statement:
    return ALLOW_PULL | {
        "Sid": "AllowDescribeImages",
        "Principal": {"AWS": role},
        "Action": ["ecr:DescribeImages"],
    }


class TestSeveralGrants:
    GRANTS = (
        Grant(PULL, (ROLE,)),
        Grant(DESCRIBE_IMAGES, (OTHER_ROLE,)),
        Grant(PULL_THROUGH_CACHE, (ROLE,)),
    )
    STATEMENTS = (
        ALLOW_PULL,
        allow_describe(OTHER_ROLE),
        ALLOW_PULL | {"Sid": "AllowPullThroughCache", "Action": ["ecr:BatchImportUpstreamImage"]},
    )

    def test_get_a_statement_each(self) -> None:
        assert plan(None, self.GRANTS).policy == document(*self.STATEMENTS)
        assert plan(document(FOREIGN), self.GRANTS).policy == document(FOREIGN, *self.STATEMENTS)

    def test_leave_the_statements_of_the_others_in_their_form(self) -> None:
        pull = ALLOW_PULL | {"Principal": {"AWS": [ROLE]}}

        assert plan(document(pull), self.GRANTS).policy == document(pull, *self.STATEMENTS[1:])

    def test_without_roles_get_no_statement(self) -> None:
        assert plan(None, [Grant(PULL, (ROLE,)), Grant(DESCRIBE_IMAGES, ())]).policy == document(ALLOW_PULL)

    def test_are_found_in_a_policy(self) -> None:
        assert grantees_of(document(FOREIGN, *self.STATEMENTS)) == {
            Grantee(PULL, ROLE),
            Grantee(DESCRIBE_IMAGES, OTHER_ROLE),
            Grantee(PULL_THROUGH_CACHE, ROLE),
        }

    def test_are_recognized_by_the_sid_and_the_actions_together(self) -> None:
        swapped = self.STATEMENTS[1] | {"Sid": "AllowPullThroughCache"}

        assert plan(document(swapped), self.GRANTS).policy == document(
            swapped, *self.STATEMENTS[:2], self.STATEMENTS[2] | {"Sid": "AllowPullThroughCache2"}
        )

    def test_keep_their_statement_where_they_no_longer_apply(self) -> None:
        present = document(*self.STATEMENTS)

        assert plan(present, [*self.GRANTS[:2], Grant(PULL_THROUGH_CACHE, ())]).policy is present

    def test_lose_their_statement_where_they_no_longer_apply_on_request(self) -> None:
        grants = [*self.GRANTS[:2], Grant(PULL_THROUGH_CACHE, ())]

        planned = plan(document(*self.STATEMENTS), grants, remove_unlisted=True)

        assert planned.policy == document(*self.STATEMENTS[:2])


class TestParse:
    @pytest.mark.parametrize("text", [None, "", "  \n"])
    def test_returns_none_for_an_empty_text(self, text: str | None) -> None:
        assert parse(text) is None

    def test_returns_the_policy(self) -> None:
        assert parse(json.dumps(document(FOREIGN))) == document(FOREIGN)

    @pytest.mark.parametrize("number", ["12", "1.5", "0", "-1", "-2.25", "0.1", "1e-07", "1" * 400])
    def test_keeps_a_number_that_can_be_written_back_exactly(self, number: str) -> None:
        text = f'{{"Statement":{{"Condition":{number}}}}}'

        assert render(parse(text) or {}) == text

    @pytest.mark.parametrize(
        "number", ["1.10", "1E2", "1e2", "1.0e2", "-0", "-0.0e1", "1e400", "-1e400", "0.10000000000000000001"]
    )
    def test_rejects_a_number_that_would_be_written_back_as_another_text(self, number: str) -> None:
        with pytest.raises(InvalidPolicy) as caught:
            parse(f'{{"Statement": {{"Condition": {{"NumericLessThan": {{"a": [{number}]}}}}}}}}')

        assert str(caught.value) == "the policy holds a number that cannot be written back unchanged"

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
            ('{"version": "2012-10-17", "statement": []}', "unknown elements: only Version, Id and State"),
            ('{"Statement": [], "Statement": []}', "same key twice"),
            ('{"Statement": {"Condition": {"Bool": {"a": "1"}, "Bool": {"b": "1"}}}}', "same key twice"),
            ('{"Statement": {"Condition": NaN}}', "as JSON"),
        ],
    )
    def test_rejects_an_invalid_policy(self, text: str, error_message: str) -> None:
        with pytest.raises(InvalidPolicy, match=error_message):
            parse(text)


class TestRender:
    def test_keeps_non_ascii_characters(self) -> None:
        assert render({"Id": "für später"}) == '{"Id":"für später"}'
        assert render({"Id": "ü" * 10_000})
