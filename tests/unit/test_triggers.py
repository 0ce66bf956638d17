"""Events and payloads, parsed into the repositories to reconcile."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

import pytest

from handler.events.request import Continuation, Ignored, InvalidEvent, Request
from handler.events.triggers import FunctionIdentity, parse

ACCOUNT = "012345678912"
REGION = "us-east-1"
CALLER_ARN = f"arn:aws:sts::{ACCOUNT}:assumed-role/ecr-allow-pull-Role/ecr-allow-pull-Function"
FUNCTION = FunctionIdentity(ACCOUNT, REGION, CALLER_ARN)
EXPECTED_FORM = '{"repositories": ["team/app", "ml/*"], "dry_run": true}'

type Event = dict[str, object]
type Detail = dict[str, object]


def parsed(event: object) -> Request:
    request = parse(event, FUNCTION)
    assert isinstance(request, Request)
    return request


def reason_to_ignore(event: object) -> str:
    ignored = parse(event, FUNCTION)
    assert isinstance(ignored, Ignored)
    return ignored.reason


def error_message(event: object) -> str:
    with pytest.raises(InvalidEvent) as caught:
        parsed(event)
    return str(caught.value)


def creation_event(detail: Detail, **envelope: object) -> Event:
    return {
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ecr",
        "account": ACCOUNT,
        "region": REGION,
        "detail": {"eventSource": "ecr.amazonaws.com", "eventName": "CreateRepository"} | detail,
    } | envelope


class TestCreationEvents:
    @pytest.mark.parametrize(
        ("event", "repository"),
        [("created-by-api", "team/app"), ("created-by-service", "docker-hub/library/alpine")],
    )
    def test_request_the_new_repository(
        self, saved_event: Callable[[str], Event], event: str, repository: str
    ) -> None:
        created_at = datetime.fromisoformat("2026-01-15T10:00:01Z")
        assert parsed(saved_event(event)) == Request((repository,), may_be_new=True, created_at=created_at)

    @pytest.mark.parametrize("time", [None, 7, "yesterday", "2026-01-15T10:00:01"])
    def test_are_accepted_without_a_valid_time(self, time: object) -> None:
        detail: Detail = {"requestParameters": {"repositoryName": "team/app"}}

        assert parsed(creation_event(detail, time=time)) == Request(("team/app",), may_be_new=True)

    def test_are_ignored_if_the_call_failed(self, saved_event: Callable[[str], Event]) -> None:
        reason = reason_to_ignore(saved_event("creation-failed"))

        assert reason == "the call failed and changed nothing"

    @pytest.mark.parametrize("code", ["SomethingNew", "", None])
    def test_are_ignored_with_any_error_code(self, code: object) -> None:
        detail: Detail = {"errorCode": code, "requestParameters": {"repositoryName": "team/app"}}

        assert reason_to_ignore(creation_event(detail)) == "the call failed and changed nothing"

    @pytest.mark.parametrize(
        "detail",
        [
            {"responseElements": {"repository": {"repositoryName": "team/app"}}},
            {"responseElements": {"repositoryName": "team/app", "policyText": "{}"}},
            {"responseElements": None, "serviceEventDetails": {"repositoryName": "team/app"}},
            {"responseElements": None, "requestParameters": {"repositoryName": "team/app"}},
            {"resources": [{"ARN": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"}]},
            {"resources": ["odd", {}, {"arn": f"arn:aws-cn:ecr:{REGION}:{ACCOUNT}:repository/team/app"}]},
            {
                "resources": [
                    {"ARN": f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/not/ours"},
                    {"ARN": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"},
                ]
            },
        ],
    )
    def test_are_accepted_with_the_name_in_any_known_field(self, detail: Detail) -> None:
        assert parsed(creation_event(detail)).repositories == ("team/app",)

    def test_use_the_most_reliable_of_several_names(self) -> None:
        detail: Detail = {
            "requestParameters": {"repositoryName": "third"},
            "serviceEventDetails": {"repositoryName": "second"},
            "responseElements": {"repository": {"repositoryName": "first"}},
        }

        assert parsed(creation_event(detail)).repositories == ("first",)

    @pytest.mark.parametrize(
        "detail",
        [
            {},
            {"responseElements": {"repository": {"repositoryName": 7}}, "resources": "none"},
            {"resources": [{"ARN": "arn:aws:s3:::bucket"}]},
        ],
    )
    def test_are_rejected_without_a_repository_name(self, detail: Detail) -> None:
        assert "names no repository" in error_message(creation_event(detail))

    @pytest.mark.parametrize("name", ["Team/App", "a", "team//app", "-team", "team/", "x" * 257, "a b", "*"])
    def test_are_rejected_with_an_invalid_repository_name(self, name: str) -> None:
        message = error_message(creation_event({"requestParameters": {"repositoryName": name}}))

        assert repr(name) in message

    @pytest.mark.parametrize(
        "origin",
        [{"account": "999999999999"}, {"region": "eu-west-1"}, {"account": None}, {"region": 1}],
    )
    def test_are_rejected_from_another_account_or_region(self, origin: Event) -> None:
        event = creation_event({"requestParameters": {"repositoryName": "team/app"}}, **origin)

        message = error_message(event)

        assert f"account {ACCOUNT}, region {REGION}" in message
        assert all(str(value) in message for value in origin.values())

    @pytest.mark.parametrize(
        "similar_event",
        [
            {"source": "aws.codecommit"},
            {"source": "aws.ecr-public"},
            {"detail": {"eventSource": "ecr-public.amazonaws.com", "eventName": "CreateRepository"}},
            {"detail": {"eventSource": "ecr.amazonaws.com", "eventName": "DeleteRepository"}},
            {"detail-type": "ECR Image Scan"},
            {"detail": {}},
        ],
    )
    def test_are_distinguished_from_similar_events(self, similar_event: Event) -> None:
        event = creation_event({"requestParameters": {"repositoryName": "team/app"}})

        assert parsed(event).repositories == ("team/app",)
        assert reason_to_ignore(event | similar_event) == "not an event that this function acts on"

    @pytest.mark.parametrize("name", ["CreateRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy"])
    def test_of_replication_are_accepted(self, name: str) -> None:
        detail: Detail = {
            "eventSource": "replication.ecr.amazonaws.com",
            "eventName": name,
            "requestParameters": {"repositoryName": "team/app"},
        }

        assert parsed(creation_event(detail)).repositories == ("team/app",)

    def test_are_rejected_without_a_detail_object(self) -> None:
        assert '"detail"' in error_message(creation_event({}) | {"detail": "text"})


class TestPolicyChangeEvents:
    @pytest.mark.parametrize("event", ["policy-set", "policy-deleted"])
    def test_request_the_repository(self, saved_event: Callable[[str], Event], event: str) -> None:
        assert parsed(saved_event(event)) == Request(("team/app",), after_policy_change=True)

    def test_are_accepted_with_the_name_only_in_the_resource_arn(self) -> None:
        arn = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"
        event = policy_change_event({"requestParameters": None, "resources": [{"ARN": arn}]})

        assert parsed(event).repositories == ("team/app",)

    @pytest.mark.parametrize("identity", [{}, {"arn": f"{CALLER_ARN}2"}, {"invokedBy": "x"}, None, "text"])
    def test_by_other_principals_are_processed(self, identity: object) -> None:
        assert parsed(policy_change_event({"userIdentity": identity})).repositories == ("team/app",)

    def test_by_the_function_itself_are_ignored(self) -> None:
        event = policy_change_event({"userIdentity": {"arn": CALLER_ARN}})

        assert reason_to_ignore(event) == "the function's own write"

    def test_are_ignored_if_the_call_failed(self) -> None:
        event = policy_change_event({"errorCode": "InvalidParameterException"})

        assert reason_to_ignore(event) == "the call failed and changed nothing"


def policy_change_event(detail: Detail) -> Event:
    return creation_event(
        {"eventName": "SetRepositoryPolicy", "requestParameters": {"repositoryName": "team/app"}} | detail
    )


OTHER_ACCOUNT = "999999999999"
OTHER_ARN = f"arn:aws:ecr:{REGION}:{OTHER_ACCOUNT}:repository/team/app"


class TestCallsOnAnotherAccountsRegistry:
    """CloudTrail records them in the caller's account too."""

    PLACES = (
        {"requestParameters": {"repositoryName": "team/app", "registryId": OTHER_ACCOUNT}},
        {"responseElements": {"repositoryName": "team/app", "registryId": OTHER_ACCOUNT}},
        {"responseElements": {"repository": {"repositoryName": "team/app", "registryId": OTHER_ACCOUNT}}},
        {"resources": [{"ARN": OTHER_ARN, "accountId": OTHER_ACCOUNT}]},
        {"resources": [{"arn": OTHER_ARN}]},
        {"resources": [{"ARN": OTHER_ARN}, {"ARN": OTHER_ARN.replace(OTHER_ACCOUNT, ACCOUNT)}]},
    )

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("name", ["CreateRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy"])
    def test_are_ignored_although_a_repository_of_ours_may_have_the_same_name(
        self, name: str, place: Detail
    ) -> None:
        detail: Detail = {"eventName": name, "requestParameters": {"repositoryName": "team/app"}} | place

        assert reason_to_ignore(creation_event(detail)) == "a call on another account's registry"

    @pytest.mark.parametrize("place", PLACES)
    def test_are_processed_if_the_account_is_ours(self, place: Detail) -> None:
        ours: Detail = json.loads(json.dumps(place).replace(OTHER_ACCOUNT, ACCOUNT))

        assert parsed(policy_change_event(ours)).repositories == ("team/app",)

    @pytest.mark.parametrize("registry", [None, ""])
    def test_are_not_those_without_the_id_of_a_registry(self, registry: object) -> None:
        detail: Detail = {"requestParameters": {"repositoryName": "team/app", "registryId": registry}}

        assert parsed(policy_change_event(detail)).repositories == ("team/app",)

    def test_are_ignored_if_an_image_was_pushed_there(self, saved_event: Callable[[str], Event]) -> None:
        event = saved_event("image-pushed") | {"resources": [OTHER_ARN]}

        assert reason_to_ignore(event) == "a call on another account's registry"


