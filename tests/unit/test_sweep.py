"""Sweeps of many repositories, on a simulated ECR and a simulated clock."""

import itertools
import json
import random
import re
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import sleep
from typing import Any, cast

import pytest

from devstack.fake_ecr import FakeEcr
from handler.ecr.errors import PolicyRejected, RegistryError, RepositoryNotFound, Throttled, Unavailable
from handler.ecr.registry import MAX_CONCURRENCY, Listed, Registry
from handler.events.request import MAX_FAILED_NAMES, Continuation, Request
from handler.events.triggers import FunctionIdentity
from handler.events.triggers import parse as parse_event
from handler.policy.document import parse, render
from handler.policy.grants import PULL, Grant
from handler.policy.plan import grantees_of, plan
from handler.reconcile.result import Outcome, Result
from handler.reconcile.role_check import RoleCheck
from handler.reconcile.sweep import OutOfTime, Sweep, _run_concurrently
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED, ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, Invocation
from tests.unit.policies import A, B

SETTINGS = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": A})
FUNCTION = FunctionIdentity("111122223333", "us-east-1", caller_arn="ourselves")
GRANTED_POLICY = render(plan(None, [Grant(PULL, (A,))]).policy or {})
LAMBDA_TIMEOUT = 900.0  # seconds, the maximum that Lambda allows
CALL_DURATION = 0.01  # seconds that a call adds to the invocation, with many calls in flight


class SimulatedRegistry:
    """A registry that lists pages in its own order, and whose calls take simulated time."""

    def __init__(self, names: list[str]) -> None:
        self.policies: dict[str, str | None] = dict.fromkeys(names)
        self.calls: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.throttled: set[str] = set()
        self.missing_role = "none"
        self.time = 0.0
        self._lock = threading.Lock()

    def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
        self._record_call("page")
        start = int(token or 0)
        names = [Listed(name) for name in list(self.policies)[start : start + 1000]]
        return names, str(start + 1000) if start + 1000 < len(self.policies) else None

    def get_policy(self, name: str) -> str | None:
        self._record_call("read")
        self.reads[name] += 1
        if name in self.throttled:
            sleep(0.001)  # in real time, for the other threads
            raise Throttled("Rate exceeded")
        if name in self.broken:
            raise RegistryError("broken")
        if name not in self.policies:
            raise RepositoryNotFound(name)
        return self.policies[name]

    def get_registry_policy(self) -> None:
        self._record_call("registry policy")

    def set_policy(self, name: str, text: str) -> None:
        self._record_call("write")
        self._reject_missing_role(text)
        self.writes[name] += 1
        self.policies[name] = text

    def check_policy(self, name: str, text: str) -> None:
        assert name == ROLE_CHECK_REPOSITORY
        self._record_call("check")
        self._reject_missing_role(text)

    def _reject_missing_role(self, text: str) -> None:
        if self.missing_role in text:
            raise PolicyRejected("Principal not found")

    def _record_call(self, call: str) -> None:
        with self._lock:
            self.calls[call] += 1
            self.time += CALL_DURATION


class UnavailableRegistry(SimulatedRegistry):
    """A registry whose calls take the rest of the time, and fail."""

    def __init__(self) -> None:
        super().__init__([])
        self.concurrent_reads = threading.Barrier(1)

    def list_repositories(self, _: str | None = None) -> tuple[list[Listed], str | None]:
        self.time = LAMBDA_TIMEOUT
        raise Unavailable("ECR did not list")

    def get_policy(self, _: str) -> str | None:
        self.concurrent_reads.wait(timeout=10)
        self.time = LAMBDA_TIMEOUT
        raise Unavailable("ECR did not answer")


class Lambda(Function):
    """The function, with its continuations, against a simulated registry."""

    def __init__(
        self, simulated: SimulatedRegistry, timeout: float = LAMBDA_TIMEOUT, **settings: str
    ) -> None:
        registry = cast("Registry", simulated)
        super().__init__(FakeEcr(), settings=settings, registry=registry, timeout=timeout)
        self.simulated = simulated
        self.longest_invocation = 0.0

    def invoke(self, event: object, *, timeout: float | None = None, **settings: str) -> Invocation:
        started = self.elapsed()
        invocation = super().invoke(event, timeout=timeout, **settings)
        self.longest_invocation = max(self.longest_invocation, self.elapsed() - started)
        return invocation

    def elapsed(self) -> float:
        return self.now + self.simulated.time

    def total(self, outcome: str) -> int:
        return sum(answer["outcomes"].get(outcome, 0) for answer in self.answers)


