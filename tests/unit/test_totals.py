"""The totals: what each kind of result adds to which count."""

import pytest

from handler.policy.denials import Denial
from handler.policy.grants import DESCRIBE_IMAGES, PULL, Grantee
from handler.reconcile.result import Outcome, Result
from handler.report.totals import MAX_DETAILS, Severity, Totals

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
PULL_ACTIONS = ("ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability")


def denial(*actions: str, conditional: bool = False) -> Denial:
    return Denial('"Quarantine"', PULL, (ROLE,), actions, conditional)


def totals_of(*results: Result) -> Totals:
    totals = Totals()
    for result in results:
        totals.add(result)
    return totals


def pulls_denied(*denials: Denial) -> tuple[int, int]:
    totals = totals_of(Result("team/app", Outcome.UNCHANGED, denied_by=denials))
    return totals.pulls_denied, totals.pulls_denied_conditionally


def test_a_repository_fails_for_an_error_or_for_a_missing_role_even_if_others_were_attached() -> None:
    totals = totals_of(
        Result("unauthorized", Outcome.FAILED, error="not authorized"),
        Result("no-role", Outcome.FAILED, missing_roles=(ROLE,)),
        Result("one-role", Outcome.INCOMPLETE, missing_roles=(ROLE,)),
        Result("healthy", Outcome.ATTACHED),
    )

    assert totals.failed == 3
    assert totals.missing_roles == {ROLE: 2}
    assert totals.checked == 4


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_failed_and_an_incomplete_repository_count_as_failures(outcome: Outcome) -> None:
    lacks_grant = outcome in {Outcome.FAILED, Outcome.INCOMPLETE}

    assert totals_of(Result("team/app", outcome, error="not authorized")).failed == lacks_grant
    assert totals_of(Result("team/app", outcome, missing_roles=(ROLE,))).failed == lacks_grant


@pytest.mark.parametrize(
    ("result", "severity"),
    [
        (Result("team/app", Outcome.FAILED, error="not authorized"), Severity.FAILED),
        (
            Result("team/app", Outcome.INCOMPLETE, missing_roles=(ROLE,), error="no space for another role"),
            Severity.FAILED,
        ),
        (Result("team/app", Outcome.INCOMPLETE, missing_roles=(ROLE,)), Severity.ROLE_MISSING),
        (Result("team/app", Outcome.FAILED, missing_roles=(ROLE,)), Severity.ROLE_MISSING),
        (Result("team/app", Outcome.ATTACHED), Severity.CHANGED),
        (Result("team/app", Outcome.WOULD_ATTACH), Severity.CHANGED),
        (
            Result("team/app", Outcome.UNCHANGED, unlisted=frozenset({Grantee(PULL, "one")})),
            Severity.UNLISTED,
        ),
        (Result("team/app", Outcome.UNCHANGED), Severity.UNCHANGED),
        (Result("team/app", Outcome.GONE), Severity.SKIPPED),
        (Result("team/app", Outcome.INTERRUPTED, error="Rate exceeded"), Severity.SKIPPED),
    ],
)
def test_the_severity_of_a_result_is_its_most_severe_aspect(result: Result, severity: Severity) -> None:
    assert Severity.of(result) is severity


def test_recreated_roles_and_grants_without_removals_are_counted_by_repository() -> None:
    recreated = Result(
        "first",
        Outcome.ATTACHED,
        added=frozenset({Grantee(PULL, ROLE)}),
        removed=frozenset({Grantee(PULL, "AROAEXAMPLEEXAMPLEEXA")}),
    )
    kept = Result("second", Outcome.FAILED, missing_roles=(ROLE,), not_removed=(PULL, DESCRIBE_IMAGES))

    totals = totals_of(recreated, kept, kept)

    assert totals.recreated == {ROLE: 1}
    assert totals.not_removed == {PULL: 2, DESCRIBE_IMAGES: 2}


def test_unlisted_principals_are_counted_by_repository_and_by_principal() -> None:
    unlisted = frozenset({Grantee(PULL, "one"), Grantee(PULL, "other"), Grantee(DESCRIBE_IMAGES, "one")})
    totals = totals_of(
        Result("first", Outcome.UNCHANGED, unlisted=unlisted),
        Result("second", Outcome.UNCHANGED, unlisted=frozenset({Grantee(PULL, "one")})),
    )

    assert (totals.unlisted, totals.unlisted_grantees) == (2, 4)


class TestDenials:
    def test_count_their_repository_once(self) -> None:
        both = (denial(*PULL_ACTIONS), denial(*PULL_ACTIONS))
        totals = totals_of(Result("team/app", Outcome.UNCHANGED, denied_by=both))

        assert totals.denied == 1
        assert totals.pulls_denied == 1

    def test_without_a_condition_deny_the_pull_whatever_others_say(self) -> None:
        assert pulls_denied(denial(*PULL_ACTIONS, conditional=True), denial(*PULL_ACTIONS)) == (1, 0)

    def test_with_a_condition_may_deny_the_pull(self) -> None:
        assert pulls_denied(denial(*PULL_ACTIONS, conditional=True)) == (0, 1)

    def test_of_an_action_that_pulls_do_without_deny_no_pull(self) -> None:
        assert pulls_denied(denial("ecr:BatchCheckLayerAvailability")) == (0, 0)
        assert pulls_denied(
            denial("ecr:BatchCheckLayerAvailability"), denial(*PULL_ACTIONS, conditional=True)
        ) == (0, 1)


def test_results_of_a_severity_are_kept_up_to_a_limit_and_sorted_by_name() -> None:
    names = [f"app-{number:03}" for number in range(MAX_DETAILS + 1)]
    totals = totals_of(*(Result(name, Outcome.ATTACHED) for name in reversed(names)))

    assert [result.repository for result in totals.results(Severity.CHANGED)] == names[1:]
    assert totals.severities[Severity.CHANGED] == len(names)
    assert totals.results(Severity.FAILED) == []
