"""Any event -> the repositories that it asks to check."""

from collections.abc import Callable
from datetime import datetime

import pytest

from handler.request import Checkpoint, InvalidEvent, Request
from handler.triggers import FunctionIdentity, parse

ACCOUNT = "012345678912"
REGION = "us-east-1"
OURSELVES = f"arn:aws:sts::{ACCOUNT}:assumed-role/ecr-allow-pull-Role/ecr-allow-pull-Function"
FUNCTION = FunctionIdentity(ACCOUNT, REGION, OURSELVES)
RIGHT_FORM = '{"repositories": ["team/app", "ml/*"], "dry_run": true}'

type Event = dict[str, object]
type Detail = dict[str, object]


def parsed(event: object) -> Request:
    return parse(event, FUNCTION)


def complaint(event: object) -> str:
    with pytest.raises(InvalidEvent) as caught:
        parsed(event)
    return str(caught.value)


def creation(detail: Detail, **envelope: object) -> Event:
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
    def test_ask_for_the_new_repository(
        self, saved_event: Callable[[str], Event], event: str, repository: str
    ) -> None:
        made_at = datetime.fromisoformat("2026-01-15T10:00:01Z")
        assert parsed(saved_event(event)) == Request((repository,), may_be_new=True, created_at=made_at)

    @pytest.mark.parametrize("time", [None, 7, "yesterday", "2026-01-15T10:00:01"])
    def test_are_understood_without_their_time(self, time: object) -> None:
        detail: Detail = {"requestParameters": {"repositoryName": "team/app"}}

        assert parsed(creation(detail, time=time)) == Request(("team/app",), may_be_new=True)

    def test_are_ignored_if_the_call_failed(self, saved_event: Callable[[str], Event]) -> None:
        request = parsed(saved_event("creation-failed"))

        assert request.repositories == ()
        assert "failed" in request.ignored

    @pytest.mark.parametrize("code", ["SomethingNew", "", None])
    def test_are_ignored_whatever_the_error_code_is(self, code: object) -> None:
        detail: Detail = {"errorCode": code, "requestParameters": {"repositoryName": "team/app"}}

        assert parsed(creation(detail)).repositories == ()

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
                    {"ARN": f"arn:aws:ecr:{REGION}:999999999999:repository/not/ours"},
                    {"ARN": f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/not/ours"},
                    {"ARN": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"},
                ]
            },
        ],
    )
    def test_are_understood_wherever_the_name_is(self, detail: Detail) -> None:
        assert parsed(creation(detail)).repositories == ("team/app",)

    def test_are_taken_by_the_surest_name_if_there_are_several(self) -> None:
        detail: Detail = {
            "requestParameters": {"repositoryName": "third"},
            "serviceEventDetails": {"repositoryName": "second"},
            "responseElements": {"repository": {"repositoryName": "first"}},
        }

        assert parsed(creation(detail)).repositories == ("first",)

    @pytest.mark.parametrize(
        "detail",
        [
            {},
            {"responseElements": {"repository": {"repositoryName": 7}}, "resources": "none"},
            {"resources": [{"ARN": "arn:aws:s3:::bucket"}]},
        ],
    )
    def test_are_refused_if_there_is_no_name_anywhere(self, detail: Detail) -> None:
        assert "names no repository" in complaint(creation(detail))

    @pytest.mark.parametrize("name", ["Team/App", "a", "team//app", "-team", "team/", "x" * 257, "a b", "*"])
    def test_are_refused_if_ecr_could_not_have_the_name(self, name: str) -> None:
        message = complaint(creation({"requestParameters": {"repositoryName": name}}))

        assert repr(name) in message

    @pytest.mark.parametrize(
        "elsewhere",
        [{"account": "999999999999"}, {"region": "eu-west-1"}, {"account": None}, {"region": 1}],
    )
    def test_are_refused_from_another_account_or_region(self, elsewhere: Event) -> None:
        event = creation({"requestParameters": {"repositoryName": "team/app"}}, **elsewhere)

        message = complaint(event)

        assert f"account {ACCOUNT}, region {REGION}" in message
        assert all(str(value) in message for value in elsewhere.values())

    @pytest.mark.parametrize(
        "look_alike",
        [
            {"source": "aws.codecommit"},
            {"source": "aws.ecr-public"},
            {"detail": {"eventSource": "ecr-public.amazonaws.com", "eventName": "CreateRepository"}},
            {"detail": {"eventSource": "ecr.amazonaws.com", "eventName": "DeleteRepository"}},
            {"detail-type": "ECR Image Scan"},
            {"detail": {}},
        ],
    )
    def test_are_told_from_their_look_alikes(self, look_alike: Event) -> None:
        event = creation({"requestParameters": {"repositoryName": "team/app"}}) | look_alike

        assert parsed(event) == Request(ignored="not an event that this function acts on")

    def test_need_a_detail(self) -> None:
        assert '"detail"' in complaint(creation({}) | {"detail": "text"})


