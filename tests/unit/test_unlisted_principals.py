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