def prepare(
    request: Request,
    registry: SimulatedRegistry,
    time_left: Callable[[], float] = lambda: LAMBDA_TIMEOUT,
    settings: Settings = SETTINGS,
) -> Sweep:
    real = cast("Registry", registry)
    return Sweep(request, settings, real, RoleCheck(real, settings, "111122223333"), time_left)


def run(sweep: Sweep) -> list[Result]:
    return list(sweep.run())


def shuffled(count: int) -> list[str]:
    names = [f"team-{number % 97}/app-{number}" for number in range(count)]
    random.Random(7).shuffle(names)
    return names


def test_ten_pages_of_repositories_are_reconciled_in_several_invocations() -> None:
    registry = SimulatedRegistry(shuffled(10_000))
    function = Lambda(registry, timeout=LAMBDA_TIMEOUT * 0.1)

    function.run()

    assert set(registry.policies.values()) == {GRANTED_POLICY}
    assert set(registry.writes.values()) == {1}
    assert function.total("attached") == 10_000
    assert function.total("unchanged") == 0
    assert [answer.get("continued", False) for answer in function.answers] == [True, True, False]
    assert function.longest_invocation < function.timeout


def test_a_continuation_delivered_twice_writes_each_policy_once() -> None:
    registry = SimulatedRegistry(shuffled(3_000))
    function = Lambda(registry, timeout=5)
    chance = random.Random(3)

    payloads: list[dict[str, object]] = [{"repositories": ["*"]}]
    unchanged = 0
    while payloads:
        invocation = function.invoke(payloads.pop(0))
        assert invocation.answer
        unchanged += invocation.answer["outcomes"].get("unchanged", 0)
        if invocation.continuation:
            payloads += [invocation.continuation] * (2 if chance.random() < 0.2 else 1)

    assert set(registry.policies.values()) == {GRANTED_POLICY}
    assert set(registry.writes.values()) == {1}
    assert unchanged > 0


def test_an_invocation_ends_before_its_timeout() -> None:
    registry = SimulatedRegistry(shuffled(5_000))

    sweep = prepare(Request(("*",)), registry, lambda: 30 - registry.time)
    run(sweep)

    assert sweep.continuation is not None
    assert registry.time < 30 - 0.25 * 30 + MAX_CONCURRENCY * 2 * CALL_DURATION


def sweep_and_publish(registry: SimulatedRegistry) -> None:
    request = Request(("*",))
    sweep, report = prepare(request, registry), Report(request, dry_run=False)
    for result in sweep.run():
        report.add(result)
    report.publish()


def test_memory_does_not_grow_with_the_number_of_repositories() -> None:
    peaks = []
    for count in (1_000, 4_000):
        registry = SimulatedRegistry(shuffled(count))
        registry.policies = dict.fromkeys(registry.policies, GRANTED_POLICY)
        tracemalloc.start()
        sweep_and_publish(registry)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.5 * peaks[0] + 4_000 * 8  # the list of names that the simulation holds


def test_failed_repositories_do_not_stop_the_sweep_and_the_last_invocation_reports_them() -> None:
    registry = SimulatedRegistry(shuffled(5_000))
    registry.broken = {"team-0/app-0", "team-1/app-1"}
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed) as caught:
        function.run()

    failed = re.findall(r"(\d+) (?:of \d+ repositories )?failed", str(caught.value))
    assert sum(map(int, failed)) == 2
    assert len(function.answers) > 3
    assert registry.calls["write"] == 4_998
    assert sum(policy == GRANTED_POLICY for policy in registry.policies.values()) == 4_998


