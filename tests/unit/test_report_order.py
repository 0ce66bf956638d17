"""What the report and the error show first, and what they omit where limits apply."""

import json
import re
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any, cast

import pytest

from devstack.fake_ecr import LIST, READ, EcrError, FakeEcr
from handler.ecr.errors import RegistryError
from handler.events.request import Continuation, Request
from handler.policy.denials import Denial
from handler.policy.grants import PULL, Grantee
from handler.reconcile.result import Outcome, Result
from handler.report.report import Report, RepositoriesFailed
from tests.unit.function import Function
from tests.unit.policies import A, B

DENIAL = Denial('"NoPulls"', PULL, (A,), ("ecr:BatchGetImage",), conditional=False)
UNLISTED = frozenset({Grantee(PULL, B)})
# One result of each kind, the most severe first.
KINDS = {
    "failed": Result("", Outcome.FAILED, error="not authorized"),
    "role missing": Result("", Outcome.INCOMPLETE, missing_roles=(A,)),
    "denied": Result("", Outcome.UNCHANGED, denied_by=(DENIAL,)),
    "changed": Result("", Outcome.ATTACHED, added=frozenset({Grantee(PULL, A)})),
    "unlisted": Result("", Outcome.UNCHANGED, unlisted=UNLISTED),
    "skipped": Result("", Outcome.GONE),
    "unchanged": Result("", Outcome.UNCHANGED),
}
type Details = list[dict[str, Any]]


def report_of(*results: Result) -> Report:
    report = Report(Request(("*",)), dry_run=False)
    for result in results:
        report.add(result)
    return report


def listed(*results: Result) -> Details:
    return cast("Details", report_of(*results).response()["repositories"])


def names(*results: Result) -> list[str]:
    return [each["repository"] for each in listed(*results)]


def truncated(*results: Result) -> object:
    return report_of(*results).response()["truncated"]


def failed(count: int, error: str = "not authorized") -> list[Result]:
    return [Result(f"failed-{number:03}", Outcome.FAILED, error=error) for number in range(count)]


def attached(count: int) -> list[Result]:
    return [replace(KINDS["changed"], repository=f"attached-{number:03}") for number in range(count)]


def unchanged(count: int) -> list[Result]:
    return [Result(f"unchanged-{number:03}", Outcome.UNCHANGED) for number in range(count)]


