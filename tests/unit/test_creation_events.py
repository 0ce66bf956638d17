"""Creation events that did not arrive, as a scheduled sweep finds them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from devstack.fake_ecr import LIST, REGION, EcrError, FakeEcr
from handler.reconcile.creation_events import rule_matched
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function
from tests.unit.policies import FOREIGN_POLICY, A, document, grant

RULE = "ecr-allow-pull-created-1"
SCHEDULED = {"repositories": ["*"], "scheduled": True}
MISSED, NO_EVENTS = "creation event missed", "no creation events"
HOUR = 3600.0

type Log = Callable[[], list[dict[str, Any]]]


@dataclass
class Metric:
    """EventBridge's metric of the rule: whether it shows invocations, and what was asked."""

    matched: bool | None = False
    asked: list[tuple[str, datetime]] = field(default_factory=list)

    def read(self, rule: str, since: datetime) -> bool | None:
        self.asked.append((rule, since))
        return self.matched


@pytest.fixture(autouse=True)
def metric(monkeypatch: pytest.MonkeyPatch) -> Metric:
    metric = Metric()
    monkeypatch.setattr("handler.reconcile.creation_events.rule_matched", metric.read)
    return metric


@pytest.fixture(autouse=True)
def an_old_stack(ecr: FakeEcr, function: Function) -> None:
    ecr.created_at[ROLE_CHECK_REPOSITORY] = ago(hours=1000)
    function.settings["CREATION_RULE"] = RULE


def ago(hours: float) -> float:
    return float(int(time.time() - hours * HOUR))


def warnings(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"] in {MISSED, NO_EVENTS}]


def missed_by(function: Function, event: object = SCHEDULED) -> list[str]:
    invocation = function.invoke(event)
    assert invocation.error is None
    assert invocation.answer
    missed: list[str] = invocation.answer.get("missed_creations", [])
    return missed


class TestAMissedEvent:
    def test_is_logged_and_counted_with_the_repositories_that_lacked_the_grant(
        self, ecr: FakeEcr, function: Function, logged: Log, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.create_repository("team/b", "team/a", policy=FOREIGN_POLICY, created_at=ago(hours=5))
        ecr.create_repository("granted", policy=document(grant(A)), created_at=ago(hours=5))
        ecr.create_repository("old", created_at=ago(hours=500))

        assert missed_by(function) == ["team/a", "team/b"]

        (line,) = warnings(logged())
        assert (line["level"], line["message"]) == ("WARNING", MISSED)
        assert (line["repositories"], line["count"]) == (["team/a", "team/b"], 2)
        metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
        assert [line["MissedCreations"] for line in metrics] == [[2]]

    @pytest.mark.parametrize("hours", [0.6, 12, 24, 24.9])
    def test_is_that_of_a_repository_of_the_last_day(
        self, ecr: FakeEcr, function: Function, hours: float
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours))

        assert missed_by(function) == ["app"]

    @pytest.mark.parametrize("hours", [-1, 0, 0.4, 25.1, 1000])
    def test_is_not_that_of_a_younger_or_older_repository(
        self, ecr: FakeEcr, function: Function, metric: Metric, hours: float
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours))

        assert missed_by(function) == []
        assert ecr.get_policy("app")
        assert metric.asked == []
        assert ecr.calls[LIST] == 1

    @pytest.mark.parametrize(
        "event",
        [
            {"repositories": ["*"]},
            {"repositories": ["app"], "scheduled": True},
            {"repositories": ["*"], "scheduled": False},
            {"repositories": ["*"], "scheduled": True, "dry_run": True},
        ],
    )
    def test_is_found_only_by_the_scheduled_sweep(
        self, ecr: FakeEcr, function: Function, metric: Metric, event: object
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours=5))

        assert missed_by(function, event) == []
        assert metric.asked == []

    def test_is_not_found_by_the_sweep_of_a_deployment(
        self, ecr: FakeEcr, function: Function, saved_event: Callable[[str], dict[str, object]]
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours=5))

        assert missed_by(function, saved_event("deployed") | {"account": "111122223333"}) == []
        assert ecr.get_policy("app")

    @pytest.mark.parametrize("mode", ["plan", "remove"])
    def test_is_not_found_in_another_mode(
        self, ecr: FakeEcr, function: Function, mode: str, logged: Log
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours=5))
        function.settings["MODE"] = mode

        assert missed_by(function) == []
        assert MISSED not in [line["message"] for line in logged()]

    def test_is_not_that_of_a_repository_older_than_the_stack(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("before", created_at=ago(hours=9))
        ecr.created_at[ROLE_CHECK_REPOSITORY] = ago(hours=8)
        assert missed_by(function) == []

        ecr.create_repository("after", created_at=ago(hours=7))
        assert missed_by(function) == ["after"]

    @pytest.mark.parametrize("error", [EcrError("AccessDeniedException", "no"), None])
    def test_is_found_if_the_age_of_the_stack_cannot_be_read(
        self, ecr: FakeEcr, function: Function, error: EcrError | None
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours=5))
        if error:
            ecr.run_after(LIST, lambda: ecr.inject_faults(LIST, error))
        else:
            ecr.delete_repository(ROLE_CHECK_REPOSITORY)

        assert missed_by(function) == ["app"]

    def test_is_not_reported_if_the_rule_matched_an_event_since(
        self, ecr: FakeEcr, function: Function, metric: Metric, logged: Log
    ) -> None:
        """The function failed then, or the scope, the mode or the roles were others."""
        ecr.create_repository("app", created_at=ago(hours=5))
        ecr.create_repository("older", created_at=(oldest := ago(hours=20)))
        metric.matched = True

        assert missed_by(function) == []

        assert warnings(logged()) == []
        assert metric.asked == [(RULE, datetime.fromtimestamp(oldest, UTC))]

    def test_is_reported_if_the_metric_cannot_be_read(
        self, ecr: FakeEcr, function: Function, metric: Metric
    ) -> None:
        ecr.create_repository("app", created_at=ago(hours=5))
        metric.matched = None

        assert missed_by(function) == ["app"]

    def test_is_named_up_to_a_number_and_counted_beyond(
        self, ecr: FakeEcr, function: Function, logged: Log, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.create_repository(*(f"app-{number:03}" for number in range(120)), created_at=ago(hours=5))

        assert len(missed_by(function)) == 100

        (line,) = warnings(logged())
        assert (len(line["repositories"]), line["count"]) == (100, 120)
        assert '"MissedCreations":[120' in capsys.readouterr().out

    def test_is_found_by_a_sweep_in_several_invocations(self, ecr: FakeEcr, function: Function) -> None:
        ecr.max_page_size = 20
        names = [f"app-{number:03}" for number in range(100)]
        ecr.create_repository(*names, created_at=ago(hours=5))
        function.timeout, function.seconds_per_call = 30, 0.25
        found: list[str] = []
        event: dict[str, object] | None = SCHEDULED
        invocations = 0

        while event:
            invocation = function.invoke(event)
            assert invocation.answer
            found += invocation.answer.get("missed_creations", [])
            event, invocations = invocation.continuation, invocations + 1
            assert event is None or event["scheduled"] is True

        assert invocations > 1
        assert len(found) > 50
        assert len(set(found)) == len(found)


class TestNoCreationEvents:
    def test_is_logged_once_if_pushes_have_attached_every_grant(
        self, ecr: FakeEcr, function: Function, logged: Log, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.create_repository("a1", "b2", policy=document(grant(A)), created_at=ago(hours=5))

        assert missed_by(function) == []

        (line,) = warnings(logged())
        assert (line["level"], line["message"], line["count"]) == ("WARNING", NO_EVENTS, 2)
        assert "MissedCreations" not in capsys.readouterr().out

    @pytest.mark.parametrize("matched", [True, None])
    def test_is_not_logged_if_the_rule_matched_or_the_metric_cannot_be_read(
        self, ecr: FakeEcr, function: Function, metric: Metric, logged: Log, *, matched: bool | None
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)), created_at=ago(hours=5))
        metric.matched = matched

        assert missed_by(function) == []
        assert warnings(logged()) == []

    def test_is_not_logged_if_no_repository_was_created(
        self, ecr: FakeEcr, function: Function, metric: Metric, logged: Log
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A)), created_at=ago(hours=500))

        assert missed_by(function) == []
        assert warnings(logged()) == []
        assert metric.asked == []