def test_a_sweep_with_many_failures_ends_and_retries_each_failed_repository_once() -> None:
    registry = SimulatedRegistry(names := shuffled(3_000))
    registry.broken = set(names[:600])
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed, match=r"^600 of \d+ repositories failed: .*; and 590 more"):
        function.run()

    assert sum(policy == GRANTED_POLICY for policy in registry.policies.values()) == 2_400
    assert registry.calls["read"] <= 3_000 + 600
    assert registry.calls["check"] == 0


def test_repositories_deleted_during_a_sweep_do_not_hide_others() -> None:
    class PagesByKey(SimulatedRegistry):
        """A token names the last repository of its page, as the tokens of ECR presumably do."""

        def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
            self._record_call("page")
            listed = sorted(self.policies, key=lambda name: name[::-1])
            following = [name for name in listed if token is None or name[::-1] > token[::-1]]
            page = [Listed(name) for name in following[:1000]]
            return page, following[999] if len(following) > 1000 else None

    registry = PagesByKey(shuffled(3_000))
    function = Lambda(registry, timeout=8)
    function.between = lambda: [
        registry.policies.pop(name)
        for name in [name for name, policy in registry.policies.items() if policy][:20]
    ]

    function.run()

    assert len(function.answers) > 3
    assert set(registry.policies.values()) == {GRANTED_POLICY}


def test_a_listing_past_the_deadline_continues_in_a_new_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(shuffled(2_000))
    list_page = registry.list_repositories

    def throttle_later_pages(token: str | None = None) -> tuple[list[Listed], str | None]:
        if token and registry.calls["page"] < 50:
            registry._record_call("page")  # noqa: SLF001
            raise Throttled("Rate exceeded")
        return list_page(token)

    monkeypatch.setattr(registry, "list_repositories", throttle_later_pages)
    function = Lambda(registry, timeout=27)
    function.seconds_per_delay = 0

    function.run()

    assert len(function.answers) > 1
    assert set(registry.policies.values()) == {GRANTED_POLICY}


def test_pages_without_a_matching_repository_count_toward_the_deadline() -> None:
    registry = SimulatedRegistry([*(f"other/app-{number:05}" for number in range(50_000)), "team/app"])
    function = Lambda(registry, timeout=0.4)

    function.run("team/*")

    assert len(function.answers) > 1
    assert function.longest_invocation < 0.4
    assert registry.policies["team/app"] == GRANTED_POLICY


def test_a_listing_that_fails_midway_raises_an_error_and_the_totals_so_far_are_logged(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    registry = SimulatedRegistry(shuffled(2_000))
    list_page = registry.list_repositories

    def fail_after_the_first_page(token: str | None = None) -> tuple[list[Listed], str | None]:
        if token:
            raise RegistryError("not authorized")
        return list_page(token)

    monkeypatch.setattr(registry, "list_repositories", fail_after_the_first_page)

    with pytest.raises(RegistryError, match="not authorized"):
        Lambda(registry).run()

    assert logged()[-1]["message"] == "report"
    assert logged()[-1]["outcomes"] == {"attached": 1_000}


def test_names_past_the_deadline_continue_in_a_new_invocation() -> None:
    registry = SimulatedRegistry(names := shuffled(3_000))
    function = Lambda(registry, timeout=20)

    function.run(*names[:2_500], "team-5/*")

    expected = {name for name in names if name in set(names[:2_500]) or name.startswith("team-5/")}
    assert {name for name, policy in registry.policies.items() if policy} == expected
    assert len(function.answers) > 2


def test_a_repository_that_is_named_and_matched_is_retried_once_after_a_continuation() -> None:
    registry = SimulatedRegistry([f"app-{number:04}" for number in range(1500)])
    registry.policies["zapp"] = "no JSON"
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed, match="zapp") as caught:
        function.run("zapp", "*")

    assert len(function.answers) > 1
    assert str(caught.value).count("zapp") == 1


def test_a_single_repository_is_reconciled_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(["app", "other"])
    threads: list[threading.Thread] = []
    read = registry.get_policy

    def get_policy(name: str) -> str | None:
        threads.append(threading.current_thread())
        return read(name)

    monkeypatch.setattr(registry, "get_policy", get_policy)
    Lambda(registry).run("app")
    assert threads == [threading.current_thread()]

    Lambda(registry).run("app", "other")
    Lambda(registry).run("app*")
    assert threading.current_thread() not in threads[1:]


