"""What threads share: each interleaving of two operations has the effect of one after the other."""

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

import pytest

from devstack.fake_ecr import READ, FakeEcr
from handler.ecr import rate_limiter
from handler.ecr.errors import PolicyRejected
from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.ecr.retry import Deadline
from handler.reconcile import role_check
from handler.reconcile.role_check import RoleCheck
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.function import Function
from tests.unit.interleaving import preempted, virtual_locks
from tests.unit.policies import A, B, C
from tests.unit.virtual_time import VirtualTime


class Limiter:
    """A rate limiter, the permits of a read and of a write, and what it does with them."""

    def __init__(self, before: Sequence[str]) -> None:
        self.time = VirtualTime()
        self.concurrent = False
        self.sleeps = 0
        with virtual_locks(rate_limiter, self.time):
            self.limiter = RateLimiter(self.time.clock, self.sleep)
        self.permits: list[Permit] = []
        self.read = self.write = Permit(0.0, 0.0)
        self.run(before)
        self.acquire()
        self.acquire_for_write()

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        assert self.sleeps < 1000, "a call waits forever"
        if self.concurrent:
            self.time.sleep(seconds)
        else:
            self.time.now += seconds

    def acquire(self) -> None:
        self.permits.append(self.limiter.acquire())
        self.read = self.permits[-1]

    def acquire_for_write(self) -> None:
        self.permits.append(self.limiter.acquire_for_write())
        self.write = self.permits[-1]

    def serve_read(self) -> None:
        self.limiter.on_success(self.read)

    def serve_write(self) -> None:
        self.limiter.on_success(self.write)

    def throttle_read(self) -> None:
        self.limiter.on_throttle(self.read)

    def throttle_write(self) -> None:
        self.limiter.on_throttle(self.write)

    def run(self, operations: Sequence[str]) -> None:
        for operation in operations:
            getattr(self, operation)()
            self.time.now += 0.01

    def preempt(self, first: str, second: str, at: int) -> bool:
        self.concurrent = True
        found = preempted(self.time, RateLimiter, getattr(self, first), getattr(self, second), at)
        self.concurrent = False
        return found

    def run_concurrently(self, *operations: str) -> None:
        self.concurrent = True
        self.time.run([getattr(self, operation) for operation in operations], until=inf)
        self.concurrent = False

    def observed(self) -> list[Permit]:
        """Return the permits of further calls: they depend on everything that the limiter keeps."""
        before = len(self.permits)
        self.run(AFTER)
        return self.permits[before:]


SERVED_READ = ["acquire", "serve_read"]
THROTTLED_READ = ["acquire", "throttle_read"]
SERVED_WRITE = ["acquire_for_write", "serve_write"]
BEFORE = {
    "without a limit": SERVED_READ * 9,
    "in slow start": [*SERVED_READ * 9, *THROTTLED_READ, *SERVED_READ],
    "near the limit": [
        *SERVED_READ * 9,
        *THROTTLED_READ,
        *SERVED_READ * 3,
        *THROTTLED_READ,
        *[*SERVED_READ, *SERVED_WRITE] * 2,
    ],
}
AFTER = [
    *[*SERVED_READ, *SERVED_WRITE] * 2,
    *THROTTLED_READ,
    *SERVED_READ * 2,
    *THROTTLED_READ,
    "acquire_for_write",
    "throttle_write",
    *SERVED_READ * 24,
]
OPERATIONS = ["acquire", "acquire_for_write", "serve_read", "serve_write", "throttle_read", "throttle_write"]
WITH_PACED_WRITES = [
    *SERVED_READ * 9,
    *THROTTLED_READ,
    *[*SERVED_READ, "acquire_for_write", "throttle_write"] * 4,
]


def one_after_the_other(before: str, *operations: str) -> list[Permit]:
    limiter = Limiter(BEFORE[before])
    for operation in operations:
        getattr(limiter, operation)()
    return limiter.observed()


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("first", OPERATIONS)
def test_two_calls_of_the_rate_limiter_that_interleave_have_the_effect_of_one_after_the_other(
    before: str, first: str, second: str
) -> None:
    expected = one_after_the_other(before, first, second), one_after_the_other(before, second, first)

    interleavings = 0
    for at in itertools.count():
        limiter = Limiter(BEFORE[before])
        if not limiter.preempt(first, second, at):
            break
        interleavings += 1
        assert limiter.observed() in expected

    assert interleavings


