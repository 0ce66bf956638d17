"""The function as Lambda starts and invokes it, on the fake ECR."""

import gc
import io
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from devstack.fake_ecr import REGION, FakeEcr
from handler.ecr.errors import RegistryError
from handler.events.request import Continuation, InvalidEvent
from handler.policy.plan import plan
from handler.reconcile import reconciler
from handler.reconcile.continuation import ContinuationFailed
from handler.report.report import RepositoriesFailed
from handler.settings import InvalidSetting
from tests.environment import REQUIRED
from tests.environment import WORKER_ROLE as ROLE
from tests.unit.policies import A, document, grant, push
from tests.unit.process import SAM_LOCAL_ACCOUNT, Start, starter

SOURCE = Path(__file__).parent.parent.parent / "src"
OTHER_ROLE = A
FOREIGN = push("arn:aws:iam::444444444444:root")

type SavedEvent = Callable[[str], dict[str, object]]


class LambdaApi:
    """The API of Lambda on loopback: records the invocations, and answers each with the status."""

    def __init__(self) -> None:
        self.status = 202
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.calls.append((self.path, self.headers["X-Amz-Invocation-Type"], payload))
                self.send_response(api.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def lambda_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaApi]:
    api = LambdaApi()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{api.server.server_port}")
    with api.server:
        threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield api
        api.server.shutdown()