def test_a_dry_run_stays_a_dry_run_in_every_invocation() -> None:
    registry = SimulatedRegistry(shuffled(3_000))
    function = Lambda(registry, timeout=15)

    function.run(dry_run=True)

    assert function.total("would_attach") == 3_000
    assert len(function.answers) > 1
    assert not registry.writes


def test_a_timeout_too_short_for_one_repository_raises_an_error_instead_of_continuing_forever() -> None:
    registry = SimulatedRegistry(shuffled(10))
    times = iter([10.0])

    with pytest.raises(OutOfTime, match="raise the function timeout"):
        run(prepare(Request(("a-name",)), registry, lambda: next(times, 0.0)))


class TestAMissingRole:
    def test_costs_one_rejected_write_for_each_thread_and_two_checks(self) -> None:
        registry = SimulatedRegistry(shuffled(2_000))
        registry.missing_role = B
        function = Lambda(registry, WORKER_ROLE_ARNS=f"{A},{B}")

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 2000 of 2000 repositories"):
            function.run()

        assert set(registry.policies.values()) == {GRANTED_POLICY}
        assert registry.calls["check"] == 2
        assert registry.calls["write"] <= 2_000 + MAX_CONCURRENCY
        assert registry.calls["read"] <= 2_000 + MAX_CONCURRENCY

    def test_is_retried_at_the_end_and_counted_beyond_the_names_that_a_continuation_holds(self) -> None:
        registry = SimulatedRegistry(shuffled(3_000))
        registry.missing_role = B
        function = Lambda(registry, timeout=20, WORKER_ROLE_ARNS=f"{A},{B}")

        with pytest.raises(RepositoriesFailed) as caught:
            function.run()

        failed = re.findall(
            r"(?:missing in (\d+) of|(\d+) (?:of \d+ repositories|more) failed)", str(caught.value)
        )
        assert sum(int(number) for numbers in failed for number in numbers if number) == 3_000
        continuation = cast("dict[str, list[str]]", function.payload["continuation"])
        assert len(continuation["failed"]) + len(continuation["failed_again"]) == MAX_FAILED_NAMES
        assert set(registry.policies.values()) == {GRANTED_POLICY}

    def test_that_appears_between_two_invocations_is_granted_everywhere(self) -> None:
        registry = SimulatedRegistry(shuffled(1_500))
        registry.missing_role = B
        function = Lambda(registry, timeout=25, WORKER_ROLE_ARNS=f"{A},{B}")

        def create_role() -> None:
            registry.missing_role = "none"
            function.now, function.timeout = function.now + 60, 100

        function.between = create_role

        function.run()

        both = {(PULL, A), (PULL, B)}
        assert function.answers[0]["missing_roles"][0]["role"] == B
        assert all(grantees_of(parse(text)) == both for text in registry.policies.values())

    def test_is_asked_about_once_in_a_dry_run_of_less_than_a_minute(self) -> None:
        registry = SimulatedRegistry(shuffled(2_000))
        registry.missing_role = B
        function = Lambda(registry, WORKER_ROLE_ARNS=f"{A},{B}")

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 2000 of 2000 repositories"):
            function.run(dry_run=True)

        assert registry.calls["check"] == 2
        assert not registry.calls["write"]
        assert not registry.writes