class TestImageEvents:
    @pytest.mark.parametrize(
        ("event", "repository"),
        [
            ("image-pushed", "team/app"),
            ("image-cached", "ecr-public/docker/library/alpine"),
            ("image-replicated", "team/app"),
        ],
    )
    def test_request_the_repository(
        self, saved_event: Callable[[str], Event], event: str, repository: str
    ) -> None:
        assert parsed(saved_event(event)) == Request((repository,), may_be_new=True)

    def test_are_accepted_with_the_name_only_in_the_resource_arn(
        self, saved_event: Callable[[str], Event]
    ) -> None:
        event = saved_event("image-cached")
        detail = event["detail"]
        assert isinstance(detail, dict)
        del detail["repository-name"]

        for each in (detail, {"sync-status": "SUCCESS"}):
            assert parsed(event | {"detail": each}).repositories == ("ecr-public/docker/library/alpine",)

    @pytest.mark.parametrize(
        ("event", "change"),
        [
            ("image-pushed", {"action-type": "DELETE"}),
            ("image-pushed", {"result": "FAILURE"}),
            ("image-cached", {"sync-status": "FAILED"}),
            ("image-replicated", {"result": "FAILED"}),
        ],
    )
    def test_are_ignored_if_no_image_was_pushed(
        self, saved_event: Callable[[str], Event], event: str, change: Detail
    ) -> None:
        saved = saved_event(event)
        detail = saved["detail"]
        assert isinstance(detail, dict)

        assert reason_to_ignore(saved | {"detail": detail | change}) == "no image was pushed"

    def test_are_rejected_from_another_region(self, saved_event: Callable[[str], Event]) -> None:
        assert "eu-west-1" in error_message(saved_event("image-pushed") | {"region": "eu-west-1"})


