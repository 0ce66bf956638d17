"""The report: what is counted, logged and answered."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from handler.events.request import Continuation, Request
from handler.policy.grants import PULL, Grantee
from handler.reconcile.result import Outcome, Result
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Mode

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
type Logged = Callable[[], list[dict[str, Any]]]

FAILED = Result("team/app", Outcome.FAILED, error="not authorized")


def metrics(printed: str) -> dict[str, float]:
    lines = [json.loads(line) for line in printed.splitlines() if '"_aws"' in line]
    return {
        metric["Name"]: line[metric["Name"]][0]
        for line in lines
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }


class TestFailures:
    def test_are_counted_and_raised_by_the_last_invocation_only(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = Report(Request(("*",)), dry_run=False)
        report.add(FAILED)
        report.end((), continued=True)
        report.publish()

        assert "Failed" not in metrics(capsys.readouterr().out)
        report.raise_for_failures()

    def test_of_earlier_invocations_are_counted_and_raised_if_they_could_not_be_named(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = Report(Request(("*",), continuation=Continuation(failed_more=5)), dry_run=False)
        report.add(FAILED)
        report.publish()

        assert metrics(capsys.readouterr().out)["Failed"] == 6
        with pytest.raises(RepositoriesFailed, match=r"team/app: not authorized.*5 more failed in earlier"):
            report.raise_for_failures()

    def test_with_a_missing_role_and_another_cause_name_both(self) -> None:
        report = Report(Request(("*",)), dry_run=False)
        report.add(
            Result("team/app", Outcome.FAILED, missing_roles=(ROLE,), error="no space for another role")
        )

        with pytest.raises(
            RepositoriesFailed, match=f"The role {ROLE} is missing in 1 of 1.*team/app: no space for another"
        ):
            report.raise_for_failures()

    def test_of_a_missing_role_are_logged_with_the_repository_even_if_others_were_attached(
        self, logged: Logged
    ) -> None:
        report = Report(Request(("*",)), dry_run=False)
        report.add(
            Result(
                "team/app",
                Outcome.INCOMPLETE,
                added=frozenset({Grantee(PULL, "another role")}),
                missing_roles=(ROLE,),
            )
        )

        lines = [(line["level"], line["message"], line.get("repository")) for line in logged()]
        assert lines == [("ERROR", "role missing", None), ("ERROR", "reconcile failed", "team/app")]
        assert logged()[1]["missing_roles"] == [ROLE]


class TestTheEnd:
    def test_of_a_sweep_names_what_matched_nothing(self) -> None:
        report = Report(Request(("*",)), dry_run=False)

        report.end([f"team-{number:03}/*" for number in range(101)], continued=False)

        unmatched = report.response()["unmatched"]
        assert unmatched == [f"team-{number:03}/*" for number in range(100)]
        assert "continued" not in report.response()

    def test_of_an_invocation_says_that_another_one_continues(self) -> None:
        report = Report(Request(("*",)), dry_run=False)

        report.end((), continued=True)

        assert report.response()["continued"] is True
        assert "unmatched" not in report.response()


class TestACompletedSweep:
    ALL = Request(("*",))
    CONTINUED_SWEEP_OF_ALL = Request((), continuation=Continuation(of_all=True))

    def completed(self, report: Report, capsys: pytest.CaptureFixture[str]) -> bool:
        report.publish()
        return metrics(capsys.readouterr().out).get("SweepsCompleted") == 1

    @pytest.mark.parametrize("request_", [ALL, Request(("*", "team/app")), CONTINUED_SWEEP_OF_ALL])
    @pytest.mark.parametrize("results", [[], [FAILED]])
    def test_is_one_of_all_whether_or_not_repositories_failed(
        self, capsys: pytest.CaptureFixture[str], request_: Request, results: list[Result]
    ) -> None:
        report = Report(request_, dry_run=False)
        for result in results:
            report.add(result)
        report.end((), continued=False)

        assert self.completed(report, capsys)

    @pytest.mark.parametrize(
        "request_",
        [
            Request(("team/app",)),
            Request(("team/*", "ml/*")),
            Request(("**",)),
            Request(("team/*",), continuation=Continuation()),
            Request(("team/app",), after_policy_change=True),
        ],
    )
    def test_is_none_of_some(self, capsys: pytest.CaptureFixture[str], request_: Request) -> None:
        report = Report(request_, dry_run=False)
        report.end((), continued=False)

        assert not self.completed(report, capsys)

    @pytest.mark.parametrize(
        ("mode", "dry_run", "counts"),
        [
            (Mode.ENFORCE, True, False),
            (Mode.REMOVE, True, False),
            (Mode.REMOVE, False, True),
            (Mode.PLAN, True, True),
        ],
    )
    def test_is_no_dry_run_of_a_person(
        self, capsys: pytest.CaptureFixture[str], mode: Mode, *, dry_run: bool, counts: bool
    ) -> None:
        report = Report(self.ALL, dry_run=dry_run, mode=mode)
        report.end((), continued=False)

        assert self.completed(report, capsys) is counts

    @pytest.mark.parametrize("request_", [ALL, CONTINUED_SWEEP_OF_ALL])
    def test_is_none_that_continues(self, capsys: pytest.CaptureFixture[str], request_: Request) -> None:
        report = Report(request_, dry_run=False)
        report.end((), continued=True)

        assert not self.completed(report, capsys)

    @pytest.mark.parametrize("request_", [ALL, CONTINUED_SWEEP_OF_ALL])
    def test_is_none_that_an_error_ended(self, capsys: pytest.CaptureFixture[str], request_: Request) -> None:
        assert not self.completed(Report(request_, dry_run=False), capsys)


class TestTheMode:
    WOULD_ATTACH = Result("team/app", Outcome.WOULD_ATTACH, added=frozenset({Grantee(PULL, ROLE)}))
    NOTHING_ADDED = Result("team/other", Outcome.WOULD_ATTACH, removed=frozenset({Grantee(PULL, ROLE)}))

    @pytest.mark.parametrize("mode", Mode)
    def test_is_a_field_of_the_report(self, mode: Mode) -> None:
        assert Report(Request(("*",)), dry_run=False, mode=mode).response()["mode"] == mode.value

    @pytest.mark.parametrize(("mode", "counted"), [(Mode.PLAN, 1), (Mode.ENFORCE, None), (Mode.REMOVE, None)])
    def test_is_plan_if_missing_grants_are_counted(
        self, capsys: pytest.CaptureFixture[str], mode: Mode, counted: int | None
    ) -> None:
        report = Report(Request(("*",)), dry_run=True, mode=mode)
        for result in (self.WOULD_ATTACH, self.NOTHING_ADDED):
            report.add(result)
        report.publish()

        assert metrics(capsys.readouterr().out).get("WouldAttach") == counted


class TestDrift:
    """After a change of the policy by another caller."""

    CHANGE = Request(("team/app",), after_policy_change=True)
    STRANGER = frozenset({Grantee(PULL, "stranger")})

    @pytest.mark.parametrize(
        ("result", "message", "corrected"),
        [
            (
                Result("team/app", Outcome.ATTACHED, added=frozenset({Grantee(PULL, ROLE)})),
                "drift corrected",
                1,
            ),
            (Result("team/app", Outcome.ATTACHED, removed=STRANGER), "reconciled", None),
        ],
    )
    def test_is_a_grant_that_was_attached_again_and_no_principal_that_was_removed(
        self,
        logged: Logged,
        capsys: pytest.CaptureFixture[str],
        result: Result,
        message: str,
        corrected: int | None,
    ) -> None:
        report = Report(self.CHANGE, dry_run=False)
        report.add(result)
        report.publish()

        assert logged()[0]["message"] == message
        assert metrics(capsys.readouterr().out).get("DriftCorrected") == corrected


def test_a_missing_role_is_logged_once_for_all_repositories(logged: Logged) -> None:
    report = Report(Request(("*",)), dry_run=False)
    for name in ("first", "second"):
        report.add(Result(name, Outcome.FAILED, missing_roles=(ROLE,)))

    assert [line["message"] for line in logged()].count("role missing") == 1
    assert [line["message"] for line in logged()].count("reconcile failed") == 2


def test_an_interrupted_repository_is_a_warning_and_no_failure(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(Request(("*",)), dry_run=False)
    report.add(Result("team/app", Outcome.INTERRUPTED, error="Rate exceeded"))
    report.publish()

    assert ("WARNING", "interrupted") in [(line["level"], line["message"]) for line in logged()]
    assert "Failed" not in metrics(capsys.readouterr().out)
    report.raise_for_failures()