class TestRepositoriesThatFailedBefore:
    """At the end of a sweep, in invocations that have no time for all of them."""

    NAMES = tuple(f"app-{number:04}" for number in range(MAX_FAILED_NAMES))
    PAYLOAD = Request((), continuation=Continuation(failed=NAMES, of_all=True)).payload("0e")

    @pytest.fixture
    def registry(self) -> SimulatedRegistry:
        registry = SimulatedRegistry(list(self.NAMES))
        registry.broken = set(self.NAMES)
        return registry

    def chain(self, function: Lambda, payload: dict[str, object] | None) -> list[Invocation]:
        invocations: list[Invocation] = []
        while payload:
            function.between()
            invocations.append(function.invoke(payload))
            payload = invocations[-1].continuation
            assert len(invocations) < 20
        return invocations

    def test_are_retried_once_each_in_as_many_invocations_as_it_takes(
        self, registry: SimulatedRegistry
    ) -> None:
        function = Lambda(registry, timeout=4)
        reads_before: list[Counter[str]] = []
        function.between = lambda: reads_before.append(registry.reads.copy())

        invocations = self.chain(function, self.PAYLOAD)

        assert len(invocations) >= 3
        assert function.longest_invocation < function.timeout
        # The last invocation has the names that failed again, for the report, and tries as many as it can.
        assert set(reads_before[-1].values()) == {1}
        assert set(registry.reads) == set(self.NAMES)
        assert max(registry.reads.values()) == 2
        assert [each.error for each in invocations[:-1]] == [None] * (len(invocations) - 1)
        assert re.match(r"^1000 of 1000 repositories failed: ", str(invocations[-1].error))
        results = invocations[-1].results
        assert results.keys() == set(self.NAMES)
        reasons = Counter(result.error.rpartition(", and ")[2] for result in results.values())
        assert reasons.keys() == {"broken", "there was no time to retry it"}

    def test_get_the_grant_in_as_many_invocations_as_it_takes(self, registry: SimulatedRegistry) -> None:
        registry.broken = set()

        invocations = self.chain(Lambda(registry, timeout=4), self.PAYLOAD)

        assert len(invocations) >= 3
        assert [each.error for each in invocations] == [None] * len(invocations)
        assert set(registry.policies.values()) == {GRANTED_POLICY}
        assert set(registry.reads.values()) == {1}

    def test_end_the_sweep_if_none_of_them_progresses(self, registry: SimulatedRegistry) -> None:
        registry.broken, registry.throttled = set(), set(self.NAMES)

        (invocation,) = self.chain(Lambda(registry, timeout=60), self.PAYLOAD)

        assert re.match(r"^1000 of 1000 repositories failed: ", str(invocation.error))

    def test_end_the_sweep_once_the_others_no_longer_progress(self, registry: SimulatedRegistry) -> None:
        registry.broken, registry.throttled = set(self.NAMES[:300]), set(self.NAMES[300:])

        invocations = self.chain(Lambda(registry, timeout=60), self.PAYLOAD)

        assert 1 < len(invocations) < 4
        assert re.match(r"^1000 of 1000 repositories failed: ", str(invocations[-1].error))

    def test_are_kept_by_name_up_to_a_number_in_all_and_counted_beyond(
        self, registry: SimulatedRegistry
    ) -> None:
        new = [f"new-{number:04}" for number in range(1_000)]
        registry.policies = dict.fromkeys((*self.NAMES, *new))
        registry.broken = set(registry.policies)
        request = Request(("*",), continuation=Continuation(failed=self.NAMES[:600], failed_more=7))
        listed_to_the_end = 600 + 400 + 1_000 - 600  # the names that the continuation holds are not listed

        sweep = prepare(request, registry, lambda: 900 if registry.calls["read"] < listed_to_the_end else 0)
        failed = {result.repository for result in sweep.run() if result.outcome is Outcome.FAILED}

        assert sweep.continuation
        continuation = sweep.continuation.continuation
        assert continuation
        assert len(continuation.failed) > 500, "the names that were not retried come first"
        assert len(continuation.failed) + len(continuation.failed_again) == MAX_FAILED_NAMES
        assert set(continuation.failed_again) <= failed
        named = continuation.failed + continuation.failed_again
        assert len(set(named)) == len(named)
        assert len(named) + continuation.failed_more == 2_000 + 7


