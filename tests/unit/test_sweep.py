"""Sweeps of many repositories in several invocations, on the fake ECR and on a clock that calls move."""

import itertools
import json
import random
import re
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import sleep  # bound here, because the harness patches it
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from devstack.fake_ecr import LIST, READ, READ_REGISTRY, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.ecr.errors import RegistryError
from handler.ecr.registry import MAX_CONCURRENCY, Listed, Registry
from handler.events.request import MAX_FAILED_NAMES, Continuation, Request
from handler.events.triggers import FunctionIdentity
from handler.events.triggers import parse as parse_event
from handler.policy.grants import PULL
from handler.policy.plan import grantees_of
from handler.reconcile.result import Outcome, Result
from handler.reconcile.role_check import RoleCheck
from handler.reconcile.sweep import OutOfTime, Sweep, _run_concurrently
from handler.report.report import Report, RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, Invocation
from tests.unit.policies import A, B, document, grant
from tests.unit.virtual_time import limiter_without_waits

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

FUNCTION = FunctionIdentity("111122223333", "us-east-1", caller_arn="ourselves")
# With this limit, a few hundred repositories have what thousands have: names that a continuation lacks.
FEW_NAMES = 100
CALL_DURATION = 0.1  # seconds that a call adds to the invocation, with many calls in flight


@pytest.fixture(autouse=True)
def small_scale(ecr: FakeEcr, function: Function) -> None:
    """Let a few hundred repositories take several pages and invocations."""
    ecr.max_page_size = 100
    function.seconds_per_call = CALL_DURATION


@pytest.fixture
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.reconcile.sweep.MAX_FAILED_NAMES", FEW_NAMES)


def names(count: int) -> list[str]:
    return [f"team-{number % 97}/app-{number}" for number in range(count)]


def break_reads(ecr: FakeEcr, repositories: Iterable[str]) -> None:
    for name in repositories:
        ecr.inject_faults(READ, *[EcrError("AccessDeniedException", "broken")] * 20, repository=name)


def throttle_reads(ecr: FakeEcr, repositories: Iterable[str]) -> None:
    for name in repositories:
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 1_000, repository=name)


def calls_by_repository(ecr: FakeEcr, operation: str) -> Counter[str | None]:
    """Count the calls of an operation on users' repositories, also those that failed."""
    return Counter(
        name for call, name, _ in ecr.call_log if call == operation and name != ROLE_CHECK_REPOSITORY
    )


def role_checks(ecr: FakeEcr) -> int:
    return sum(name == ROLE_CHECK_REPOSITORY for _, name, _ in ecr.call_log)


def granted(ecr: FakeEcr, *roles: str) -> set[str]:
    """Return the repositories whose policy is exactly the grant."""
    expected = normalized(document(grant(*(roles or (A,)))))
    return {name for name in users_repositories(ecr) if ecr.get_policy(name) == expected}


def users_repositories(ecr: FakeEcr) -> set[str]:
    return ecr.policies.keys() - {ROLE_CHECK_REPOSITORY}


def total(function: Function, outcome: str) -> int:
    return sum(answer["outcomes"].get(outcome, 0) for answer in function.answers)


def prepare(
    ecr: FakeEcr, function: Function, request: Request, time_left: Callable[[], float] = lambda: 900.0
) -> Sweep:
    registry, settings = Registry(ecr.client(), limiter_without_waits()), function.configured()
    return Sweep(request, settings, registry, RoleCheck(registry, settings, "111122223333"), time_left)


