"""Sweeps of many repositories, on a simulated ECR and a simulated clock."""

import json
import logging
import random
import re
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from handler.ecr.registry import MAX_CONCURRENCY, RegistryError, RepositoryNotFound, Throttled, Unavailable
from handler.events.request import Checkpoint, Request
from handler.events.triggers import FunctionIdentity, parse
from handler.policy.document import parse as parse_policy
from handler.policy.document import render
from handler.reconcile.result import Outcome, Result
from handler.reconcile.sweep import OutOfTime, Sweep, _run_concurrently
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.pull_grant import attach_pull, pull_roles

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
SETTINGS = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ROLE})
GRANTED_POLICY = render(attach_pull(None, [ROLE]))
FUNCTION = FunctionIdentity("111122223333", "us-east-1", caller_arn="ourselves")
LAMBDA_TIMEOUT = 900.0  # seconds, the maximum that Lambda allows
CALL_DURATION = 0.01  # seconds that a call adds to the invocation, with many calls in flight


class SimulatedRegistry:
    """A registry that lists pages in its own order, and whose calls take simulated time."""

    def __init__(self, names: list[str]) -> None:
        self.policies: dict[str, str | None] = dict.fromkeys(names)
        self.calls: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.time = 0.0
        self._lock = threading.Lock()

    def list_repositories(self, token: str | None = None) -> tuple[list[str], str | None]:
        self._record_call("page")
        start = int(token or 0)
        names = list(self.policies)[start : start + 1000]
        return names, str(start + 1000) if start + 1000 < len(self.policies) else None

    def get_policy(self, name: str) -> str | None:
        self._record_call("read")
        if name in self.broken:
            raise RegistryError("broken")
        if name not in self.policies:
            raise RepositoryNotFound(name)
        return self.policies[name]

    def set_policy(self, name: str, text: str) -> None:
        self._record_call("write")
        self.writes[name] += 1
        self.policies[name] = text

    def _record_call(self, call: str) -> None:
        with self._lock:
            self.calls[call] += 1
            self.time += CALL_DURATION


class UnavailableRegistry(SimulatedRegistry):
    """A registry whose calls take the rest of the time, and fail."""

    def __init__(self) -> None:
        super().__init__([])
        self.concurrent_reads = threading.Barrier(1)

    def list_repositories(self, _: str | None = None) -> tuple[list[str], str | None]:
        self.time = LAMBDA_TIMEOUT
        raise Unavailable("ECR did not list")

    def get_policy(self, _: str) -> str | None:
        self.concurrent_reads.wait(timeout=10)
        self.time = LAMBDA_TIMEOUT
        raise Unavailable("ECR did not answer")


class Lambda:
    """Lambda: invokes the function once for each continuation, or twice for a random few."""

    def __init__(
        self,
        registry: SimulatedRegistry,
        timeout: float = LAMBDA_TIMEOUT,
        duplicates: random.Random | None = None,
        **settings: str,
    ) -> None:
        self.registry = registry
        self.timeout = timeout
        self.duplicates = duplicates
        self.settings = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ROLE} | settings)
        self.between_invocations: Callable[[], object] = lambda: None
        self.invocations = 0
        self.longest_invocation = 0.0
        self.answers: list[dict[str, object]] = []

    def run(self, payload: dict[str, object]) -> None:
        payloads = [payload]
        while payloads:
            self.invocations += 1
            started = self.registry.time
            request = parse(json.loads(json.dumps(payloads.pop(0))), FUNCTION)
            sweep = Sweep(
                request,
                self.settings,
                self.registry,  # type: ignore[arg-type]
                lambda started=started: self.timeout - (self.registry.time - started),  # type: ignore[misc]
            )
            report = Report(request, dry_run=sweep.dry_run)
            try:
                for result in sweep.run():
                    report.add(result)
            finally:
                report.publish()
            self.longest_invocation = max(self.longest_invocation, self.registry.time - started)
            if sweep.remaining:
                payloads += [sweep.remaining.payload("0e")] * (
                    2 if self.duplicates and self.duplicates.random() < 0.2 else 1
                )
            self.between_invocations()
            report.unmatched, report.continued = sweep.unmatched, sweep.remaining is not None
            self.answers.append(report.response())
            report.raise_for_failures()

    def total(self, outcome: str) -> int:
        return sum(dict(answer["outcomes"]).get(outcome, 0) for answer in self.answers)  # type: ignore[call-overload]