class TestACompletedSweep:
    def completed(self, capsys: pytest.CaptureFixture[str]) -> int:
        return capsys.readouterr().out.count('"SweepsCompleted":[1')

    def test_is_counted_by_its_last_invocation(self, capsys: pytest.CaptureFixture[str]) -> None:
        function = Lambda(SimulatedRegistry(shuffled(2_000)), timeout=15)

        invocation = function.invoke({"repositories": ["*"], "scheduled": False})
        assert self.completed(capsys) == 0
        while invocation.continuation:
            invocation = function.invoke(invocation.continuation)

        assert self.completed(capsys) == 1
        assert invocation.error is None

    def test_of_some_is_not_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        function = Lambda(SimulatedRegistry(shuffled(2_000)), timeout=15)

        function.run("team-*")

        assert len(function.answers) > 1
        assert self.completed(capsys) == 0

    def test_with_failed_repositories_is_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        registry = SimulatedRegistry(shuffled(2_000))
        registry.broken = {"team-0/app-0"}

        with pytest.raises(RepositoriesFailed):
            Lambda(registry, timeout=15).run()

        assert self.completed(capsys) == 1

    def test_is_not_counted_if_the_listing_failed(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(OutOfTime):
            Lambda(UnavailableRegistry()).run()

        assert self.completed(capsys) == 0


class TestAPageTokenThatRepeats:
    """The listing never ends: it starts again a few times, and then it is an error."""

    REPEATING = (
        {None: "A", "A": "A"},
        {None: "A", "A": "B", "B": "A"},
        {None: "A", "A": "B", "B": "B"},
        {None: "A", "A": "B", "B": "C", "C": "A"},
    )

    class Repeating(SimulatedRegistry):
        def __init__(self, tokens: dict[str | None, str], page_duration: float = 0.0) -> None:
            super().__init__([f"{token}/app".lower() for token in tokens])
            self.tokens = tokens
            self.page_duration = page_duration

        def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
            self._record_call("page")
            self.time += self.page_duration
            return [Listed(f"{token}/app".lower())], self.tokens[token]

    @pytest.mark.parametrize("tokens", REPEATING)
    def test_in_one_invocation(self, tokens: dict[str | None, str]) -> None:
        registry = self.Repeating(tokens)
        function = Lambda(registry)

        with pytest.raises(RegistryError, match="listing of repositories repeats and does not end"):
            function.run()

        assert len(function.answers) == 1
        assert registry.calls["page"] <= 4 * (len(tokens) + 1)
        assert registry.policies["none/app"] == GRANTED_POLICY

    @pytest.mark.parametrize("tokens", REPEATING)
    def test_across_invocations(self, tokens: dict[str | None, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("handler.reconcile.listing._MAX_PAGES", 10)
        registry = self.Repeating(tokens, page_duration=80)
        function = Lambda(registry, timeout=100)

        with pytest.raises(RegistryError, match="listing of repositories repeats and does not end"):
            function.run()

        assert 4 <= len(function.answers) <= registry.calls["page"] <= 4 * (10 + 2)
        assert registry.policies["none/app"] == GRANTED_POLICY

    def test_is_not_one_that_a_new_listing_returns_again(self) -> None:
        """The first token is the same each time. ECR refused a later one once."""
        registry = self.Repeating({None: "A", "A": "B", "B": ""})
        list_page = registry.list_repositories
        refusals = iter([True])

        def refuse_once(token: str | None = None) -> tuple[list[Listed], str | None]:
            if token == "B" and next(refusals, False):  # noqa: S105 - of a page
                raise RegistryError("Invalid parameter at 'nextToken'")
            page, following = list_page(token)
            return page, following or None

        registry.list_repositories = refuse_once  # type: ignore[method-assign]
        request = Request(("*",), continuation=Continuation("B", pages=2))

        sweep = prepare(request, registry)
        results = run(sweep)

        assert len(results) == 3
        assert sweep.continuation is None


class TestARepositoryThatIsThrottledUntilTheDeadline:
    @pytest.fixture
    def registry(self) -> SimulatedRegistry:
        registry = SimulatedRegistry([*(f"app-{number:04}" for number in range(1_500)), "slow"])
        registry.throttled = {"slow"}
        return registry

    def test_is_reconciled_by_a_later_invocation_and_is_no_failure(self, registry: SimulatedRegistry) -> None:
        function = Lambda(registry, timeout=25)
        function.seconds_per_delay = 0
        function.between = registry.throttled.clear

        function.run("slow", "*")

        assert function.answers[0]["continued"] is True
        assert set(registry.policies.values()) == {GRANTED_POLICY}
        assert registry.writes["slow"] == 1

    def test_is_a_failure_of_the_last_invocation(self, registry: SimulatedRegistry) -> None:
        with pytest.raises(RepositoriesFailed, match=r"slow: no attempt succeeded in time: Rate exceeded$"):
            Lambda(registry, timeout=25).run("slow", "app-0000")


def test_the_payload_of_a_continuation_is_within_lambdas_limit() -> None:
    longest = 256
    names = tuple(f"{number:04}".ljust(longest, "x") for number in range(2_000))
    registry = SimulatedRegistry(list(names))
    registry.broken = set(names[:MAX_FAILED_NAMES])
    function = Lambda(registry, timeout=16)
    sizes: list[int] = []
    function.between = lambda: sizes.append(len(str(function.payload)))

    with pytest.raises(RepositoriesFailed, match=f"{MAX_FAILED_NAMES} of"):
        function.run()

    assert max(sizes) < 1_000_000


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
    patterns: tuple[str, ...],
) -> None:
    longest = 256
    request = parse_event({"repositories": list(patterns)}, FUNCTION)
    assert isinstance(request, Request)
    failed, page, following = (
        tuple(f"{number:04}{kind}".ljust(longest, "x") for number in range(1_000)) for kind in "fpn"
    )
    registry = SimulatedRegistry([*page, *following])
    registry.broken = set(page)
    half = Continuation("t" * 2_000, request.repositories, failed[:500], failed[500:])
    # Each glob matches a page of names, none of which there is time for.
    times = iter([900.0, 900.0, 900.0])
    sweep = prepare(replace(request, continuation=half), registry, lambda: next(times, 0.0))
    listing = sweep._listing  # noqa: SLF001 - to list a page that each pattern matches, in no time
    listing.next_page = lambda: [Listed(name) for name in page]  # type: ignore[method-assign]

    run(sweep)

    assert sweep.continuation
    payload = sweep.continuation.payload("11111111-1111-4111-8111-111111111111")
    assert len(cast("list[str]", payload["repositories"])) >= len(set(patterns)) + 1_000 - MAX_CONCURRENCY
    assert len(json.dumps(payload)) < 1_000_000
    next_request = replace(sweep.continuation, with_registry_policy=False)
    assert parse_event(json.loads(json.dumps(payload)), FUNCTION) == next_request


def test_a_dry_run_needs_no_role_check() -> None:
    registry = SimulatedRegistry(["app"])
    sweep = Sweep(Request(("app",), dry_run=True), SETTINGS, cast("Registry", registry), None, lambda: 900)

    (result,) = run(sweep)

    assert result.outcome is Outcome.WOULD_ATTACH
    assert registry.calls == {"read": 1}


def test_a_throttled_call_is_not_retried_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(["app"])
    reads = 0

    def throttle(_: str) -> None:
        nonlocal reads
        reads += 1
        raise Unavailable("throttled")

    monkeypatch.setattr(registry, "get_policy", throttle)
    times = iter([900.0, 900.0])

    (result,) = run(prepare(Request(("app",)), registry, lambda: next(times, 1.0)))

    assert result.outcome is Outcome.FAILED
    assert "throttled" in result.reason
    assert reads == 1


class TestARegistryThatStopsAnswering:
    """Each call takes the rest of the time, and fails."""

    @pytest.fixture
    def registry(self) -> UnavailableRegistry:
        return UnavailableRegistry()

    def sweep(self, registry: SimulatedRegistry, *names: str, retry: tuple[str, ...] = ()) -> Sweep:
        request = Request(names, continuation=Continuation(failed=retry))
        return prepare(request, registry, lambda: LAMBDA_TIMEOUT - registry.time)

    def test_fails_every_repository_that_was_tried(self, registry: UnavailableRegistry) -> None:
        names = [f"app-{number}" for number in range(MAX_CONCURRENCY)]
        registry.concurrent_reads = threading.Barrier(MAX_CONCURRENCY)

        results = run(self.sweep(registry, *names))

        assert sorted(result.repository for result in results) == sorted(names)
        assert {result.outcome for result in results} == {Outcome.FAILED}
        assert all("ECR did not answer" in result.reason for result in results)

    def test_is_named_as_the_cause_if_nothing_was_reconciled(self, registry: UnavailableRegistry) -> None:
        names = [f"app-{number}" for number in range(MAX_CONCURRENCY + 1)]

        with pytest.raises(OutOfTime, match=r"no attempt succeeded in time: ECR did not answer$"):
            run(self.sweep(registry, *names))

    def test_is_named_as_the_cause_if_nothing_was_listed(self, registry: UnavailableRegistry) -> None:
        with pytest.raises(OutOfTime, match=r": ECR did not list$"):
            run(self.sweep(registry, "*"))

    def test_prevents_the_retry_of_repositories_that_failed_before(
        self, registry: UnavailableRegistry
    ) -> None:
        registry.time = LAMBDA_TIMEOUT

        results = run(self.sweep(registry, retry=("a", "b")))

        error = (
            "it failed in an earlier invocation, whose log has the reason, and there was no time to retry it"
        )
        assert results == [Result(name, Outcome.FAILED, error=error) for name in ("a", "b")]


class TestPatterns:
    def test_of_the_pull_through_cache_that_match_nothing_in_scope_are_reported_by_a_sweep(self) -> None:
        registry = SimulatedRegistry(["docker-hub/library/alpine", "scratch/cached"])
        function = Lambda(
            registry,
            REPOSITORIES="*,!scratch/*",
            PULL_THROUGH_CACHE_REPOSITORIES="docker-hub/*,scratch/*",
        )

        function.run()

        assert function.answers[-1]["unmatched"] == ["scratch/*"]
        assert "AllowPullThroughCache" in str(registry.policies["docker-hub/library/alpine"])
        function.run("docker-hub/*")
        assert "unmatched" not in function.answers[-1]

    def test_that_match_nothing_in_scope_are_reported(self) -> None:
        function = Lambda(SimulatedRegistry(["ml/train", "scratch/x1"]), REPOSITORIES="*,!scratch/*")

        function.run("ml/*", "nothing/*", "scratch/*")

        assert function.answers[-1]["unmatched"] == ["nothing/*", "scratch/*"]
        assert function.total("attached") == 1

    def test_that_match_everything_select_only_repositories_in_scope(self) -> None:
        registry = SimulatedRegistry(["ml/train", "scratch/x1"])
        function = Lambda(registry, REPOSITORIES="*,!scratch/*")

        function.run()

        assert registry.policies == {"ml/train": GRANTED_POLICY, "scratch/x1": None}
        assert "unmatched" not in function.answers[-1]

    def test_that_name_a_repository_out_of_scope_are_reported(self) -> None:
        function = Lambda(SimulatedRegistry(["scratch/x1"]), REPOSITORIES="*,!scratch/*")

        function.run("scratch/x1")

        assert function.answers[-1]["repositories"] == [
            {"repository": "scratch/x1", "outcome": "out_of_scope"}
        ]

    def test_are_tracked_across_invocations(self) -> None:
        registry = SimulatedRegistry(["ml/train", *(f"team/app-{number}" for number in range(2_000))])
        function = Lambda(registry, timeout=15)

        function.run("ml/*", "team/*", "nothing/*")

        assert len(function.answers) > 1
        assert [answer.get("unmatched") for answer in function.answers[:-1]] == [None] * (
            len(function.answers) - 1
        )
        assert function.answers[-1]["unmatched"] == ["nothing/*"]


def test_two_functions_that_reconcile_the_same_repository_concurrently_converge() -> None:
    ours, theirs = (Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": role}) for role in (A, B))
    both_have_read = threading.Barrier(2, timeout=5)

    class Shared(SimulatedRegistry):
        def get_policy(self, name: str) -> str | None:
            text = super().get_policy(name)
            if self.calls["read"] <= 2:
                both_have_read.wait()
            return text

    registry = Shared(["team/app"])

    def reconcile(settings: Settings) -> None:
        run(prepare(Request(("team/app",)), registry, settings=settings))

    with ThreadPoolExecutor() as threads:
        list(threads.map(reconcile, (ours, theirs)))
    granted_after_the_race = grantees_of(parse(registry.policies["team/app"]))
    for settings in (ours, theirs):  # each receives the event of the other's write
        reconcile(settings)
    writes = registry.calls["write"]
    for settings in (ours, theirs, ours):
        reconcile(settings)

    assert len(granted_after_the_race) == 1
    assert grantees_of(parse(registry.policies["team/app"])) == {(PULL, A), (PULL, B)}
    assert writes == 3
    assert registry.calls["write"] == 3


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