def test_ten_pages_of_repositories_are_reconciled_in_several_invocations(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository(*names(999))  # and the one for role checks
    function.timeout = 90

    function.run()

    assert granted(ecr) == users_repositories(ecr)
    assert set(calls_by_repository(ecr, WRITE).values()) == {1}
    assert ecr.calls[LIST] == 10
    assert total(function, "attached") == 999
    assert total(function, "unchanged") == 0
    assert [answer.get("continued", False) for answer in function.answers] == [True, True, False]
    assert function.longest_invocation < function.timeout


def test_a_continuation_delivered_twice_writes_each_policy_once(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(300))
    function.timeout = 5
    chance = random.Random(3)

    payloads: list[dict[str, object]] = [{"repositories": ["*"]}]
    unchanged = 0
    while payloads:
        invocation = function.invoke(payloads.pop(0))
        assert invocation.answer
        unchanged += invocation.answer["outcomes"].get("unchanged", 0)
        if invocation.continuation:
            payloads += [invocation.continuation] * (2 if chance.random() < 0.2 else 1)

    assert granted(ecr) == users_repositories(ecr)
    assert set(calls_by_repository(ecr, WRITE).values()) == {1}
    assert unchanged > 0


def test_an_invocation_ends_before_its_timeout(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(500))

    invocation = function.invoke({"repositories": ["*"]}, timeout=30)

    assert invocation.continuation is not None
    assert function.longest_invocation < 30 - 0.25 * 30 + MAX_CONCURRENCY * 2 * CALL_DURATION


def test_memory_does_not_grow_with_the_number_of_repositories(ecr: FakeEcr, function: Function) -> None:
    def answer(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        response = ecr.handle_call(operation, parameters)
        ecr.call_log.clear()
        assert response
        return response[1]

    # Without the SDK, which is slow while the memory is traced.
    client = SimpleNamespace(
        describe_repositories=lambda **parameters: answer(LIST, parameters),
        get_repository_policy=lambda **parameters: answer(READ, parameters),
    )
    registry = Registry(cast("ECRClient", client), limiter_without_waits())

    def peak_of_a_sweep() -> int:
        """Return the peak of the memory that a sweep and its report take, in bytes."""
        request = Request(("*",))
        sweep = Sweep(request, function.configured(), registry, None, lambda: 900)
        report = Report(request, dry_run=False)
        for result in sweep.run():
            report.add(result)
        report.publish()
        return tracemalloc.get_traced_memory()[1]

    peaks = []
    for count in (300, 1_200):
        ecr.create_repository(*names(count), policy=document(grant(A)))
        peak_of_a_sweep()  # from now on, the fake has an entry for each repository
        tracemalloc.start()
        peaks.append(peak_of_a_sweep())
        tracemalloc.stop()

    assert peaks[1] < peaks[0] + 900 * 250  # bytes, less than half of what a result takes


def test_failed_repositories_do_not_stop_the_sweep_and_the_last_invocation_reports_them(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository(*names(500))
    break_reads(ecr, broken := {"team-0/app-0", "team-1/app-1"})
    function.timeout = 20

    with pytest.raises(RepositoriesFailed) as caught:
        function.run()

    failed = re.findall(r"(\d+) (?:of \d+ repositories )?failed", str(caught.value))
    assert sum(map(int, failed)) == 2
    assert len(function.answers) > 3
    assert ecr.calls[WRITE] == 498
    assert granted(ecr) == users_repositories(ecr) - broken


def test_a_sweep_with_many_failures_ends_and_retries_each_failed_repository_once(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository(*names(300))
    break_reads(ecr, broken := names(60))
    function.timeout = 20

    with pytest.raises(RepositoriesFailed, match=r"^60 of \d+ repositories failed: .*; and 50 more"):
        function.run()

    assert granted(ecr) == users_repositories(ecr).difference(broken)
    assert ecr.calls[READ] <= 300 + 60
    assert role_checks(ecr) == 0


def test_repositories_deleted_during_a_sweep_do_not_hide_others(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(300))
    function.timeout = 8

    def delete_some() -> None:
        for name in sorted(granted(ecr))[:5]:
            ecr.delete_repository(name)

    function.between = delete_some

    function.run()

    assert len(function.answers) > 3
    assert granted(ecr) == users_repositories(ecr)


def test_a_listing_past_the_deadline_continues_in_a_new_invocation(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(200))
    ecr.run_after(LIST, lambda: ecr.inject_faults(LIST, *[Fault.THROTTLED] * 48))
    function.timeout, function.seconds_per_delay = 27, 0

    function.run()

    assert len(function.answers) > 1
    assert granted(ecr) == users_repositories(ecr)


def test_pages_without_a_matching_repository_count_toward_the_deadline(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.max_page_size = 10
    ecr.create_repository("team/app", *(f"other/app-{number:05}" for number in range(500)))
    function.timeout = 4

    function.run("team/*")

    assert len(function.answers) > 1
    assert function.longest_invocation < 4
    assert granted(ecr) == {"team/app"}


def test_a_listing_that_fails_midway_raises_an_error_and_the_totals_so_far_are_logged(
    ecr: FakeEcr, function: Function, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    ecr.create_repository(*names(200))
    denied = EcrError("AccessDeniedException", "not authorized")
    ecr.run_after(LIST, lambda: ecr.inject_faults(LIST, denied))

    with pytest.raises(RegistryError, match="not authorized"):
        function.run()

    *_, report, failed = logged()
    assert report["message"] == "report"
    assert report["outcomes"] == {"attached": 99}  # and one for role checks
    assert failed["message"] == "invocation failed"


def test_names_past_the_deadline_continue_in_a_new_invocation(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(300))
    function.timeout = 20

    function.run(*(named := names(250)), "team-5/*")

    assert granted(ecr) == {name for name in names(300) if name in named or name.startswith("team-5/")}
    assert len(function.answers) > 2


def test_a_repository_that_is_named_and_matched_is_retried_once_after_a_continuation(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository(*names(150), "zapp")
    break_reads(ecr, ["zapp"])
    function.timeout = 20

    with pytest.raises(RepositoriesFailed, match="zapp") as caught:
        function.run("zapp", "*")

    assert len(function.answers) > 1
    assert str(caught.value).count("zapp") == 1
    assert calls_by_repository(ecr, READ)["zapp"] == 2


def test_a_single_repository_is_reconciled_without_a_thread(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app", "other")
    threads: list[threading.Thread] = []
    ecr.run_before(READ, *[lambda: threads.append(threading.current_thread())] * 5)

    function.run("app")
    assert threads == [threading.current_thread()]

    function.run("app", "other")
    function.run("app*")
    assert len(threads) == 4
    assert threading.current_thread() not in threads[1:]


def test_a_dry_run_stays_a_dry_run_in_every_invocation(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository(*names(300))
    function.timeout = 15

    function.run(dry_run=True)

    assert total(function, "would_attach") == 300
    assert len(function.answers) > 1
    assert not calls_by_repository(ecr, WRITE)


def test_a_timeout_too_short_for_one_repository_raises_an_error_instead_of_continuing_forever(
    ecr: FakeEcr, function: Function
) -> None:
    ecr.create_repository("app")
    function.timeout, function.seconds_per_call = 10, 10

    with pytest.raises(OutOfTime, match="raise the function timeout"):
        function.run("app")


class TestAMissingRole:
    @pytest.fixture(autouse=True)
    def missing_role(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)

    def test_costs_one_rejected_write_for_each_thread_and_two_checks(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(200))
        function.seconds_per_call = 0.01

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 200 of 200 repositories"):
            function.run()

        assert granted(ecr) == users_repositories(ecr)
        assert role_checks(ecr) == 2
        assert calls_by_repository(ecr, WRITE).total() <= 200 + MAX_CONCURRENCY
        assert ecr.calls[READ] <= 200 + MAX_CONCURRENCY

    @pytest.mark.usefixtures("few_names")
    def test_is_retried_at_the_end_and_counted_beyond_the_names_that_a_continuation_holds(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(300))
        function.timeout = 20

        with pytest.raises(RepositoriesFailed) as caught:
            function.run()

        failed = re.findall(
            r"(?:missing in (\d+) of|(\d+) (?:of \d+ repositories|more) failed)", str(caught.value)
        )
        assert sum(int(number) for numbers in failed for number in numbers if number) == 300
        continuation = cast("dict[str, list[str]]", function.payload["continuation"])
        assert len(continuation["failed"]) + len(continuation["failed_again"]) == FEW_NAMES
        assert granted(ecr) == users_repositories(ecr)

    def test_that_appears_between_two_invocations_is_granted_everywhere(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(150))
        function.timeout = 25

        def create_role() -> None:
            if B not in ecr.roles:
                ecr.create_role(B)
            function.now, function.timeout = function.now + 60, 100

        function.between = create_role

        function.run()

        assert function.answers[0]["missing_roles"][0]["role"] == B
        assert granted(ecr, A, B) == users_repositories(ecr)

    def test_is_asked_about_once_in_a_dry_run_of_less_than_a_minute(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(200))

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 200 of 200 repositories"):
            function.run(dry_run=True)

        assert role_checks(ecr) == 2
        assert not calls_by_repository(ecr, WRITE)


class TestRepositoriesThatFailedBefore:
    """At the end of a sweep, in invocations that have no time for all of them."""

    NAMES = tuple(f"app-{number:04}" for number in range(300))
    PAYLOAD = Request((), continuation=Continuation(failed=NAMES, of_all=True)).payload("0e")

    @pytest.fixture(autouse=True)
    def repositories(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*self.NAMES)
        function.timeout = 10

    def chain(self, function: Function, payload: dict[str, object] | None) -> list[Invocation]:
        invocations: list[Invocation] = []
        while payload:
            function.between()
            invocations.append(function.invoke(payload))
            payload = invocations[-1].continuation
            assert len(invocations) < 20
        return invocations

    def test_are_retried_once_each_in_as_many_invocations_as_it_takes(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        break_reads(ecr, self.NAMES)
        reads_before: list[Counter[str | None]] = []
        function.between = lambda: reads_before.append(calls_by_repository(ecr, READ))

        invocations = self.chain(function, self.PAYLOAD)

        assert len(invocations) >= 3
        assert function.longest_invocation < function.timeout
        # The last invocation has the names that failed again, for the report, and tries as many as it can.
        assert set(reads_before[-1].values()) == {1}
        reads = calls_by_repository(ecr, READ)
        assert set(reads) == set(self.NAMES)
        assert max(reads.values()) == 2
        assert [each.error for each in invocations[:-1]] == [None] * (len(invocations) - 1)
        assert re.match(r"^300 of 300 repositories failed: ", str(invocations[-1].error))
        results = invocations[-1].results
        assert results.keys() == set(self.NAMES)
        reasons = {re.split(": |, and ", result.error)[-1] for result in results.values()}
        assert reasons == {"broken", "there was no time to retry it"}

    def test_get_the_grant_in_as_many_invocations_as_it_takes(self, ecr: FakeEcr, function: Function) -> None:
        invocations = self.chain(function, self.PAYLOAD)

        assert len(invocations) >= 3
        assert [each.error for each in invocations] == [None] * len(invocations)
        assert granted(ecr) == users_repositories(ecr)
        assert set(calls_by_repository(ecr, READ).values()) == {1}

    def test_end_the_sweep_if_none_of_them_progresses(self, ecr: FakeEcr, function: Function) -> None:
        throttle_reads(ecr, self.NAMES)
        function.timeout = 60

        (invocation,) = self.chain(function, self.PAYLOAD)

        assert re.match(r"^300 of 300 repositories failed: ", str(invocation.error))

    def test_end_the_sweep_once_the_others_no_longer_progress(self, ecr: FakeEcr, function: Function) -> None:
        break_reads(ecr, self.NAMES[:100])
        throttle_reads(ecr, self.NAMES[100:])
        function.timeout = 60

        invocations = self.chain(function, self.PAYLOAD)

        assert 1 < len(invocations) < 4
        assert re.match(r"^300 of 300 repositories failed: ", str(invocations[-1].error))

    @pytest.mark.usefixtures("few_names")
    def test_are_kept_by_name_up_to_a_number_in_all_and_counted_beyond(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        break_reads(ecr, self.NAMES)
        before = Continuation(failed=self.NAMES[:60], failed_more=7)
        # The names that the continuation holds are not listed, so this is the time for all others.
        function.timeout, function.seconds_per_call = 3 + 240 + 90, 1

        invocation = function.invoke(Request(("*",), continuation=before).payload("0e"))

        assert invocation.continuation
        continuation = cast("dict[str, Any]", invocation.continuation["continuation"])
        first, again = continuation["failed"], continuation["failed_again"]
        assert len(first) > 30, "the names that were not retried come first"
        assert len(first) + len(again) == FEW_NAMES
        assert set(again) <= {
            name for name, result in invocation.results.items() if result.outcome is Outcome.FAILED
        }
        named = first + again
        assert len(set(named)) == len(named)
        assert len(named) + continuation["failed_more"] == 300 + 7


class TestACompletedSweep:
    @pytest.fixture(autouse=True)
    def several_invocations(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(200))
        function.timeout = 15

    def completed(self, capsys: pytest.CaptureFixture[str]) -> int:
        return capsys.readouterr().out.count('"SweepsCompleted":[1')

    def test_is_counted_by_its_last_invocation(
        self, function: Function, capsys: pytest.CaptureFixture[str]
    ) -> None:
        invocation = function.invoke({"repositories": ["*"], "scheduled": False})
        assert self.completed(capsys) == 0
        while invocation.continuation:
            invocation = function.invoke(invocation.continuation)

        assert self.completed(capsys) == 1
        assert invocation.error is None

    def test_of_some_is_not_counted(self, function: Function, capsys: pytest.CaptureFixture[str]) -> None:
        function.run("team-*")

        assert len(function.answers) > 1
        assert self.completed(capsys) == 0

    def test_with_failed_repositories_is_counted(
        self, ecr: FakeEcr, function: Function, capsys: pytest.CaptureFixture[str]
    ) -> None:
        break_reads(ecr, ["team-0/app-0"])

        with pytest.raises(RepositoriesFailed):
            function.run()

        assert len(function.answers) > 1
        assert self.completed(capsys) == 1

    def test_is_not_counted_if_the_listing_failed(
        self, ecr: FakeEcr, function: Function, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ecr.inject_faults(LIST, Fault.UNAVAILABLE)
        function.seconds_per_call = function.timeout

        with pytest.raises(OutOfTime):
            function.run()

        assert self.completed(capsys) == 0


@dataclass
class RepeatingEcr(FakeEcr):
    """A fake ECR whose listing has one repository on each page, and returns these tokens.

    Attributes:
        tokens: the token of each page -> the token of the next one.
        on_page: runs before each page.
    """

    tokens: dict[str | None, str] = field(default_factory=dict)
    on_page: Callable[[], object] = lambda: None

    def handle_call(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if operation != LIST:
            return super().handle_call(operation, request)
        self.calls[LIST] += 1
        self.on_page()
        token = request.get("nextToken")
        page = [{"repositoryName": f"{token}/app".lower()}]
        return 200, {"repositories": page, "nextToken": self.tokens[token]}


class TestAPageTokenThatRepeats:
    """The listing never ends: it starts again a few times, and then it is an error."""

    @pytest.fixture(
        params=[
            {None: "A", "A": "A"},
            {None: "A", "A": "B", "B": "A"},
            {None: "A", "A": "B", "B": "B"},
            {None: "A", "A": "B", "B": "C", "C": "A"},
        ]
    )
    def ecr(self, request: pytest.FixtureRequest) -> RepeatingEcr:
        ecr = RepeatingEcr(tokens=request.param)
        ecr.create_role(A)
        ecr.create_repository(*(f"{token}/app".lower() for token in ecr.tokens))
        return ecr

    def test_in_one_invocation(self, ecr: RepeatingEcr, function: Function) -> None:
        with pytest.raises(RegistryError, match="listing of repositories repeats and does not end"):
            function.run()

        assert len(function.answers) == 1
        assert ecr.calls[LIST] <= 4 * (len(ecr.tokens) + 1)
        assert "none/app" in granted(ecr)

    def test_across_invocations(
        self, ecr: RepeatingEcr, function: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler.reconcile.listing._MAX_PAGES", 10)
        ecr.on_page = lambda: function.sleep(80)
        function.timeout = 100

        with pytest.raises(RegistryError, match="listing of repositories repeats and does not end"):
            function.run()

        assert 4 <= len(function.answers) <= ecr.calls[LIST] <= 4 * (10 + 2)
        assert "none/app" in granted(ecr)


def test_a_page_token_that_a_new_listing_returns_again_is_no_error(ecr: FakeEcr, function: Function) -> None:
    """The first token is the same each time. ECR refused a later one once."""
    ecr.max_page_size = 1
    ecr.create_repository("app", "bpp")
    client = ecr.client()
    first = client.describe_repositories()["nextToken"]
    second = client.describe_repositories(nextToken=first)["nextToken"]
    ecr.inject_faults(LIST, EcrError("InvalidParameterException", "Invalid parameter at 'nextToken'"))

    invocation = function.invoke(Request(("*",), continuation=Continuation(second, pages=2)).payload("0e"))

    assert invocation.results.keys() == {"app", "bpp"}
    assert invocation.continuation is None
    assert invocation.error is None


class TestARepositoryThatIsThrottledUntilTheDeadline:
    @pytest.fixture(autouse=True)
    def slow(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(150), "slow-0")
        throttle_reads(ecr, ["slow-0"])
        function.timeout = 25
        function.during_backoff = lambda: sleep(0.001)  # in real time, for the other threads

    def test_is_reconciled_by_a_later_invocation_and_is_no_failure(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.seconds_per_delay = 0
        function.between = ecr.clear_faults

        function.run("slow-0", "*")

        assert function.answers[0]["continued"] is True
        assert granted(ecr) == users_repositories(ecr)
        assert calls_by_repository(ecr, WRITE)["slow-0"] == 1

    def test_is_a_failure_of_the_last_invocation(self, function: Function) -> None:
        with pytest.raises(
            RepositoriesFailed, match=r"slow-0: no attempt succeeded in time: .*: Rate exceeded$"
        ):
            function.run(names(1)[0], "slow-0")

    @pytest.mark.usefixtures("few_names")
    def test_is_reconciled_although_more_repositories_failed_than_a_continuation_names(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(400))
        break_reads(ecr, names(400))
        function.seconds_per_call, function.seconds_per_delay = 0.05, 0

        first = function.invoke({"repositories": ["slow-0", "*"]})
        assert first.continuation
        assert [each.outcome for each in first.results.values()].count(Outcome.FAILED) > FEW_NAMES

        ecr.clear_faults()
        second = function.invoke(first.continuation, timeout=900)
        assert second.results["slow-0"].outcome is Outcome.ATTACHED

    @pytest.mark.usefixtures("few_names")
    def test_is_reconciled_although_as_many_failed_before_as_a_continuation_names(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*(slow := [f"slow-{number}" for number in range(1, MAX_CONCURRENCY)]))
        throttle_reads(ecr, slow)
        before = Continuation(failed=tuple(names(FEW_NAMES)))

        first = function.invoke(Request((names(150)[-1], "slow-0", *slow), continuation=before).payload("0e"))
        assert first.continuation

        ecr.clear_faults()
        function.invoke(first.continuation, timeout=900)
        assert granted(ecr) >= {"slow-0", *slow}


def test_the_payload_of_a_continuation_is_within_lambdas_limit(ecr: FakeEcr, function: Function) -> None:
    longest = 256
    repositories = [f"{number:04}"[::-1].rjust(longest, "x") for number in range(2_000)]
    ecr.max_page_size = 1_000
    ecr.create_repository(*repositories)
    break_reads(ecr, repositories[:MAX_FAILED_NAMES])  # which are listed first
    function.seconds_per_call, function.timeout = 0.01, 16

    continuation = function.invoke({"repositories": ["*"]}).continuation

    assert continuation
    request = parse_event(continuation, FUNCTION)
    assert isinstance(request, Request)
    assert request.continuation
    assert len(request.continuation.failed) == MAX_FAILED_NAMES
    assert len(request.repositories) > 800
    assert len(str(continuation)) < 1_000_000


def shortest_patterns(characters: int) -> tuple[str, ...]:
    """Return as many patterns as possible, and so as many quotes, of so many characters in all."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789._-?*"
    patterns: list[str] = []
    for length in range(2, 6):
        for letter in itertools.product(letters, repeat=length):
            if characters < length:
                return tuple(patterns)
            if not {"*", "?"}.isdisjoint(letter):
                patterns.append("".join(letter))
                characters -= length
    raise AssertionError


@pytest.mark.parametrize("patterns", [shortest_patterns(100_000), (f"{'x' * 511}*",) * 195])
def test_the_payload_of_the_largest_request_that_is_accepted_is_within_lambdas_limit(
    ecr: FakeEcr, function: Function, patterns: tuple[str, ...]
) -> None:
    longest = 256
    request = parse_event({"repositories": list(patterns)}, FUNCTION)
    assert isinstance(request, Request)
    failed, page = (
        tuple(f"{number:04}{kind}".ljust(longest, "x") for number in range(1_000)) for kind in "fp"
    )
    half = Continuation("t" * 2_000, request.repositories, failed[:500], failed[500:])
    # Each glob matches a page of names, none of which there is time for.
    times = iter([900.0, 900.0, 900.0])
    sweep = prepare(ecr, function, replace(request, continuation=half), lambda: next(times, 0.0))
    listing = sweep._listing  # noqa: SLF001 - to list a page that each pattern matches, in no time
    listing.next_page = lambda: [Listed(name) for name in page]  # type: ignore[method-assign]

    assert list(sweep.run())

    assert sweep.continuation
    payload = sweep.continuation.payload("11111111-1111-4111-8111-111111111111")
    assert len(cast("list[str]", payload["repositories"])) >= len(set(patterns)) + 1_000 - MAX_CONCURRENCY
    assert len(json.dumps(payload)) < 1_000_000
    next_request = replace(sweep.continuation, with_registry_policy=False)
    assert parse_event(json.loads(json.dumps(payload)), FUNCTION) == next_request


def test_a_dry_run_needs_no_role_check(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app")
    registry = Registry(ecr.client(), limiter_without_waits())
    request = Request(("app",), dry_run=True)

    (result,) = Sweep(request, function.configured(), registry, None, lambda: 900).run()

    assert result.outcome is Outcome.WOULD_ATTACH
    assert ecr.calls == {READ: 1}


def test_a_throttled_call_is_not_retried_after_the_deadline(ecr: FakeEcr, function: Function) -> None:
    ecr.create_repository("app")
    ecr.inject_faults(READ, Fault.THROTTLED, Fault.THROTTLED)
    function.seconds_per_call = 40  # of the minute for a single repository

    result = function.invoke({"repositories": ["app"]}).results["app"]

    assert result.outcome is Outcome.FAILED
    assert "Rate exceeded" in result.reason
    assert ecr.calls == {READ_REGISTRY: 1, READ: 1}


@dataclass
class UnansweringEcr(FakeEcr):
    """A fake ECR whose calls arrive so many at a time, and get no answer."""

    concurrent_calls: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def handle_call(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        self.concurrent_calls.wait(timeout=10)
        self.inject_faults(operation, Fault.RESET)
        return super().handle_call(operation, request)


class TestARegistryThatStopsAnswering:
    """Each call takes the rest of the time, and fails."""

    @pytest.fixture
    def ecr(self) -> UnansweringEcr:
        return UnansweringEcr()

    def sweep(self, function: Function, *names: str, retry: tuple[str, ...] = ()) -> Invocation:
        function.seconds_per_call = function.timeout
        return function.invoke(Request(names, continuation=Continuation(failed=retry)).payload("0e"))

    def test_fails_every_repository_that_was_tried(self, ecr: UnansweringEcr, function: Function) -> None:
        names = [f"app-{number}" for number in range(MAX_CONCURRENCY)]
        ecr.concurrent_calls = threading.Barrier(MAX_CONCURRENCY)

        results = self.sweep(function, *names).results

        assert results.keys() == set(names)
        assert {result.outcome for result in results.values()} == {Outcome.FAILED}
        assert all("ECR did not answer" in result.reason for result in results.values())

    def test_is_named_as_the_cause_if_nothing_was_reconciled(self, function: Function) -> None:
        names = [f"app-{number}" for number in range(MAX_CONCURRENCY + 1)]

        error = self.sweep(function, *names).error

        assert isinstance(error, OutOfTime)
        assert "no attempt succeeded in time: ECR did not answer" in str(error)

    def test_is_named_as_the_cause_if_nothing_was_listed(self, function: Function) -> None:
        error = self.sweep(function, "*").error

        assert isinstance(error, OutOfTime)
        assert ": ECR did not answer" in str(error)

    def test_prevents_the_retry_of_repositories_that_failed_before(self, function: Function) -> None:
        function.timeout = 0

        results = self.sweep(function, retry=("app", "tool")).results

        error = (
            "it failed in an earlier invocation, whose log has the reason, and there was no time to retry it"
        )
        assert list(results.values()) == [
            Result(name, Outcome.FAILED, error=error) for name in ("app", "tool")
        ]


class TestPatterns:
    def test_of_the_pull_through_cache_that_match_nothing_in_scope_are_reported_by_a_sweep(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("docker-hub/library/alpine", "scratch/cached")
        function.settings = {
            "REPOSITORIES": "*,!scratch/*",
            "PULL_THROUGH_CACHE_REPOSITORIES": "docker-hub/*,scratch/*",
        }

        function.run()

        assert function.answers[-1]["unmatched"] == ["scratch/*"]
        assert "AllowPullThroughCache" in str(ecr.policies["docker-hub/library/alpine"])
        function.run("docker-hub/*")
        assert "unmatched" not in function.answers[-1]

    def test_that_match_nothing_in_scope_are_reported(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("ml/train", "scratch/x1")
        function.settings = {"REPOSITORIES": "*,!scratch/*"}

        function.run("ml/*", "nothing/*", "scratch/*")

        assert function.answers[-1]["unmatched"] == ["nothing/*", "scratch/*"]
        assert total(function, "attached") == 1

    def test_that_match_everything_select_only_repositories_in_scope(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("ml/train", "scratch/x1")
        function.settings = {"REPOSITORIES": "*,!scratch/*"}

        function.run()

        assert granted(ecr) == {"ml/train"}
        assert ecr.policies["scratch/x1"] is None
        assert "unmatched" not in function.answers[-1]

    def test_that_name_a_repository_out_of_scope_are_reported(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("scratch/x1")
        function.settings = {"REPOSITORIES": "*,!scratch/*"}

        function.run("scratch/x1")

        assert function.answers[-1]["repositories"] == [
            {"repository": "scratch/x1", "outcome": "out_of_scope"}
        ]

    def test_are_tracked_across_invocations(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("ml/train", *(f"team/app-{number}" for number in range(200)))
        function.timeout = 15

        function.run("ml/*", "team/*", "nothing/*")

        assert len(function.answers) > 1
        assert [answer.get("unmatched") for answer in function.answers[:-1]] == [None] * (
            len(function.answers) - 1
        )
        assert function.answers[-1]["unmatched"] == ["nothing/*"]


def test_two_functions_that_reconcile_the_same_repository_concurrently_converge(ecr: FakeEcr) -> None:
    ours, theirs = Function(ecr, roles=(A,)), Function(ecr, roles=(B,))
    ecr.create_repository("team/app")
    ecr.run_after(READ, lambda: theirs.reconcile("team/app"))

    ours.reconcile("team/app")
    granted_after_the_race = grantees_of(ecr.get_policy("team/app"))
    for function in (ours, theirs):  # each receives the event of the other's write
        function.reconcile("team/app")
    writes = ecr.calls[WRITE]
    for function in (ours, theirs, ours):
        function.reconcile("team/app")

    assert len(granted_after_the_race) == 1
    assert grantees_of(ecr.get_policy("team/app")) == {(PULL, A), (PULL, B)}
    assert writes == 3
    assert ecr.calls[WRITE] == 3


class TestConcurrency:
    def test_has_a_limit(self) -> None:
        lock, running, highest = threading.Lock(), 0, 0
        limit_reached = threading.Barrier(3)

        def call(name: str) -> str:
            nonlocal running, highest
            with lock:
                running += 1
                highest = max(highest, running)
            limit_reached.wait(timeout=10)
            with lock:
                running -= 1
            return name

        results = list(_run_concurrently(call, [str(number) for number in range(9)], 3))

        assert sorted(results) == [str(number) for number in range(9)]
        assert highest == 3

    def test_goes_on_while_one_call_is_slow(self) -> None:
        last_started = threading.Event()

        def call(name: str) -> bool:
            if name == "last":
                last_started.set()
            return last_started.wait(timeout=10) if name == "slow" else True

        assert all(_run_concurrently(call, ["slow", "next", "last"], 2))
