"""The report of unlisted principals: what it lists, logs and omits in a large sweep."""

import json
from collections.abc import Iterable

import pytest

from handler.events.request import Request
from handler.policy.grants import PULL, Grantee
from handler.reconcile.result import Outcome, Result
from handler.report.report import Report
from handler.telemetry import logger

HAND_ADDED = Grantee(PULL, "arn:aws:iam::222222222222:role/added-by-hand")
STRANGER = Grantee(PULL, "AROAEXAMPLEEXAMPLEEXA")


def report_on(results: Iterable[tuple[str, Grantee]]) -> Report:
    report = Report(Request(("*",)), dry_run=False)
    for name, grantee in results:
        report.add(Result(name, Outcome.UNCHANGED, unlisted=frozenset({grantee})))
    return report


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    logged: list[tuple[str, object]] = []
    monkeypatch.setattr(logger, "warning", lambda message, extra: logged.append((message, extra)))
    return logged


def test_a_principal_of_many_repositories_does_not_hide_another(lines: list[tuple[str, object]]) -> None:
    many = [(f"app-{number:04}", HAND_ADDED) for number in range(500)]

    report = report_on([*many, ("last", STRANGER)])

    assert len(lines) == 101
    assert lines[-1] == (
        "unlisted principals",
        {"repository": "last", "unlisted": {"AllowPull": [STRANGER.principal]}},
    )
    assert report.response()["unlisted"] == 501
    assert report.response()["truncated"] is True


def test_the_lines_of_one_invocation_are_limited(lines: list[tuple[str, object]]) -> None:
    report_on((f"app-{number}", Grantee(PULL, f"AROA{number:016}")) for number in range(1_500))

    assert len(lines) == 1_000


def test_a_large_sweep_lists_unchanged_repositories_with_unlisted_principals() -> None:
    report = Report(Request(("*",)), dry_run=False)
    for number in range(300):
        report.add(Result(f"app-{number}", Outcome.UNCHANGED))
    report.add(Result("with-a-stranger", Outcome.UNCHANGED, unlisted=frozenset({STRANGER})))

    answer = report.response()

    assert json.loads(json.dumps(answer["repositories"])) == [
        {
            "repository": "with-a-stranger",
            "outcome": "unchanged",
            "unlisted": {"AllowPull": [STRANGER.principal]},
        }
    ]
    assert answer["truncated"] is False


PRINCIPALS = {
    "111122223333": "111122223333",
    "arn:aws:iam::111122223333:root": "arn:aws:iam::111122223333:root",
    "arn:aws-cn:iam::111122223333:role/path/of/name": "arn:aws-cn:iam::111122223333:role/path/of/name",
    "AROAEXAMPLEEXAMPLEEXA": "AROAEXAMPLEEXAMPLEEXA",
    "AIDAEXAMPLEEXAMPLEEXA": "AIDAEXAMPLEEXAMPLEEXA",
    "arn:aws:iam::111122223333:user/people/jane@example.com": "a user of account 111122223333",
    "arn:aws:sts::111122223333:assumed-role/admin/jane@example.com": "a session of account 111122223333",
    "arn:aws:sts::111122223333:federated-user/jane": "a federated user of account 111122223333",
    "arn:aws:iam::111122223333:role/jane\x1b[2J": "another principal",
    "AROAEXAMPLEEXAMPLEEXA:jane@example.com": "another principal",
    "jane@example.com": "another principal",
}


@pytest.mark.parametrize(("principal", "shown"), PRINCIPALS.items())
@pytest.mark.parametrize("field", ["unlisted", "removed"])
def test_the_names_of_users_and_sessions_are_in_no_report_and_no_line(
    lines: list[tuple[str, object]], field: str, principal: str, shown: str
) -> None:
    report = Report(Request(("*",)), dry_run=False)
    grantees = frozenset({Grantee(PULL, principal)})
    result = (
        Result("app", Outcome.UNCHANGED, unlisted=grantees)
        if field == "unlisted"
        else Result("app", Outcome.ATTACHED, removed=grantees)
    )
    report.add(result)

    (details,) = json.loads(json.dumps(report.response()["repositories"]))

    assert details[field] == {"AllowPull": [shown]}
    assert [extra for _, extra in lines] == (
        [{"repository": "app", "unlisted": {"AllowPull": [shown]}}] if field == "unlisted" else []
    )