def run(sweep: Sweep) -> list[Result]:
    return list(sweep.run())


def shuffled(count: int) -> list[str]:
    names = [f"team-{number % 97}/app-{number}" for number in range(count)]
    random.Random(7).shuffle(names)
    return names


def test_ten_pages_of_repositories_are_reconciled_in_several_invocations() -> None:
    registry = SimulatedRegistry(shuffled(10_000))
    function = Lambda(registry, timeout=LAMBDA_TIMEOUT * 0.1)

    function.run({"repositories": ["*"]})

    assert set(registry.policies.values()) == {GRANTED_POLICY}
    assert set(registry.writes.values()) == {1}
    assert function.total("attached") == 10_000
    assert function.total("unchanged") == 0
    assert function.invocations == 3
    assert function.longest_invocation < function.timeout
    assert [answer.get("handed_over", False) for answer in function.answers] == [True, True, False]


def test_a_continuation_delivered_twice_writes_each_policy_once() -> None:
    registry = SimulatedRegistry(shuffled(3_000))
    function = Lambda(registry, timeout=5, duplicates=random.Random(3))

    function.run({"repositories": ["*"]})

    assert set(registry.policies.values()) == {GRANTED_POLICY}
    assert set(registry.writes.values()) == {1}
    assert function.total("unchanged") > 0


def test_an_invocation_ends_before_its_timeout() -> None:
    registry = SimulatedRegistry(shuffled(5_000))

    sweep = Sweep(Request(("*",)), SETTINGS, registry, lambda: 30 - registry.time)  # type: ignore[arg-type]
    run(sweep)

    assert sweep.remaining is not None
    assert registry.time < 30 - 0.25 * 30 + MAX_CONCURRENCY * 2 * CALL_DURATION


def test_memory_does_not_grow_with_the_number_of_repositories() -> None:
    peaks = []
    for count in (1_000, 4_000):
        registry = SimulatedRegistry(shuffled(count))
        registry.policies = dict.fromkeys(registry.policies, GRANTED_POLICY)
        tracemalloc.start()
        Lambda(registry).run({"repositories": ["*"]})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.5 * peaks[0] + 4_000 * 8  # the list of names that the simulation holds


def test_failed_repositories_do_not_stop_the_sweep_and_the_last_invocation_reports_them() -> None:
    registry = SimulatedRegistry(shuffled(5_000))
    registry.broken = {"team-0/app-0", "team-1/app-1"}
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed) as caught:
        function.run({"repositories": ["*"]})

    failed = re.findall(r"(\d+) (?:of \d+ repositories )?failed", str(caught.value))
    assert sum(map(int, failed)) == 2
    assert function.invocations > 3
    assert registry.calls["write"] == 4_998
    assert sum(policy == GRANTED_POLICY for policy in registry.policies.values()) == 4_998


def test_a_sweep_with_many_failures_ends_and_retries_each_failed_repository_once() -> None:
    registry = SimulatedRegistry(names := shuffled(3_000))
    registry.broken = set(names[:600])
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed, match=r"^600 of \d+ repositories failed: .*; and 590 more"):
        function.run({"repositories": ["*"]})

    assert sum(policy == GRANTED_POLICY for policy in registry.policies.values()) == 2_400
    assert registry.calls["read"] <= 3_000 + 600


def test_repositories_deleted_during_a_sweep_do_not_hide_others() -> None:
    class PagesByKey(SimulatedRegistry):
        """A token names the last repository of its page, as the tokens of ECR presumably do."""

        def list_repositories(self, token: str | None = None) -> tuple[list[str], str | None]:
            self._record_call("page")
            listed = sorted(self.policies, key=lambda name: name[::-1])
            following = [name for name in listed if token is None or name[::-1] > token[::-1]]
            return following[:1000], following[999] if len(following) > 1000 else None

    registry = PagesByKey(shuffled(3_000))
    function = Lambda(registry, timeout=8)
    function.between_invocations = lambda: [
        registry.policies.pop(name)
        for name in [name for name, policy in registry.policies.items() if policy][:20]
    ]

    function.run({"repositories": ["*"]})

    assert function.invocations > 3
    assert set(registry.policies.values()) == {GRANTED_POLICY}