class TestTheMetricOfTheRule:
    SINCE = datetime.now(UTC) - timedelta(hours=5)

    @pytest.fixture
    def cloudwatch(self, monkeypatch: pytest.MonkeyPatch) -> Stubber:
        client = boto3.client(
            "cloudwatch",
            region_name=REGION,
            aws_access_key_id="x",
            aws_secret_access_key="x",  # noqa: S106 - a dummy key
        )
        monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
        stubber = Stubber(client)
        stubber.activate()
        return stubber

    @pytest.mark.parametrize(
        ("results", "matched"),
        [
            ([], False),
            ([{"Id": "invocations", "Values": []}], False),
            ([{"Id": "invocations", "Values": [0.0]}], False),
            ([{"Id": "invocations", "Values": [0.0, 3.0]}], True),
        ],
    )
    def test_shows_whether_it_matched_since(
        self, cloudwatch: Stubber, results: list[dict[str, object]], *, matched: bool
    ) -> None:
        of_the_rule = {
            "Namespace": "AWS/Events",
            "MetricName": "Invocations",
            "Dimensions": [{"Name": "RuleName", "Value": RULE}],
        }
        cloudwatch.add_response(
            "get_metric_data",
            {"MetricDataResults": results},
            {
                "MetricDataQueries": [
                    {"Id": ANY, "MetricStat": {"Metric": of_the_rule, "Period": 300, "Stat": "Sum"}}
                ],
                # The data points are of five minutes each.
                "StartTime": self.SINCE - timedelta(minutes=5),
                "EndTime": ANY,
            },
        )

        assert rule_matched(RULE, self.SINCE) is matched
        cloudwatch.assert_no_pending_responses()

    def test_is_unknown_without_the_permission(self, cloudwatch: Stubber) -> None:
        cloudwatch.add_client_error("get_metric_data", "AccessDenied", http_status_code=403)

        assert rule_matched(RULE, self.SINCE) is None

    def test_is_unknown_if_the_response_is_not_cloudwatchs(self, cloudwatch: Stubber) -> None:
        cloudwatch.add_response("get_metric_data", {})

        assert rule_matched(RULE, self.SINCE) is None

    def test_is_unknown_without_a_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

        assert rule_matched("", self.SINCE) is None