class TestTheListOfRepositories:
    @pytest.mark.parametrize(("more_severe", "less_severe"), list(combinations(KINDS, 2)))
    def test_starts_with_the_more_severe_of_each_pair(self, more_severe: str, less_severe: str) -> None:
        first = replace(KINDS[more_severe], repository="z")
        second = replace(KINDS[less_severe], repository="a")

        assert names(first, second) == names(second, first) == ["z", "a"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_sorted_by_name_within_a_kind(self, kind: str) -> None:
        for order in permutations("abc"):
            assert names(*(replace(KINDS[kind], repository=name) for name in order)) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("result", "like"),
        [
            (Result("", Outcome.FAILED, denied_by=(DENIAL,), error="not authorized"), "failed"),
            (Result("", Outcome.INCOMPLETE, missing_roles=(A,), error="no space for a role"), "failed"),
            (Result("", Outcome.FAILED, missing_roles=(A,), denied_by=(DENIAL,)), "role missing"),
            (Result("", Outcome.INCOMPLETE, missing_roles=(A,), unlisted=UNLISTED), "role missing"),
            (replace(KINDS["changed"], denied_by=(DENIAL,)), "denied"),
            (Result("", Outcome.UNCHANGED, denied_by=(DENIAL,), unlisted=UNLISTED), "denied"),
            (replace(KINDS["changed"], unlisted=UNLISTED), "changed"),
            (Result("", Outcome.REMOVED), "changed"),
            (Result("", Outcome.WOULD_ATTACH), "changed"),
            (Result("", Outcome.WOULD_REMOVE), "changed"),
            (Result("", Outcome.OUT_OF_SCOPE, out_of_scope_grants=UNLISTED), "unlisted"),
            (Result("", Outcome.OUT_OF_SCOPE), "skipped"),
            (Result("", Outcome.INTERRUPTED, error="throttled"), "skipped"),
        ],
    )
    def test_ranks_a_result_by_its_most_severe_aspect(self, result: Result, like: str) -> None:
        ranked = list(KINDS)
        result = replace(result, repository="m")
        for kind in ranked:
            # By its name, the other one would be first or last.
            for other in (replace(KINDS[kind], repository=name) for name in "az"):
                expected = (
                    sorted(["m", other.repository])
                    if kind == like
                    else ["m", other.repository]
                    if ranked.index(like) < ranked.index(kind)
                    else [other.repository, "m"]
                )
                assert names(result, other) == expected

    def test_holds_100_repositories_and_omits_the_least_severe(self) -> None:
        results = [*attached(60), *failed(60)]

        assert names(*results) == [each.repository for each in (*failed(60), *attached(40))]
        assert truncated(*results) is True
        assert truncated(*failed(60), *attached(40)) is False

    def test_keeps_failures_that_come_after_100_changes(self) -> None:
        assert names(*attached(150), *failed(1))[0] == "failed-000"

    def test_shows_the_unchanged_up_to_100_repositories_in_all(self) -> None:
        assert len(listed(*failed(1), *unchanged(99))) == 100
        assert names(*failed(1), *unchanged(100)) == ["failed-000"]
        # That the unchanged are not listed is no truncation.
        assert truncated(*failed(1), *unchanged(100)) is False

    def test_ends_before_200_000_characters_with_the_first_repository_that_does_not_fit(self) -> None:
        (details,) = listed(*failed(1, error=""))
        without_reason = len(json.dumps(details | {"reason": ""}))
        exactly = failed(4, error="x" * (50_000 - without_reason))
        small = Result("unchanged", Outcome.GONE)
        assert len("".join(json.dumps(each) for each in listed(*exactly))) == 200_000

        assert names(*exactly) == [each.repository for each in exactly]
        assert truncated(*exactly) is False
        longer = replace(exactly[2], error=exactly[2].error + "x")
        assert names(*exactly[:2], longer, exactly[3], small) == ["failed-000", "failed-001", "failed-002"]
        assert truncated(*exactly[:2], longer, exactly[3], small) is True


class TestTheError:
    def message(self, report: Report) -> str:
        with pytest.raises(RepositoriesFailed) as caught:
            report.raise_for_failures()
        return str(caught.value)

    def test_names_missing_roles_first_then_failures_and_at_last_those_without_a_name(self) -> None:
        report = Report(Request(("*",), continuation=Continuation(failed_more=7)), dry_run=False)
        not_removed = Result("kept", Outcome.FAILED, missing_roles=(B, A), not_removed=(PULL,))
        for result in (*failed(1), not_removed):
            report.add(result)

        found = re.findall(
            r"role/unionai-(.)-|AllowPull: (nothing)|(failed-000)|(7 more)", self.message(report)
        )

        assert ["".join(each) for each in found] == ["a", "b", "nothing", "failed-000", "7 more"]

    def test_names_ten_failures_by_name_and_counts_the_others(self) -> None:
        ten, eleven = (self.message(report_of(*reversed(failed(count)))) for count in (10, 11))

        assert re.findall(r"failed-\d+", ten) == [each.repository for each in failed(10)]
        assert "more" not in ten
        assert re.findall(r"failed-\d+", eleven) == re.findall(r"failed-\d+", ten)
        assert eleven.startswith("11 of 11 repositories failed: ")
        assert eleven.endswith("; and 1 more, named in the log")

    def test_gives_the_error_of_a_repository_before_its_missing_roles(self) -> None:
        (details,) = listed(Result("app", Outcome.FAILED, missing_roles=(A,), error="no space for a role"))

        assert details["reason"].startswith(f"no space for a role. missing: {A}: it does not exist")

    def test_of_a_listing_that_fails_is_raised_rather_than_that_of_a_repository(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")
        for operation in (READ, LIST):
            ecr.inject_faults(operation, EcrError("AccessDeniedException", f"not authorized: {operation}"))

        invocation = function.invoke({"repositories": ["app", "*"]})

        assert type(invocation.error) is RegistryError
        assert f"not authorized: {LIST}" in str(invocation.error)
        assert invocation.report
        assert invocation.report.response()["outcomes"] == {"failed": 1}