class TestDeploymentEvents:
    def test_request_every_repository_in_scope(self, saved_event: Callable[[str], Event]) -> None:
        assert parsed(saved_event("deployed")) == Request(("*",), with_registry_policy=True)

    @pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"])
    def test_are_accepted_in_each_status_with_a_deployed_version(
        self, saved_event: Callable[[str], Event], status: str
    ) -> None:
        event = saved_event("deployed") | {"detail": {"status-details": {"status": status}}}

        assert parsed(event).repositories == ("*",)

    @pytest.mark.parametrize(
        "status",
        [
            {"status": "UPDATE_IN_PROGRESS"},
            {"status": "ROLLBACK_COMPLETE"},
            {"status": "DELETE_COMPLETE"},
            {},
            None,
        ],
    )
    def test_are_ignored_unless_the_deployment_succeeded(
        self, saved_event: Callable[[str], Event], status: object
    ) -> None:
        event = saved_event("deployed") | {"detail": {"status-details": status}}

        assert reason_to_ignore(event) == "not a completed deployment"


class TestContinuations:
    @pytest.mark.parametrize(
        "request_",
        [
            Request(
                ("*",),
                scheduled=True,
                continuation=Continuation("a token", ("*",), ("a1",), ("b2",), 7, 1, pages=3, of_all=True),
            ),
            Request(("team/left", "*"), dry_run=True, continuation=Continuation()),
            Request(("team/app",), with_registry_policy=True),
        ],
    )
    def test_are_parsed_back_from_their_payload(self, request_: Request) -> None:
        assert parsed(request_.payload("0e")) == request_

    @pytest.mark.parametrize(
        "continuation",
        [
            *(7, [], {}, {"token": "x"}, asdict(Continuation()) | {"token": 7}),
            *(asdict(Continuation()) | {name: [7]} for name in ("failed", "failed_again", "unmatched")),
            *(asdict(Continuation()) | {name: -1} for name in ("failed_more", "relistings", "pages")),
            asdict(Continuation()) | {"of_all": 1},
        ],
    )
    def test_with_an_invalid_state_are_rejected(self, continuation: object) -> None:
        assert EXPECTED_FORM in error_message({"repositories": ["*"], "continuation": continuation})


