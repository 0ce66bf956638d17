"""The totals: what each kind of result adds to which count."""

from handler.policy.denials import Denial
from handler.policy.grants import DESCRIBE_IMAGES, PULL, Entry
from handler.reconcile.result import Outcome, Result, Severity
from handler.report.totals import MAX_DETAILS, Totals

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


def test_a_repository_fails_for_a_reason_or_for_a_missing_role_even_if_others_were_attached() -> None:
    totals = totals_of(
        Result("unauthorized", Outcome.FAILED, reason="not authorized"),
        Result("no-role", Outcome.FAILED, refused=(ROLE,)),
        Result("one-role", Outcome.ATTACHED, refused=(ROLE,)),
        Result("healthy", Outcome.ATTACHED),
    )

    assert totals.failed == 3
    assert totals.refused == {ROLE: 2}
    assert totals.checked == 4


def test_unlisted_principals_are_counted_by_repository_and_by_principal() -> None:
    unlisted = frozenset({Entry(PULL, "one"), Entry(PULL, "other"), Entry(DESCRIBE_IMAGES, "one")})
    totals = totals_of(
        Result("first", Outcome.UNCHANGED, unlisted=unlisted),
        Result("second", Outcome.UNCHANGED, unlisted=frozenset({Entry(PULL, "one")})),
    )

    assert (totals.unlisted, totals.unlisted_entries) == (2, 4)


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