@pytest.mark.parametrize("second", ["acquire", "acquire_for_write"])
def test_writes_that_wait_at_the_same_time_are_counted_so_that_later_reads_let_later_writes_pass(
    second: str,
) -> None:
    waits = 0
    for at in itertools.count():
        limiter = Limiter(WITH_PACED_WRITES)
        if not limiter.preempt("acquire_for_write", second, at):
            break
        waits += any(permit.waited for permit in limiter.permits[-2:])

        limiter.acquire()
        limiter.time.now += 1
        # The first write takes the free slot. The read and the second write wait for the same next slot.
        limiter.run_concurrently("acquire_for_write", "acquire", "acquire_for_write")

        assert limiter.write.waited
        assert limiter.write.time < limiter.read.time

    assert waits


def test_of_many_waiting_threads_one_wakes_for_each_slot_in_the_order_of_their_calls() -> None:
    limiter = Limiter(BEFORE["near the limit"])
    order: list[int] = []
    slots = 24

    def call(number: int) -> None:
        limiter.acquire()
        order.append(number)

    limiter.sleeps, limiter.concurrent = 0, True
    limiter.time.run([partial(call, number) for number in range(slots)], until=inf)

    assert order == list(range(slots))
    assert limiter.sleeps == slots


class SlowRegistry(Registry):
    """A registry that accepts no policy with the role B or C, a second after the call."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.checks: list[str] = []

    def check_policy(self, name: str, text: str) -> None:
        self.checks.append(text)
        self.time.sleep(1)
        if B in text or C in text:
            raise PolicyRejected(name)


class TestTheRoleCheck:
    ROLES = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": f"{A},{B},{C}"})
    DEADLINE = Deadline(lambda: 900, 0)

    @pytest.fixture
    def time(self) -> VirtualTime:
        return VirtualTime()

    @pytest.fixture
    def registry(self, time: VirtualTime) -> SlowRegistry:
        return SlowRegistry(time)

    @pytest.fixture
    def check(self, time: VirtualTime, registry: SlowRegistry) -> RoleCheck:
        with virtual_locks(role_check, time):
            return RoleCheck(registry, self.ROLES, "111122223333", time.clock)

    def test_asks_once_about_a_role_for_all_threads_that_need_the_answer(
        self, time: VirtualTime, registry: SlowRegistry, check: RoleCheck
    ) -> None:
        answers: list[frozenset[str]] = []

        def thread() -> None:
            answers.append(check.missing([A, B], self.DEADLINE))

        time.run([thread] * MAX_CONCURRENCY, until=inf)

        assert answers == [frozenset({B})] * MAX_CONCURRENCY
        assert len(registry.checks) == len({A, B})

    def test_knows_every_role_that_threads_find_missing_at_the_same_time(
        self, time: VirtualTime, check: RoleCheck
    ) -> None:
        assert preempted(
            time,
            RoleCheck,
            lambda: check.missing([B, A], self.DEADLINE),
            lambda: check.missing([C, A], self.DEADLINE),
            0,
        )

        assert check.known_missing() == {B, C}


def test_the_log_lines_of_all_threads_of_a_sweep_have_its_correlation_id(
    ecr: FakeEcr, function: Function, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    names = {f"app-{number:02}" for number in range(MAX_CONCURRENCY)}
    ecr.create_repository(*names)

    def fail_in_another_thread() -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise ZeroDivisionError

    ecr.run_before(READ, *[fail_in_another_thread] * len(names))

    function.invoke({"repositories": ["*"]})

    lines = [line for line in logged() if line["message"] == "internal error"]
    assert {line["repository"] for line in lines} == names
    assert {(line["error"], line["correlation_id"]) for line in lines} == {
        ("ZeroDivisionError", "11111111-1111-4111-8111-111111111111")
    }