@pytest.fixture
def start(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    ecr.create_role(ROLE)
    yield from starter(ecr, monkeypatch)


def long_policy(characters: int) -> dict[str, Any]:
    short = len(json.dumps(document(FOREIGN | {"Sid": ""}), separators=(",", ":")))
    return document(FOREIGN | {"Sid": "x" * (characters - short)})


class TestANewRepository:
    def test_gets_the_grant_and_is_reported(self, start: Start, saved_event: SavedEvent) -> None:
        function = start()
        function.create("team/app")

        report = function.invoke(saved_event("created-by-api"))

        assert function.has("team/app", document(grant(ROLE)))
        assert report == {
            "checked": 1,
            "dry_run": False,
            "mode": "enforce",
            "outcomes": {"attached": 1},
            "repositories": [
                {"repository": "team/app", "outcome": "attached", "added": {"AllowPull": [ROLE]}}
            ],
            "truncated": False,
        }

    def test_gets_the_grant_if_ecr_created_it(self, start: Start, saved_event: SavedEvent) -> None:
        function = start()
        function.create("docker-hub/library/alpine")

        function.invoke(saved_event("created-by-service"))

        assert function.has("docker-hub/library/alpine", document(grant(ROLE)))

    def test_keeps_the_existing_policy_statements(self, start: Start, saved_event: SavedEvent) -> None:
        function = start(WORKER_ROLE_ARNS=f"{ROLE},{OTHER_ROLE}")
        function.create("team/app", policy={"Version": "2008-10-17", "Id": "theirs", "Statement": FOREIGN})

        function.invoke(saved_event("created-by-api"))

        both = document(FOREIGN, grant(ROLE, OTHER_ROLE))
        assert function.has("team/app", both | {"Version": "2008-10-17", "Id": "theirs"})

    def test_needs_two_calls_or_one_if_the_grant_exists(self, start: Start, saved_event: SavedEvent) -> None:
        function = start()
        function.create("team/app")

        function.invoke(saved_event("created-by-api"))
        assert function.calls == {"GetRepositoryPolicy": 1, "SetRepositoryPolicy": 1}
        assert function.role_checks == 0

        report = function.invoke(saved_event("created-by-api"))
        assert function.calls == {"GetRepositoryPolicy": 1}
        assert function.role_checks == 0
        assert report["outcomes"] == {"unchanged": 1}

    def test_deleted_before_the_invocation_is_reported_as_gone(
        self, start: Start, saved_event: SavedEvent
    ) -> None:
        report = start().invoke(saved_event("created-by-api"))

        assert report["repositories"] == [{"repository": "team/app", "outcome": "gone"}]

    def test_not_yet_visible_in_ecr_is_retried(
        self, start: Start, saved_event: SavedEvent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        function = start()
        delays: list[float] = []

        def appear(seconds: float) -> None:
            delays.append(seconds)
            if len(delays) == 3:
                function.create("team/app")

        monkeypatch.setattr(time, "sleep", appear)

        report = function.invoke(saved_event("created-by-api"))

        assert report["outcomes"] == {"attached": 1}

    def test_out_of_scope_is_not_changed(self, start: Start, saved_event: SavedEvent) -> None:
        function = start(REPOSITORIES="*,!team/*")
        function.create("team/app")

        report = function.invoke(saved_event("created-by-api"))

        assert report["repositories"] == [{"repository": "team/app", "outcome": "out_of_scope"}]
        assert not function.calls
        assert function.policy("team/app") is None


class TestAnIgnoredOrInvalidEvent:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({}, "the call failed and changed nothing"),
            ({"source": "aws.codecommit"}, "not an event that this function acts on"),
        ],
    )
    def test_causes_no_call_and_the_response_gives_the_reason(
        self, start: Start, saved_event: SavedEvent, change: dict[str, object], reason: str
    ) -> None:
        function = start()

        report = function.invoke(saved_event("creation-failed") | change)

        assert not function.calls
        assert report == {"checked": 0, "ignored": reason}

    def test_from_our_own_write_is_ignored(self, start: Start, saved_event: SavedEvent) -> None:
        function = start(ROLE_NAME="the-role")
        function.create("team/app")
        event = saved_event("policy-set")
        session = f"arn:aws:sts::{SAM_LOCAL_ACCOUNT}:assumed-role/the-role/ecr-allow-pull"
        detail = cast("dict[str, object]", event["detail"]) | {"userIdentity": {"arn": session}}

        report = function.invoke(event | {"detail": detail})

        assert report == {"checked": 0, "ignored": "the function's own write"}
        assert not function.calls

    def test_from_a_call_on_another_accounts_registry_is_ignored_and_is_no_drift(
        self, start: Start, saved_event: SavedEvent, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start()
        function.create("team/app", policy=document(FOREIGN))
        event = saved_event("policy-set")
        request = {"repositoryName": "team/app", "registryId": "999999999999"}
        detail = cast("dict[str, object]", event["detail"]) | {"requestParameters": request}

        report = function.invoke(event | {"detail": detail})

        assert report == {"checked": 0, "ignored": "a call on another account's registry"}
        assert not function.calls
        assert function.has("team/app", document(FOREIGN))
        assert emitted_metrics(capsys.readouterr().out) == {}

    def test_from_another_account_is_rejected(self, start: Start, saved_event: SavedEvent) -> None:
        function = start()
        function.create("team/app")

        with pytest.raises(InvalidEvent, match=f"account {SAM_LOCAL_ACCOUNT}, region us-east-1, and"):
            function.invoke(saved_event("created-by-api"), account="999999999999")

        assert not function.calls

    def test_from_another_region_is_rejected(self, start: Start, saved_event: SavedEvent) -> None:
        function = start(region="eu-west-1")

        with pytest.raises(InvalidEvent, match=r"us-east-1, and .* region eu-west-1"):
            function.invoke(saved_event("created-by-api"))

        assert not function.calls

    @pytest.mark.parametrize("event", [{}, [], None, {"repositories": ["team/app"], "dryrun": True}])
    def test_causes_no_call_and_the_error_shows_the_expected_form(self, start: Start, event: object) -> None:
        function = start()
        function.create("team/app")

        with pytest.raises(InvalidEvent, match=r'payload must look like \{"repositories":'):
            function.invoke(event)

        assert not function.calls

    @pytest.mark.parametrize(
        "event",
        [
            {"repositories": ["*"], "x" * 100_000: True},
            {"repositories": ["*"], **{f"field-{number}": 1 for number in range(10_000)}},
            {"repositories": ["X" * 100_000]},
            {"detail-type": "ECR Image Action", "source": "aws.ecr", "account": "1" * 100_000, "detail": {}},
        ],
    )
    def test_causes_a_short_error(self, start: Start, event: object) -> None:
        with pytest.raises(InvalidEvent) as caught:
            start().invoke(event)

        assert len(str(caught.value)) < 1_000

    def test_is_logged_once_without_the_identity_of_the_caller(
        self,
        start: Start,
        saved_event: SavedEvent,
        logged: Callable[[], list[dict[str, Any]]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        function = start()

        for change in ({}, {"detail": None}, {"region": saved_event("created-by-api")["detail"]}):
            with pytest.raises(InvalidEvent) as caught:
                function.invoke(saved_event("created-by-api") | change, account="999999999999")
            assert "assumed-role" not in str(caught.value)

        assert [(line["level"], line["message"]) for line in logged()] == [("ERROR", "invalid input")] * 3
        assert "assumed-role" not in str(logged()) + capsys.readouterr().out


class TestAManualRun:
    def test_of_all_reconciles_every_repository_in_scope(self, start: Start, saved_event: SavedEvent) -> None:
        function = start(REPOSITORIES="*,!scratch/*")
        function.create("ml/train", "team/app", "scratch/x1")
        function.create("ml/done", policy=document(grant(ROLE)))

        report = function.invoke(saved_event("rerun-all"))

        assert report["checked"] == 3
        assert report["outcomes"] == {"attached": 2, "unchanged": 1}
        assert function.has("ml/train", document(grant(ROLE)))
        assert function.has("team/app", document(grant(ROLE)))
        assert function.policy("scratch/x1") is None

    def test_of_names_and_globs_reconciles_each_repository_once(self, start: Start) -> None:
        function = start()
        function.create("ml/train", "ml/serve", "team/app", "team/other")

        report = function.invoke({"repositories": ["ml/*", "team/app", "*/train", "*/app"]})

        assert report["outcomes"] == {"attached": 3}
        assert function.calls["GetRepositoryPolicy"] == 3
        assert function.policy("team/other") is None

    def test_reports_globs_that_match_nothing(self, start: Start) -> None:
        function = start()
        function.create("team/app")

        report = function.invoke({"repositories": ["team/*", "ml/*"]})

        assert report["unmatched"] == ["ml/*"]

    def test_of_a_missing_repository_reports_gone(self, start: Start) -> None:
        report = start().invoke({"repositories": ["no/such"]})

        assert report["repositories"] == [{"repository": "no/such", "outcome": "gone"}]

    def test_with_a_saved_event_can_be_repeated(self, start: Start, saved_event: SavedEvent) -> None:
        function = start()
        function.create("team/app", policy=document(FOREIGN))

        for _ in range(2):
            function.invoke(saved_event("created-by-api"))

        assert function.has("team/app", document(FOREIGN, grant(ROLE)))


class TestADryRun:
    def test_writes_nothing_and_reports_the_planned_changes(
        self, start: Start, saved_event: SavedEvent
    ) -> None:
        function = start()
        function.create("team/app", "ml/train")

        report = function.invoke(saved_event("dry-run"))

        assert report["dry_run"] is True
        assert report["outcomes"] == {"would_attach": 2}
        assert report["repositories"] == [
            {"repository": "ml/train", "outcome": "would_attach", "added": {"AllowPull": [ROLE]}},
            {"repository": "team/app", "outcome": "would_attach", "added": {"AllowPull": [ROLE]}},
        ]
        assert "SetRepositoryPolicy" not in function.calls
        assert function.role_checks == 1
        assert function.policy("team/app") is None

    def test_is_forced_for_every_event_by_plan_mode(
        self, start: Start, saved_event: SavedEvent, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start(MODE="plan")
        function.create("team/app")

        for event in (saved_event("created-by-api"), {"repositories": ["team/app"], "dry_run": False}):
            report = function.invoke(event)
            assert (report["dry_run"], report["mode"]) == (True, "plan")
            assert report["outcomes"] == {"would_attach": 1}
            assert emitted_metrics(capsys.readouterr().out) == {"WouldAttach": 1}

        assert function.policy("team/app") is None


class TestTheRoleCheck:
    def test_keeps_its_answers_between_the_invocations_of_a_process(self, start: Start) -> None:
        function = start()
        function.create("team/app")
        checks: list[int] = []

        for _ in range(2):
            function.invoke({"repositories": ["team/app"], "dry_run": True})
            checks.append(function.role_checks)

        assert checks == [1, 0]


class TestUnlistedRoles:
    def test_are_kept_by_default(self, start: Start) -> None:
        function = start()
        function.create("team/app", policy=document(grant(OTHER_ROLE)))

        report = function.invoke({"repositories": ["team/app"]})

        assert function.has("team/app", document(grant(OTHER_ROLE, ROLE)))
        assert report["repositories"][0]["added"] == {"AllowPull": [ROLE]}
        assert report["repositories"][0]["unlisted"] == {"AllowPull": [OTHER_ROLE]}

    def test_are_listed_logged_and_counted_although_nothing_changes(
        self, start: Start, logged: Callable[[], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start()
        function.create("team/app", policy=document(grant(OTHER_ROLE, ROLE)))
        function.create("team/other", policy=document(grant(ROLE)))

        report = function.invoke({"repositories": ["*"]})

        assert report["outcomes"] == {"unchanged": 2}
        assert report["unlisted"] == 1
        assert report["repositories"][0] == {
            "repository": "team/app",
            "outcome": "unchanged",
            "unlisted": {"AllowPull": [OTHER_ROLE]},
        }
        (line,) = [line for line in logged() if line["message"] == "unlisted principals"]
        assert (line["level"], line["repository"]) == ("WARNING", "team/app")
        assert line["unlisted"] == {"AllowPull": [OTHER_ROLE]}
        assert emitted_metrics(capsys.readouterr().out)["UnlistedPrincipals"] == 1

    def test_are_removed_on_request_and_reported(self, start: Start) -> None:
        function = start(REMOVE_UNLISTED_ROLES="true")
        function.create("team/app", policy=document(FOREIGN, grant(OTHER_ROLE)))

        report = function.invoke({"repositories": ["team/app"]})

        assert function.has("team/app", document(FOREIGN, grant(ROLE)))
        assert report["repositories"][0]["removed"] == {"AllowPull": [OTHER_ROLE]}


class TestASweepThatRunsOutOfTime:
    def test_continues_in_a_new_invocation_and_reports_the_continuation(
        self, start: Start, lambda_api: LambdaApi
    ) -> None:
        function = start()
        function.create("a1", "b2", "c3")
        function.remaining_milliseconds = itertools.chain([900_000] * 4, itertools.repeat(0))

        report = function.invoke({"repositories": ["*"]})

        assert report["continued"] is True
        assert 0 < report["checked"] < 3
        ((path, invocation_type, payload),) = lambda_api.calls
        assert path == "/2015-03-31/functions/ecr-allow-pull/invocations"
        assert invocation_type == "Event"
        function.remaining_milliseconds = itertools.repeat(900_000)
        assert "continued" not in function.invoke(payload)
        assert all(function.has(name, document(grant(ROLE))) for name in ("a1", "b2", "c3"))

    def test_and_its_continuations_share_a_correlation_id(
        self,
        start: Start,
        lambda_api: LambdaApi,
        logged: Callable[[], list[dict[str, Any]]],
        saved_event: Callable[[str], dict[str, Any]],
    ) -> None:
        function = start()
        function.create(*(f"r{number}" for number in range(8)))
        event = saved_event("deployed")
        for sent in (event, None, None):
            function.remaining_milliseconds = itertools.chain([900_000] * 4, itertools.repeat(0))
            function.invoke(sent or lambda_api.calls[-1][2])

        reports = [line for line in logged() if line["message"] == "report"]
        assert [line["correlation_id"] for line in reports] == [event["id"]] * 3

    @pytest.mark.parametrize("value", ["not an id\n", "1" * 65, 7, None, ["1"]])
    def test_with_an_invalid_correlation_id_logs_its_own(
        self, start: Start, logged: Callable[[], list[dict[str, Any]]], value: object
    ) -> None:
        function = start()
        continuation = json.loads(json.dumps(asdict(Continuation()))) | {"correlation_id": value}

        function.invoke({"repositories": ["*"], "continuation": continuation})

        (report,) = (line for line in logged() if line["message"] == "report")
        assert report["correlation_id"] == "11111111-1111-4111-8111-111111111111"

    def test_logs_its_totals_and_raises_an_error_if_the_new_invocation_cannot_be_started(
        self, start: Start, lambda_api: LambdaApi, logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        lambda_api.status = 404
        function = start()
        function.create("a1", "b2", "c3")
        function.remaining_milliseconds = itertools.chain([900_000] * 4, itertools.repeat(0))

        with pytest.raises(ContinuationFailed, match=r"^the sweep could not continue in a new invocation: "):
            function.invoke({"repositories": ["*"]})

        (report,) = (line for line in logged() if line["message"] == "report")
        assert report["outcomes"]["attached"] > 0
        assert "continued" not in report

    def test_does_not_count_the_failures_that_the_new_invocation_retries(
        self, start: Start, lambda_api: LambdaApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start()
        function.create("a1", policy=long_policy(10_200))
        function.create("b2", "c3")
        function.remaining_milliseconds = itertools.chain([900_000] * 4, itertools.repeat(0))

        function.invoke({"repositories": ["*"]})

        assert "Failed" not in emitted_metrics(capsys.readouterr().out)
        ((_, _, payload),) = lambda_api.calls
        function.remaining_milliseconds = itertools.repeat(900_000)
        with pytest.raises(RepositoriesFailed, match="a1"):
            function.invoke(payload)
        assert emitted_metrics(capsys.readouterr().out)["Failed"] == 1


class TestAFailure:
    def test_of_one_repository_does_not_stop_the_others_and_is_named_in_the_error(self, start: Start) -> None:
        function = start()
        function.create("first", "third")
        function.create("second", policy=long_policy(10_200))

        with pytest.raises(Exception, match=r"^1 of 3 repositories failed: second: .* 10,4\d\d characters"):
            function.invoke({"repositories": ["*"]})

        assert function.has("first", document(grant(ROLE)))
        assert function.has("third", document(grant(ROLE)))
        assert function.has("second", long_policy(10_200))

    def test_in_a_dry_run_raises_an_error_too(self, start: Start) -> None:
        function = start()
        function.create("second", policy=long_policy(10_200))

        with pytest.raises(Exception, match=r"second: .* characters"):
            function.invoke({"repositories": ["second"], "dry_run": True})

    def test_is_named_among_many_successful_repositories(self, start: Start) -> None:
        function = start()
        function.create(*(f"r{number:03}" for number in range(101)))
        function.create("zzz", policy=long_policy(10_200))

        with pytest.raises(Exception, match=r"^1 of 102 repositories failed: zzz: .* characters"):
            function.invoke({"repositories": ["*"]})

    def test_caused_by_a_bug_affects_only_one_repository(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        function = start()
        function.create("first", "second")

        def break_once(*_: object, **__: object) -> None:
            monkeypatch.setattr(reconciler, "plan", plan)
            raise ZeroDivisionError

        monkeypatch.setattr(reconciler, "plan", break_once)

        with pytest.raises(Exception, match=r"^1 of 2 .*(first|second): unexpected ZeroDivisionError"):
            function.invoke({"repositories": ["first", "second"]})

        assert sum(function.has(name, document(grant(ROLE))) for name in ("first", "second")) == 1

    def test_caused_by_a_bug_is_logged_with_its_place_but_without_its_text(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        function = start()
        function.create("team/app")
        monkeypatch.setattr(reconciler, "denials", lambda *_: {"Sid": "Push"}["part of a policy"])

        with pytest.raises(Exception, match="unexpected KeyError"):
            function.invoke({"repositories": ["team/app"]})

        (line,) = (line for line in logged() if line["message"] == "internal error")
        assert (line["repository"], line["error"]) == ("team/app", "KeyError")
        assert line["at"][0].startswith("reconciler.py:")
        assert line["at"][-1].startswith("test_app.py:")
        assert "part of a policy" not in str(logged())

    def test_caused_by_a_bug_in_the_search_for_denials_does_not_end_the_sweep(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        function = start()
        function.create("first", "second")
        monkeypatch.setattr(reconciler, "denials", lambda *_: 1 / 0)

        with pytest.raises(Exception, match=r"^2 of 2 .*first: unexpected ZeroDivisionError.*second: unexp"):
            function.invoke({"repositories": ["first", "second"]})

    def test_of_many_repositories_counts_all_and_names_some(self, start: Start) -> None:
        function = start()
        names = [f"long-{number:02}" for number in range(12)]
        function.create(*names, policy=long_policy(10_200))

        with pytest.raises(Exception, match=r"^12 of 12 .*; long-09: .*; and 2 more, named in the log$"):
            function.invoke({"repositories": names})

        assert function.calls == {"GetRegistryPolicy": 1, "GetRepositoryPolicy": 12}

    def test_caused_by_an_invalid_setting_prevents_every_call_and_fails_each_invocation(
        self, start: Start, saved_event: SavedEvent
    ) -> None:
        function = start(WORKER_ROLE_ARNS="*")
        frames: list[int] = []

        for _ in range(2):
            with pytest.raises(InvalidSetting, match=r"^WORKER_ROLE_ARNS is '\*': ") as caught:
                function.invoke(saved_event("created-by-api"))
            frames.append(len(caught.traceback))

        assert not function.calls
        assert len(set(frames)) == 1, "the stack trace of a repeated error must not grow"

    def test_a_role_of_another_partition_than_the_registry_is_an_invalid_setting(self, start: Start) -> None:
        function = start(region="cn-north-1")

        with pytest.raises(InvalidSetting, match=r"the registry is in aws-cn"):
            function.invoke({"repositories": ["*"]})


class TestAnInvalidVariableOfPowertools:
    """In a new process, because the logger and the metrics read the variables when they are imported."""

    SCRIPT = (
        "import handler.app\n"
        "from types import SimpleNamespace\n"
        "context = SimpleNamespace(\n"
        "    aws_request_id='1', function_name='f', invoked_function_arn='arn', memory_limit_in_mb=1\n"
        ")\n"
        "handler.app.lambda_handler({'repositories': ['*']}, context)\n"
    )

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"POWERTOOLS_LOG_LEVEL": "LOUD"}, "POWERTOOLS_LOG_LEVEL is 'LOUD': use "),
            ({"POWERTOOLS_LOG_LEVEL": "LOUD", "AWS_LAMBDA_LOG_LEVEL": "WARN"}, "POWERTOOLS_LOG_LEVEL is "),
            ({"POWERTOOLS_SERVICE_NAME": None}, "POWERTOOLS_SERVICE_NAME is missing: use the name of the "),
            ({"POWERTOOLS_SERVICE_NAME": ""}, "POWERTOOLS_SERVICE_NAME is '': use the name of the stack"),
        ],
    )
    def test_is_an_invalid_setting_that_is_logged(self, changed: dict[str, str | None], reason: str) -> None:
        variables = os.environ | REQUIRED | {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION} | changed
        environment = {name: value for name, value in variables.items() if value is not None}

        ended = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-c", self.SCRIPT],
            cwd=SOURCE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.stderr.splitlines()[-1].startswith(f"handler.settings.InvalidSetting: {reason}")
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        (logged,) = [line for line in lines if line.get("message") == "invalid input"]
        assert logged["level"] == "ERROR"
        assert logged["reason"].startswith(reason)
        assert [line["InvalidInput"] for line in lines if "_aws" in line] == [[1]]


class TestTheLog:
    @pytest.fixture
    def debug_log(self) -> Iterator[io.StringIO]:
        """What all loggers write at DEBUG, also those of the libraries."""
        level, handler = logging.root.level, logging.StreamHandler(stream := io.StringIO())
        logging.root.addHandler(handler)
        logging.root.setLevel(logging.DEBUG)
        yield stream
        logging.root.removeHandler(handler)
        logging.root.setLevel(level)

    def test_records_changes_and_totals_but_no_identities_or_policies_even_at_debug_level(
        self,
        start: Start,
        saved_event: SavedEvent,
        logged: Callable[[], list[dict[str, Any]]],
        debug_log: io.StringIO,
    ) -> None:
        function = start()
        function.create("team/app", policy=document(FOREIGN))

        function.invoke(saved_event("created-by-api"))

        lines = logged()
        assert [(line["message"], line.get("repository")) for line in lines] == [
            ("reconciled", "team/app"),
            ("report", None),
        ]
        assert lines[1]["outcomes"] == {"attached": 1}
        for line in lines:
            assert line["function_request_id"] == "11111111-1111-4111-8111-111111111111"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", line["timestamp"])
        for secret in ("AROAEXAMPLE", "203.0.113.12", "444444444444", "Signature"):
            assert secret not in str(lines) + debug_log.getvalue()

    def test_records_a_failure_with_its_reason_and_the_totals(
        self, start: Start, logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        function = start()
        function.create("long", policy=long_policy(10_200))

        with pytest.raises(Exception, match="long"):
            function.invoke({"repositories": ["long"]})

        failed, report = logged()
        assert (failed["level"], failed["repository"]) == ("ERROR", "long")
        assert "10,240" in failed["reason"]
        assert report["outcomes"] == {"failed": 1}

    def test_names_the_reason_if_a_sweep_ends_early(
        self, start: Start, logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        function = start()
        function.ecr.denied_operations.add("DescribeRepositories")

        with pytest.raises(RegistryError) as raised:
            function.invoke({"repositories": ["*"]})

        *_, report, last = logged()
        assert (report["message"], report["checked"]) == ("report", 0)
        assert (last["level"], last["message"], last["reason"]) == (
            "ERROR",
            "invocation failed",
            str(raised.value),
        )
        assert last["correlation_id"] == report["correlation_id"]


def emitted_metrics(printed: str) -> dict[str, float]:
    """Read the metrics that an invocation emitted."""
    lines = [json.loads(line) for line in printed.splitlines() if '"_aws"' in line]
    return {
        metric["Name"]: line[metric["Name"]][0]
        for line in lines
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }


class TestMetrics:
    def test_count_changes_and_measure_the_time_to_grant(
        self, start: Start, saved_event: SavedEvent, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start()
        function.create("team/app")
        created_at = datetime.now(UTC) - timedelta(seconds=40)

        function.invoke(saved_event("created-by-api") | {"time": created_at.isoformat()})

        metrics = emitted_metrics(capsys.readouterr().out)
        assert metrics.keys() == {"Attached", "SecondsToGrant"}
        assert metrics["Attached"] == 1
        assert 40 <= metrics["SecondsToGrant"] < 60

    def test_distinguish_corrected_drift_from_a_first_grant(
        self,
        start: Start,
        saved_event: SavedEvent,
        capsys: pytest.CaptureFixture[str],
        logged: Callable[[], list[dict[str, Any]]],
    ) -> None:
        function = start()
        function.create("team/app", policy=document(FOREIGN))

        function.invoke(saved_event("policy-set"))
        assert emitted_metrics(capsys.readouterr().out) == {"Attached": 1, "DriftCorrected": 1}
        assert [line["message"] for line in logged()] == ["drift corrected", "report"]

        function.invoke(saved_event("policy-set"))
        assert emitted_metrics(capsys.readouterr().out) == {"Unchanged": 1}

    def test_count_failures_denials_and_invalid_input(
        self, start: Start, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function = start()
        deny: dict[str, object] = {"Effect": "Deny", "Principal": "*", "Action": "ecr:*"}
        function.create("denied", policy=document(deny))
        function.create("long", policy=long_policy(10_200))

        with pytest.raises(Exception, match="long"):
            function.invoke({"repositories": ["denied", "long"]})
        assert emitted_metrics(capsys.readouterr().out) == {"Attached": 1, "Failed": 1, "PullsDenied": 1}

        function.create("on-a-condition", policy=document(deny | {"Condition": {"Bool": {"x": "y"}}}))
        function.invoke({"repositories": ["on-a-condition"]})
        assert emitted_metrics(capsys.readouterr().out) == {"Attached": 1, "PullsDeniedConditionally": 1}

        with pytest.raises(InvalidEvent):
            function.invoke({})
        assert emitted_metrics(capsys.readouterr().out) == {"InvalidInput": 1}

    def test_do_not_count_a_denial_that_refuses_no_pull(
        self, start: Start, capsys: pytest.CaptureFixture[str], logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        function = start()
        deny: dict[str, object] = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "ecr:BatchCheckLayerAvailability",
        }
        function.create("team/app", policy=document(deny, grant(ROLE)))

        report = function.invoke({"repositories": ["team/app"]})

        assert emitted_metrics(capsys.readouterr().out) == {"Unchanged": 1}
        assert report["denied"] == 1
        assert report["repositories"][0]["denied_by"] == [
            {
                "statement": "number 1",
                "grant": "AllowPull",
                "roles": [ROLE],
                "actions": ["ecr:BatchCheckLayerAvailability"],
            }
        ]
        assert [line["message"] for line in logged()] == ["grant denied", "report"]

    def test_are_not_emitted_for_an_ignored_event(
        self, start: Start, saved_event: SavedEvent, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start().invoke(saved_event("creation-failed"))

        assert emitted_metrics(capsys.readouterr().out) == {}


class TestTheCorrelationId:
    def test_is_the_event_id_or_else_the_request_id(
        self, start: Start, saved_event: SavedEvent, logged: Callable[[], list[dict[str, Any]]]
    ) -> None:
        function = start()
        event = saved_event("creation-failed")
        for sent in (event, {"repositories": ["no/such"]}, event | {"id": "no id\n"}):
            function.invoke(sent)

        request_id = "11111111-1111-4111-8111-111111111111"
        correlation_ids = [line["correlation_id"] for line in logged() if line["message"] == "report"]
        assert correlation_ids == [event["id"], request_id, request_id]


class TestTheResponse:
    def test_is_truncated_for_many_repositories(self, start: Start) -> None:
        function = start()
        function.create(*(f"r{number}" for number in range(120)))
        function.create(*(f"done/r{number}" for number in range(5)), policy=document(grant(ROLE)))

        report = function.invoke({"repositories": ["*"]})

        assert report["outcomes"] == {"attached": 120, "unchanged": 5}
        assert len(report["repositories"]) == 100
        assert report["truncated"] is True

    def test_omits_unchanged_repositories_among_many(self, start: Start) -> None:
        function = start()
        function.create(*(f"done/r{number}" for number in range(120)), policy=document(grant(ROLE)))
        function.create("new")

        report = function.invoke({"repositories": ["*"]})

        assert report["checked"] == 121
        assert [details["repository"] for details in report["repositories"]] == ["new"]
        assert report["truncated"] is False


@pytest.mark.parametrize("roles", [ROLE, "*"])
def test_garbage_collection_is_enabled_after_startup(start: Start, roles: str) -> None:
    start(WORKER_ROLE_ARNS=roles)

    assert gc.isenabled()
    assert gc.get_freeze_count()