def test_a_listing_past_the_deadline_continues_in_a_new_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(shuffled(2_000))
    list_page = registry.list_repositories
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def throttle_later_pages(token: str | None = None) -> tuple[list[str], str | None]:
        if token and registry.calls["page"] < 50:
            registry._record_call("page")  # noqa: SLF001
            raise Throttled("Rate exceeded")
        return list_page(token)

    monkeypatch.setattr(registry, "list_repositories", throttle_later_pages)
    function = Lambda(registry, timeout=27)

    function.run({"repositories": ["*"]})

    assert function.invocations > 1
    assert set(registry.policies.values()) == {GRANTED_POLICY}


def test_pages_without_a_matching_repository_count_toward_the_deadline() -> None:
    registry = SimulatedRegistry([*(f"other/app-{number:05}" for number in range(50_000)), "team/app"])
    function = Lambda(registry, timeout=0.4)

    function.run({"repositories": ["team/*"]})

    assert function.invocations > 1
    assert function.longest_invocation < 0.4
    assert registry.policies["team/app"] == GRANTED_POLICY


def test_a_listing_that_fails_midway_raises_an_error_and_the_totals_so_far_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = SimulatedRegistry(shuffled(2_000))
    list_page = registry.list_repositories

    def fail_after_the_first_page(token: str | None = None) -> tuple[list[str], str | None]:
        if token:
            raise RegistryError("not authorized")
        return list_page(token)

    monkeypatch.setattr(registry, "list_repositories", fail_after_the_first_page)
    monkeypatch.setattr(logging.getLogger("ecr-allow-pull"), "propagate", True)

    with pytest.raises(RegistryError, match="not authorized"):
        Lambda(registry).run({"repositories": ["*"]})

    assert vars(caplog.records[-1])["outcomes"] == {"attached": 1_000}


def test_names_past_the_deadline_continue_in_a_new_invocation() -> None:
    registry = SimulatedRegistry(names := shuffled(3_000))
    function = Lambda(registry, timeout=20)

    function.run({"repositories": [*names[:2_500], "team-5/*"]})

    expected = {name for name in names if name in set(names[:2_500]) or name.startswith("team-5/")}
    assert {name for name, policy in registry.policies.items() if policy} == expected
    assert function.invocations > 2


def test_a_repository_that_is_named_and_matched_is_retried_once_after_a_continuation() -> None:
    registry = SimulatedRegistry([f"app-{number:04}" for number in range(1500)])
    registry.policies["zapp"] = "no JSON"
    function = Lambda(registry, timeout=20)

    with pytest.raises(RepositoriesFailed, match="zapp") as caught:
        function.run({"repositories": ["zapp", "*"]})

    assert function.invocations > 1
    assert str(caught.value).count("zapp") == 1


def test_a_single_repository_is_reconciled_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(["app", "other"])
    threads: list[threading.Thread] = []
    read = registry.get_policy

    def get_policy(name: str) -> str | None:
        threads.append(threading.current_thread())
        return read(name)

    monkeypatch.setattr(registry, "get_policy", get_policy)
    Lambda(registry).run({"repositories": ["app"]})
    assert threads == [threading.current_thread()]

    Lambda(registry).run({"repositories": ["app", "other"]})
    Lambda(registry).run({"repositories": ["app*"]})
    assert threading.current_thread() not in threads[1:]


def test_a_dry_run_stays_a_dry_run_in_every_invocation() -> None:
    registry = SimulatedRegistry(shuffled(3_000))
    function = Lambda(registry, timeout=15)

    function.run({"repositories": ["*"], "dry_run": True})

    assert function.total("would_attach") == 3_000
    assert function.invocations > 1
    assert not registry.writes


def test_a_timeout_too_short_for_one_repository_raises_an_error_instead_of_continuing_forever() -> None:
    registry = SimulatedRegistry(shuffled(10))
    times = iter([10.0])

    with pytest.raises(OutOfTime, match="raise the function timeout"):
        run(Sweep(Request(("a-name",)), SETTINGS, registry, lambda: next(times, 0.0)))  # type: ignore[arg-type]


def test_a_throttled_call_is_not_retried_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SimulatedRegistry(["app"])
    reads = 0

    def throttle(_: str) -> None:
        nonlocal reads
        reads += 1
        raise Unavailable("throttled")

    monkeypatch.setattr(registry, "get_policy", throttle)
    times = iter([900.0, 900.0])

    (result,) = run(Sweep(Request(("app",)), SETTINGS, registry, lambda: next(times, 1.0)))  # type: ignore[arg-type]

    assert result.outcome is Outcome.FAILED
    assert "throttled" in result.reason
    assert reads == 1