class TestPayloads:
    @pytest.mark.parametrize(
        ("event", "request_"),
        [
            ("rerun-one", Request(("team/app",), with_registry_policy=True)),
            ("rerun-all", Request(("*",), with_registry_policy=True)),
            ("dry-run", Request(("*",), dry_run=True, with_registry_policy=True)),
        ],
    )
    def test_request_names_and_globs(
        self, saved_event: Callable[[str], Event], event: str, request_: Request
    ) -> None:
        assert parsed(saved_event(event)) == request_

    @pytest.mark.parametrize("length", [2, 256])
    def test_accept_names_of_every_length_that_ecr_allows(self, length: int) -> None:
        assert parsed({"repositories": ["r" * length]}).repositories == ("r" * length,)

    def test_that_repeat_a_name_request_the_repository_once(self) -> None:
        assert parsed({"repositories": ["b1", "a1", "b1"]}).repositories == ("b1", "a1")

    @pytest.mark.parametrize(
        "payload",
        [
            {},
            [],
            ["team/app"],
            None,
            "team/app",
            7,
            {"repository": "team/app"},
            {"repositories": "team/app"},
            {"repositories": []},
            {"repositories": [7]},
            {"repositories": {"team/app": True}},
            {"repositories": None},
            {"repositories": ["team/app"], "dryrun": True},
            {"repositories": ["team/app"], "dry_run": "true"},
            {"repositories": ["team/app"], "dry_run": 1},
            {"repositories": ["team/app"], "dry_run": None},
            {"dry_run": True},
            {"repositories": ["team/app"], "worker_role_arns": ["arn:aws:iam::666666666666:role/thief"]},
        ],
    )
    def test_of_another_form_are_rejected_with_the_expected_form(self, payload: object) -> None:
        assert EXPECTED_FORM in error_message(payload)

    @pytest.mark.parametrize("value", ["true", 1, None])
    def test_with_another_value_of_scheduled_are_rejected(self, value: object) -> None:
        message = error_message({"repositories": ["*"], "scheduled": value})

        assert message.startswith('"scheduled" is neither true nor false')

    def test_of_the_schedule_say_so(self, saved_event: Callable[[str], Event]) -> None:
        assert parsed({"repositories": ["*"], "scheduled": True}).scheduled
        assert not parsed(saved_event("rerun-all")).scheduled
        assert not parsed(saved_event("deployed")).scheduled

    def test_with_more_patterns_than_a_continuation_can_hold_are_rejected_with_the_limit(self) -> None:
        longest = [f"{number:03}" + "x" * 496 + "*" for number in range(200)]
        assert len(parsed({"repositories": longest}).repositories) == 200

        message = error_message({"repositories": [*longest, "*"]})

        assert message.startswith('"repositories" has 100,001 characters and 100,000 are allowed')
        assert "use globs that match more, or several payloads" in message

    def test_count_each_pattern_once_toward_the_limit(self) -> None:
        assert parsed({"repositories": ["team/app"] * 20_000}).repositories == ("team/app",)

    def test_with_an_unknown_field_are_rejected_and_the_field_is_named(self) -> None:
        assert "unknown fields: dryrun" in error_message({"repositories": ["team/app"], "dryrun": True})

    @pytest.mark.parametrize("name", ["Team/App", "team app", "", "!team/*", "Team/*", "team/app,ml/*"])
    def test_with_an_invalid_name_are_rejected_and_the_name_is_shown(self, name: str) -> None:
        assert repr(name) in error_message({"repositories": ["team/app", name]})
