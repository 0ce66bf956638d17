"""What each metric counts: the exact metrics of each invocation, and no others."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest

from devstack.fake_ecr import ACCOUNT, LIST, READ, WRITE, EcrError, FakeEcr, Fault
from handler.ecr.retry import MAX_FAILURES
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import CALLER, Function, cloudtrail_event
from tests.unit.policies import CI, DENY, A, B, C, document, grant, push

type Metrics = dict[str, float]
type Invoke = Callable[..., Metrics]

APP = {"repositories": ["app"]}
ALL = {"repositories": ["*"]}
DRY_RUN = {"dry_run": True}
CONDITION = {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}
CREATED: dict[str, Any] = cloudtrail_event("CreateRepository", "app")
CHANGED = cloudtrail_event("SetRepositoryPolicy", "app")
GRANTED = document(grant(A))
NOT_AUTHORIZED = EcrError("AccessDeniedException", "not authorized")


def metrics(printed: str) -> Metrics:
    """Read the metrics that were printed, each with its unit."""
    read: Metrics = {}
    for line in (json.loads(line) for line in printed.splitlines() if '"_aws"' in line):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]:
            assert metric["Unit"] == ("Seconds" if metric["Name"] == "SecondsToGrant" else "Count")
            assert metric["Name"] not in read, "counted twice"
            (read[metric["Name"]],) = line[metric["Name"]]
    return read


@pytest.fixture
def invoke(function: Function, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Invoke the function, which may fail, and return its metrics."""

    def invoke(event: object, **settings: str) -> Metrics:
        function.invoke(event, timeout=None, **settings)
        return metrics(capsys.readouterr().out)

    return invoke


@pytest.fixture
def sweep(function: Function, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[Metrics]]:
    """Sweep all repositories to the end, and return the metrics of each invocation."""

    def sweep(**settings: str) -> list[Metrics]:
        each: list[Metrics] = []
        payload: object = ALL
        while payload:
            payload = function.invoke(payload, timeout=None, **settings).continuation
            each.append(metrics(capsys.readouterr().out))
        return each

    return sweep