class TestPolicyChanges:
    @pytest.mark.parametrize("event", ["policy-set", "policy-deleted"])
    def test_ask_for_the_repository(self, saved_event: Callable[[str], Event], event: str) -> None:
        assert parsed(saved_event(event)) == Request(("team/app",), after_policy_change=True)

    def test_are_understood_by_their_resource_alone(self) -> None:
        arn = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/team/app"
        event = policy_change({"requestParameters": None, "resources": [{"ARN": arn}]})

        assert parsed(event).repositories == ("team/app",)

    @pytest.mark.parametrize("identity", [{}, {"arn": f"{OURSELVES}2"}, {"invokedBy": "x"}, None, "text"])
    def test_of_anybody_else_are_acted_on(self, identity: object) -> None:
        assert parsed(policy_change({"userIdentity": identity})).repositories == ("team/app",)

    def test_of_our_own_are_not(self) -> None:
        request = parsed(policy_change({"userIdentity": {"arn": OURSELVES}}))

        assert request == Request(ignored="the function's own write")

    def test_that_failed_are_ignored(self) -> None:
        assert "failed" in parsed(policy_change({"errorCode": "InvalidParameterException"})).ignored


def policy_change(detail: Detail) -> Event:
    return creation(
        {"eventName": "SetRepositoryPolicy", "requestParameters": {"repositoryName": "team/app"}} | detail
    )


class TestArrivals:
    @pytest.mark.parametrize(
        ("event", "repository"),
        [
            ("image-pushed", "team/app"),
            ("image-cached", "ecr-public/docker/library/alpine"),
            ("image-replicated", "team/app"),
        ],
    )
    def test_ask_for_the_repository(
        self, saved_event: Callable[[str], Event], event: str, repository: str
    ) -> None:
        assert parsed(saved_event(event)) == Request((repository,), may_be_new=True)

    def test_are_understood_also_by_their_resource(self, saved_event: Callable[[str], Event]) -> None:
        event = saved_event("image-cached")
        detail = event["detail"]
        assert isinstance(detail, dict)
        del detail["repository-name"]

        assert parsed(event).repositories == ("ecr-public/docker/library/alpine",)

    @pytest.mark.parametrize(
        ("event", "change"),
        [
            ("image-pushed", {"action-type": "DELETE"}),
            ("image-pushed", {"result": "FAILURE"}),
            ("image-cached", {"sync-status": "FAILED"}),
            ("image-replicated", {"result": "FAILED"}),
        ],
    )
    def test_are_ignored_if_nothing_arrived(
        self, saved_event: Callable[[str], Event], event: str, change: Detail
    ) -> None:
        saved = saved_event(event)
        detail = saved["detail"]
        assert isinstance(detail, dict)

        assert parsed(saved | {"detail": detail | change}) == Request(ignored="no image was pushed")

    def test_are_refused_from_another_region(self, saved_event: Callable[[str], Event]) -> None:
        assert "eu-west-1" in complaint(saved_event("image-pushed") | {"region": "eu-west-1"})


class TestDeployments:
    def test_ask_for_all_in_scope(self, saved_event: Callable[[str], Event]) -> None:
        assert parsed(saved_event("deployed")) == Request(("*",))

    @pytest.mark.parametrize("status", [{"status": "UPDATE_IN_PROGRESS"}, {}, None])
    def test_are_ignored_until_they_are_complete(
        self, saved_event: Callable[[str], Event], status: object
    ) -> None:
        event = saved_event("deployed") | {"detail": {"status-details": status}}

        assert parsed(event).repositories == ()


class TestHandOvers:
    @pytest.mark.parametrize(
        "request_",
        [
            Request(("*",), checkpoint=Checkpoint("a token", ("*",), ("team/app",), 7, 1)),
            Request(("team/left", "*"), dry_run=True, checkpoint=Checkpoint()),
            Request(("team/app",)),
        ],
    )
    def test_are_payloads_that_are_understood(self, request_: Request) -> None:
        assert parsed(request_.payload()) == request_

    @pytest.mark.parametrize(
        "checkpoint",
        [7, [], {}, {"token": "x"}, {"token": 7, "unmatched": [], "failed": 0}],
    )
    def test_are_refused_if_somebody_else_wrote_them(self, checkpoint: object) -> None:
        assert RIGHT_FORM in complaint({"repositories": ["*"], "checkpoint": checkpoint})


class TestPayloads:
    @pytest.mark.parametrize(
        ("event", "request_"),
        [
            ("rerun-one", Request(("team/app",))),
            ("rerun-all", Request(("*",))),
            ("dry-run", Request(("team/app", "ml/*"), dry_run=True)),
        ],
    )
    def test_name_repositories_and_globs(
        self, saved_event: Callable[[str], Event], event: str, request_: Request
    ) -> None:
        assert parsed(saved_event(event)) == request_

    def test_name_a_repository_once_however_often_they_do(self) -> None:
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
    def test_of_another_form_are_refused_and_the_right_form_is_shown(self, payload: object) -> None:
        assert RIGHT_FORM in complaint(payload)

    def test_with_a_misspelt_field_are_told_which(self) -> None:
        assert "unknown fields: dryrun" in complaint({"repositories": ["team/app"], "dryrun": True})

    @pytest.mark.parametrize("name", ["Team/App", "team app", "", "!team/*", "Team/*", "team/app,ml/*"])
    def test_with_an_impossible_name_are_told_which(self, name: str) -> None:
        assert repr(name) in complaint({"repositories": ["team/app", name]})