class TestARegistryThatStopsAnswering:
    """Each call takes the rest of the time, and fails."""

    @pytest.fixture
    def registry(self) -> UnavailableRegistry:
        return UnavailableRegistry()

    def sweep(self, registry: SimulatedRegistry, *names: str, retry: tuple[str, ...] = ()) -> Sweep:
        request = Request(names, checkpoint=Checkpoint(failed=retry))
        return Sweep(request, SETTINGS, registry, lambda: LAMBDA_TIMEOUT - registry.time)  # type: ignore[arg-type]

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

        reason = "it failed before, and there was no time to retry it"
        assert results == [Result(name, Outcome.FAILED, reason=reason) for name in ("a", "b")]


class TestPatterns:
    def test_of_the_pull_through_cache_that_match_nothing_in_scope_are_reported_by_a_sweep(self) -> None:
        registry = SimulatedRegistry(["docker-hub/library/alpine", "scratch/cached"])
        function = Lambda(
            registry,
            REPOSITORIES="*,!scratch/*",
            PULL_THROUGH_CACHE_REPOSITORIES="docker-hub/*,scratch/*",
        )

        function.run({"repositories": ["*"]})

        assert function.answers[-1]["unmatched"] == ["scratch/*"]
        assert "AllowPullThroughCache" in str(registry.policies["docker-hub/library/alpine"])
        function.run({"repositories": ["docker-hub/*"]})
        assert "unmatched" not in function.answers[-1]

    def test_that_match_nothing_in_scope_are_reported(self) -> None:
        function = Lambda(SimulatedRegistry(["ml/train", "scratch/x1"]), REPOSITORIES="*,!scratch/*")

        function.run({"repositories": ["ml/*", "nothing/*", "scratch/*"]})

        assert function.answers[-1]["unmatched"] == ["nothing/*", "scratch/*"]
        assert function.total("attached") == 1

    def test_that_match_everything_select_only_repositories_in_scope(self) -> None:
        registry = SimulatedRegistry(["ml/train", "scratch/x1"])
        function = Lambda(registry, REPOSITORIES="*,!scratch/*")

        function.run({"repositories": ["*"]})

        assert registry.policies == {"ml/train": GRANTED_POLICY, "scratch/x1": None}
        assert "unmatched" not in function.answers[-1]

    def test_that_name_a_repository_out_of_scope_are_reported(self) -> None:
        function = Lambda(SimulatedRegistry(["scratch/x1"]), REPOSITORIES="*,!scratch/*")

        function.run({"repositories": ["scratch/x1"]})

        assert function.answers[-1]["repositories"] == [
            {"repository": "scratch/x1", "outcome": "out_of_scope"}
        ]

    def test_are_tracked_across_invocations(self) -> None:
        registry = SimulatedRegistry(["ml/train", *(f"team/app-{number}" for number in range(2_000))])
        function = Lambda(registry, timeout=15)

        function.run({"repositories": ["ml/*", "team/*", "nothing/*"]})

        assert function.invocations > 1
        assert [answer.get("unmatched") for answer in function.answers[:-1]] == [None] * (
            function.invocations - 1
        )
        assert function.answers[-1]["unmatched"] == ["nothing/*"]


def test_two_functions_that_reconcile_the_same_repository_concurrently_converge() -> None:
    other = "arn:aws:iam::333333333333:role/unionai-other-flyteworker-node-group"
    ours, theirs = (
        Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": role}) for role in (ROLE, other)
    )
    both_have_read = threading.Barrier(2, timeout=5)

    class Shared(SimulatedRegistry):
        def get_policy(self, name: str) -> str | None:
            text = super().get_policy(name)
            if self.calls["read"] <= 2:
                both_have_read.wait()
            return text

    registry = Shared(["team/app"])

    def reconcile(settings: Settings) -> None:
        run(Sweep(Request(("team/app",)), settings, registry, lambda: 900.0))  # type: ignore[arg-type]

    with ThreadPoolExecutor() as threads:
        list(threads.map(reconcile, (ours, theirs)))
    granted_after_the_race = pull_roles(parse_policy(registry.policies["team/app"]))
    for settings in (ours, theirs):  # each receives the event of the other's write
        reconcile(settings)
    writes = registry.calls["write"]
    for settings in (ours, theirs, ours):
        reconcile(settings)

    assert len(granted_after_the_race) == 1
    assert pull_roles(parse_policy(registry.policies["team/app"])) == {ROLE, other}
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