class TestAttached:
    def test_counts_repositories_that_gained_a_role(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("new", "other")
        ecr.create_repository("granted", policy=GRANTED)
        roles = f"{A},{B}"

        assert invoke({"repositories": ["granted"]}) == {"Unchanged": 1}
        assert invoke({"repositories": ["new"]}, WORKER_ROLE_ARNS=roles) == {"Attached": 1}
        assert invoke({"repositories": ["new", "other", "granted"]}, WORKER_ROLE_ARNS=roles) == {
            "Attached": 2,
            "Unchanged": 1,
        }

    def test_counts_nothing_in_the_next_invocation_of_the_process(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        assert [invoke(APP) for _ in range(3)] == [{"Attached": 1}, {"Unchanged": 1}, {"Unchanged": 1}]

    @pytest.mark.parametrize("operation", [READ, WRITE])
    def test_counts_a_repository_once_however_often_a_call_is_retried(
        self, ecr: FakeEcr, invoke: Invoke, operation: str
    ) -> None:
        for fault in Fault:
            ecr.create_repository(fault.name.lower())
            ecr.inject_faults(operation, fault, fault, repository=fault.name.lower())

        assert invoke(ALL) == {"Attached": len(Fault), "SweepsCompleted": 1}

    def test_counts_a_repository_that_gained_one_role_and_lacks_another(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app")
        ecr.delete_role(B)

        first, second = (invoke(APP, WORKER_ROLE_ARNS=f"{A},{B}") for _ in range(2))

        assert first == {"Attached": 1, "Failed": 1, "MissingRoles": 1}
        assert second == {"Failed": 1, "MissingRoles": 1}

    def test_counts_no_repository_that_only_lost_a_principal(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app", policy=document(grant(A, B)))

        assert invoke(APP, REMOVE_UNLISTED_ROLES="true") == {}
        assert invoke(APP, REMOVE_UNLISTED_ROLES="true") == {"Unchanged": 1}

    def test_counts_no_repository_out_of_scope_or_gone(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("scratch/app")

        assert invoke({"repositories": ["scratch/app", "gone"]}, REPOSITORIES="*,!scratch/*") == {}

    def test_counts_no_write_that_failed(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(WRITE, *[Fault.SERVER_ERROR] * MAX_FAILURES)

        assert invoke(APP) == {"Failed": 1}


class TestWouldAttach:
    def test_counts_repositories_that_would_gain_a_role_in_plan_mode(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("new", "other")
        ecr.create_repository("granted", policy=GRANTED)
        expected = {"WouldAttach": 2, "Unchanged": 1, "SweepsCompleted": 1}

        assert [invoke(ALL, MODE="plan") for _ in range(2)] == [expected, expected]

    def test_counts_nothing_in_the_dry_run_of_a_person(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        assert invoke(APP | DRY_RUN) == {}
        assert invoke(APP | DRY_RUN, MODE="plan") == {"WouldAttach": 1}

    def test_counts_a_repository_that_would_gain_one_role_and_lack_another(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app")
        ecr.delete_role(B)

        assert invoke(APP, MODE="plan", WORKER_ROLE_ARNS=f"{A},{B}") == {
            "WouldAttach": 1,
            "Failed": 1,
            "MissingRoles": 1,
        }


class TestRemoved:
    def test_counts_repositories_that_lost_a_configured_role(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("one", "two", policy=document(grant(A, B)))
        ecr.create_repository("none")

        first, second = (invoke(ALL, MODE="remove", WORKER_ROLE_ARNS=f"{A},{B}") for _ in range(2))

        assert first == {"Removed": 2, "Unchanged": 1, "SweepsCompleted": 1}
        assert second == {"Unchanged": 3, "SweepsCompleted": 1}

    def test_counts_nothing_in_a_dry_run_or_for_a_removal_that_failed(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A), push(CI)))

        assert invoke(APP | DRY_RUN, MODE="remove") == {}
        ecr.inject_faults(WRITE, NOT_AUTHORIZED)
        assert invoke(APP, MODE="remove") == {"Failed": 1}
        assert invoke(APP, MODE="remove") == {"Removed": 1}


class TestUnchanged:
    def test_counts_repositories_with_all_grants_whatever_else_is_to_be_said(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A, B), DENY))

        assert invoke(APP) == {"Unchanged": 1, "UnlistedPrincipals": 1, "PullsDenied": 1}
        assert invoke(APP | DRY_RUN) == {"Unchanged": 1, "UnlistedPrincipals": 1, "PullsDenied": 1}


class TestDriftCorrected:
    def test_counts_a_grant_that_was_attached_after_a_policy_change(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app")

        assert [invoke(CHANGED) for _ in range(2)] == [
            {"Attached": 1, "DriftCorrected": 1},
            {"Unchanged": 1},
        ]

    def test_counts_a_grant_that_was_removed_after_a_policy_change_in_remove_mode(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app", policy=GRANTED)

        assert invoke(CHANGED, MODE="remove") == {"Removed": 1, "DriftCorrected": 1}

    def test_counts_a_recreated_role_in_each_repository(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("one", "two", policy=GRANTED)
        ecr.delete_role(A)
        ecr.create_role(A)

        assert invoke(ALL) == {"Attached": 2, "DriftCorrected": 2, "SweepsCompleted": 1}

    @pytest.mark.parametrize("event", [APP, CREATED])
    def test_counts_no_first_grant(self, ecr: FakeEcr, invoke: Invoke, event: object) -> None:
        ecr.create_repository("app")

        assert invoke(event) == {"Attached": 1}

    def test_counts_no_plan_and_no_write_of_the_function(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        assert invoke(CHANGED, MODE="plan") == {"WouldAttach": 1}
        assert invoke(cloudtrail_event("SetRepositoryPolicy", "app", by=CALLER)) == {}


class TestFailed:
    def test_counts_each_repository_once_whatever_it_lacks(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("denied", "lacks-two", "healthy")
        ecr.create_repository("too-long", policy=document(push(CI, sid="x" * 10_000)))
        ecr.inject_faults(READ, NOT_AUTHORIZED, repository="denied")
        ecr.delete_role(B)
        ecr.delete_role(C)

        assert invoke(ALL, WORKER_ROLE_ARNS=f"{A},{B},{C}") == {
            "Attached": 2,
            "Failed": 4,
            "MissingRoles": 2,
            "SweepsCompleted": 1,
        }

    def test_counts_dry_runs_too(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, NOT_AUTHORIZED, NOT_AUTHORIZED)

        assert invoke(APP | DRY_RUN) == {"Failed": 1}
        assert invoke(APP, MODE="plan") == {"Failed": 1}

    def test_counts_the_failures_before_a_listing_that_fails(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app", "other")
        ecr.inject_faults(READ, NOT_AUTHORIZED, repository="app")
        ecr.inject_faults(LIST, NOT_AUTHORIZED)

        assert invoke({"repositories": ["app", "other", "*"]}) == {"Attached": 1, "Failed": 1}

    def test_counts_a_repository_that_has_no_time_left_and_its_retry_too(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 1000)

        first = invoke(CREATED)
        ecr.clear_faults()

        assert (first, invoke(CREATED)) == ({"Failed": 1}, {"Attached": 1})

    def test_counts_no_repository_that_is_gone(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")
        ecr.run_after(READ, lambda: ecr.delete_repository("app"))

        assert invoke(APP) == {}


class TestInASweepThatContinues:
    """Of 61 repositories, one fails. An invocation has time for about 30 calls."""

    @pytest.fixture(autouse=True)
    def repositories(self, ecr: FakeEcr, function: Function) -> None:
        names = [f"app-{number}" for number in range(60)]
        ecr.create_repository(*names)
        ecr.create_repository("failing")
        ecr.inject_faults(READ, *[NOT_AUTHORIZED] * 9, repository="failing")
        ecr.registry_policy = document(DENY | {"Resource": "*"})
        function.seconds_per_call = 1
        function.timeout = 40

    def test_each_change_is_counted_once_and_the_failures_and_the_end_by_the_last_invocation(
        self, sweep: Callable[..., list[Metrics]]
    ) -> None:
        each = sweep()

        assert len(each) > 1
        assert sum(one["Attached"] for one in each[:-1]) + each[-1].get("Attached", 0) == 60
        assert [one.get("Failed", 0) for one in each] == [0] * (len(each) - 1) + [1]
        assert [one.get("SweepsCompleted", 0) for one in each] == [0] * (len(each) - 1) + [1]
        assert [one.get("PullsDenied", 0) for one in each] == [1] + [0] * (len(each) - 1)

    def test_plan_mode_counts_each_planned_change_once(self, sweep: Callable[..., list[Metrics]]) -> None:
        each = sweep(MODE="plan")

        assert len(each) > 1
        assert sum(one.get("WouldAttach", 0) for one in each) == 60
        assert not any("Attached" in one for one in each)
        assert [one.get("SweepsCompleted", 0) for one in each] == [0] * (len(each) - 1) + [1]


class TestSweepsCompleted:
    def test_counts_no_sweep_of_which_the_listing_failed(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.inject_faults(LIST, NOT_AUTHORIZED)

        assert invoke(ALL) == {}
        assert invoke(ALL) == {"SweepsCompleted": 1}

    @pytest.mark.parametrize(
        ("mode", "counted"), [("enforce", {}), ("remove", {}), ("plan", {"SweepsCompleted": 1})]
    )
    def test_counts_no_dry_run_except_in_plan_mode(self, invoke: Invoke, mode: str, counted: Metrics) -> None:
        assert invoke(ALL | DRY_RUN, MODE=mode) == counted

    def test_counts_no_sweep_of_some(self, invoke: Invoke) -> None:
        assert invoke({"repositories": ["team/*"]}) == {}


class TestMissingRoles:
    def test_counts_each_role_once_however_many_repositories_and_grants_lack_it(
        self, ecr: FakeEcr, invoke: Invoke
    ) -> None:
        ecr.create_repository("one", "two", "three")
        ecr.delete_role(B)
        settings = {"WORKER_ROLE_ARNS": f"{A},{B}", "DESCRIBE_ROLE_ARNS": B}

        first, second = (invoke({"repositories": ["one", "two", "three"]}, **settings) for _ in range(2))

        assert first == {"Attached": 3, "Failed": 3, "MissingRoles": 1}
        assert second == {"Failed": 3, "MissingRoles": 1}

    def test_counts_each_of_several_roles(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")
        ecr.delete_role(A)
        ecr.delete_role(B)

        assert invoke(APP, WORKER_ROLE_ARNS=f"{A},{B}") == {"Failed": 1, "MissingRoles": 2}


class TestUnlistedPrincipals:
    def test_counts_principals_once_per_repository_and_grant(self, ecr: FakeEcr, invoke: Invoke) -> None:
        describe = grant(B, sid="AllowDescribeImages") | {"Action": "ecr:DescribeImages"}
        ecr.create_repository("one", policy=document(grant(A, B, C), describe))
        ecr.create_repository("two", policy=document(grant(A, B), grant(B, sid="AllowPull2")))

        assert invoke({"repositories": ["one", "two"]}) == {"Unchanged": 2, "UnlistedPrincipals": 4}

    def test_counts_none_that_was_removed(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app", policy=document(grant(B)))

        assert invoke(APP, REMOVE_UNLISTED_ROLES="true") == {"Attached": 1}


class TestPullsDenied:
    CONDITIONAL = DENY | CONDITION
    HARMLESS = DENY | {"Action": "ecr:BatchCheckLayerAvailability"}

    @pytest.mark.parametrize(
        ("statements", "counted"),
        [
            ([DENY], {"PullsDenied": 1}),
            ([DENY, DENY | {"Sid": "Again"}], {"PullsDenied": 1}),
            ([CONDITIONAL], {"PullsDeniedConditionally": 1}),
            ([CONDITIONAL, DENY], {"PullsDenied": 1}),
            ([HARMLESS], {}),
            ([HARMLESS, CONDITIONAL], {"PullsDeniedConditionally": 1}),
        ],
    )
    def test_counts_each_repository_once_by_its_strictest_denial(
        self, ecr: FakeEcr, invoke: Invoke, statements: list[Any], counted: Metrics
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A), *statements))

        assert invoke(APP) == {"Unchanged": 1} | counted

    @pytest.mark.parametrize(
        ("statement", "counted"),
        [
            (DENY, {"PullsDenied": 2}),
            (CONDITIONAL, {"PullsDenied": 1, "PullsDeniedConditionally": 1}),
            (HARMLESS, {"PullsDenied": 1}),
        ],
    )
    def test_counts_the_registrys_policy_as_one_more_repository(
        self, ecr: FakeEcr, invoke: Invoke, statement: dict[str, Any], counted: Metrics
    ) -> None:
        ecr.create_repository("app", policy=document(grant(A), DENY))
        ecr.registry_policy = document(statement | {"Resource": "*"})

        assert invoke(APP) == {"Unchanged": 1} | counted

    def test_counts_nothing_in_remove_mode(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app", policy=document(DENY))
        ecr.registry_policy = document(DENY | {"Resource": "*"})

        assert invoke(APP, MODE="remove") == {"Unchanged": 1}


class TestMissedCreations:
    SCHEDULED = ALL | {"scheduled": True}

    @pytest.fixture(autouse=True)
    def old_stack(self, ecr: FakeEcr) -> None:
        ecr.created_at[ROLE_CHECK_REPOSITORY] = 0

    @pytest.mark.parametrize(
        ("arrived", "counted"), [(False, {"MissedCreations": 2}), (True, {}), (None, {"MissedCreations": 2})]
    )
    def test_counts_repositories_whose_event_did_not_arrive_in_the_sweep_that_attaches_the_grant(
        self,
        ecr: FakeEcr,
        invoke: Invoke,
        counted: Metrics,
        *,
        arrived: bool | None,
    ) -> None:
        ecr.create_repository("one", "two", created_at=time.time() - 7200)
        ecr.create_repository("granted", created_at=time.time() - 7200, policy=GRANTED)

        with patch("handler.reconcile.creation_events.rule_matched", return_value=arrived):
            first, second = (invoke(self.SCHEDULED) for _ in range(2))

        assert first == {"Attached": 2, "Unchanged": 1, "SweepsCompleted": 1} | counted
        assert second == {"Unchanged": 3, "SweepsCompleted": 1}


class TestInvalidInput:
    @pytest.mark.parametrize(
        "event",
        [{}, None, {"repositories": []}, CREATED | {"account": "999999999999"}, CREATED | {"detail": 1}],
    )
    def test_counts_invocations_with_an_invalid_event_retries_included(
        self, invoke: Invoke, event: object
    ) -> None:
        assert [invoke(event) for _ in range(3)] == [{"InvalidInput": 1}] * 3

    @pytest.mark.parametrize(
        "event",
        [cloudtrail_event("CreateRepository", "app", errorCode="x"), {"detail-type": "x", "detail": {}}],
    )
    def test_counts_no_event_that_is_ignored(self, invoke: Invoke, event: object) -> None:
        assert invoke(event) == {}


class TestSecondsToGrant:
    """Of an event of CloudTrail, whose time is that of the creation."""

    @staticmethod
    def created(seconds_ago: float) -> dict[str, object]:
        return CREATED | {"time": (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()}

    def test_is_the_time_since_the_creation_in_seconds(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        counted = invoke(self.created(3600))

        assert 3600 <= counted.pop("SecondsToGrant") < 3660
        assert counted == {"Attached": 1}

    def test_is_zero_for_a_clock_that_is_ahead(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        assert invoke(self.created(-60)) == {"Attached": 1, "SecondsToGrant": 0}

    def test_is_not_measured_for_an_event_without_a_time(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app")

        assert invoke(CREATED) == {"Attached": 1}

    def test_is_not_measured_without_a_grant(self, ecr: FakeEcr, invoke: Invoke) -> None:
        ecr.create_repository("app", policy=GRANTED)
        assert invoke(self.created(60)) == {"Unchanged": 1}

        ecr.set_policy("app", document(push(CI)))
        assert invoke(self.created(60), MODE="plan") == {"WouldAttach": 1}

        ecr.delete_role(B)
        assert invoke(self.created(60), WORKER_ROLE_ARNS=f"{A},{B}") == {
            "Attached": 1,
            "Failed": 1,
            "MissingRoles": 1,
        }


def test_the_account_of_the_events_is_that_of_the_registry() -> None:
    """Otherwise, every event above would be refused."""
    assert CREATED["account"] == ACCOUNT
