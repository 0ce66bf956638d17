"""The report: what is counted, logged and answered."""

import json

import pytest

from handler.events.request import Continuation, Request
from handler.policy.grants import PULL, Grantee
from handler.reconcile.result import Outcome, Result
from handler.report.report import Report, RepositoriesFailed

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
FAILED = Result("team/app", Outcome.FAILED, error="not authorized")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr("handler.telemetry.logger._logger.propagate", True)
    caplog.set_level("INFO")
    return caplog


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
        self, logged: pytest.LogCaptureFixture
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

        lines = [(line.levelname, line.message, vars(line).get("repository")) for line in logged.records]
        assert lines == [("ERROR", "role missing", None), ("ERROR", "reconcile failed", "team/app")]
        assert vars(logged.records[1])["missing_roles"] == [ROLE]


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
        logged: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
        result: Result,
        message: str,
        corrected: int | None,
    ) -> None:
        report = Report(self.CHANGE, dry_run=False)
        report.add(result)
        report.publish()

        assert logged.records[0].message == message
        assert metrics(capsys.readouterr().out).get("DriftCorrected") == corrected


def test_a_missing_role_is_logged_once_for_all_repositories(logged: pytest.LogCaptureFixture) -> None:
    report = Report(Request(("*",)), dry_run=False)
    for name in ("first", "second"):
        report.add(Result(name, Outcome.FAILED, missing_roles=(ROLE,)))

    assert [line.message for line in logged.records].count("role missing") == 1
    assert [line.message for line in logged.records].count("reconcile failed") == 2


def test_an_interrupted_repository_is_a_warning_and_no_failure(
    logged: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(Request(("*",)), dry_run=False)
    report.add(Result("team/app", Outcome.INTERRUPTED, error="Rate exceeded"))
    report.publish()

    assert ("WARNING", "interrupted") in [(line.levelname, line.message) for line in logged.records]
    assert "Failed" not in metrics(capsys.readouterr().out)
    report.raise_for_failures()
