"""The rate limiter against token buckets such as AWS throttles with, in virtual time."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf

import pytest

from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.registry import MAX_CONCURRENCY
from handler.ecr.retry import backoff_delays
from tests.unit.virtual_time import VirtualLock, VirtualTime

LATENCY = 0.03  # seconds of a call
JITTER = 0.001


@pytest.fixture(autouse=True)
def _same_backoff_in_every_run() -> None:
    random.seed(5)


class TokenBucket:
    """A rate limit: `rate` calls a second, with bursts of up to `burst` calls."""

    def __init__(self, time: VirtualTime, rate: float, burst: float) -> None:
        self.time, self.rate, self.burst = time, rate, burst
        self.tokens, self.filled_at = burst, time.now

    def take(self) -> bool:
        self.tokens = min(self.burst, self.tokens + (self.time.now - self.filled_at) * self.rate)
        self.filled_at = self.time.now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def set_rate(self, rate: float) -> None:
        self.take()
        self.rate = rate


@dataclass
class Sweeps:
    """One sweep or several, each with its own limiter and threads, on the same rate limits."""

    time: VirtualTime
    reads: TokenBucket
    writes: TokenBucket
    calls: int = 0
    throttled: int = 0
    done: int = 0
    longest_wait: float = 0.0  # of a write after its read, in slots
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    def run(
        self, repositories: int, *, write: bool, invocations: int = 1, start_interval: float = 0.0
    ) -> float:
        """Reconcile so many repositories; return the seconds that it takes."""
        threads = [
            thread
            for number in range(invocations)
            for thread in self.threads(repositories // invocations, number * start_interval, write=write)
        ]
        self.time.run([*threads, *self.scheduled()], until=3600)
        return self.time.now

    def threads(self, repositories: int, start_at: float, *, write: bool) -> Iterator[Callable[[], None]]:
        limiter = limiter_in(self.time)
        waiting = iter(range(repositories))

        def thread() -> None:
            self.time.sleep(start_at)
            for _ in waiting:
                delays = backoff_delays()
                while not self.attempt(limiter, write=write):
                    self.time.sleep(next(delays))
                self.done += 1

        yield from [thread] * MAX_CONCURRENCY

    def attempt(self, limiter: RateLimiter, *, write: bool) -> bool:
        if not self.call(limiter, limiter.acquire(), self.reads):
            return False
        if not write:
            return True
        read_at, rate = self.time.now, limiter._rate  # noqa: SLF001
        permit = limiter.acquire_for_write()
        if permit.time > read_at:
            self.longest_wait = max(self.longest_wait, (permit.time - read_at) * rate)
        return self.call(limiter, permit, self.writes)

    def call(self, limiter: RateLimiter, permit: Permit, bucket: TokenBucket) -> bool:
        self.time.sleep(LATENCY + abs(self.rng.gauss(0, JITTER)))
        self.calls += 1
        served = bucket.take()
        self.throttled += not served
        (limiter.on_success if served else limiter.on_throttle)(permit)
        return served

    def scheduled(self) -> list[Callable[[], None]]:
        return []


@dataclass
class SweepsUnderAChangingLimit(Sweeps):
    changes: tuple[tuple[float, float], ...] = ()

    def scheduled(self) -> list[Callable[[], None]]:
        return [partial(self.change, at, rate) for at, rate in self.changes]

    def change(self, at: float, rate: float) -> None:
        self.time.sleep(at)
        self.reads.set_rate(rate)


def limiter_in(time: VirtualTime) -> RateLimiter:
    limiter = RateLimiter(time.clock, time.sleep)
    limiter._queue_lock = VirtualLock(time)  # type: ignore[assignment]  # noqa: SLF001
    return limiter


def sweeps(rate: float, burst: float, *, shared: bool = True) -> Sweeps:
    time = VirtualTime()
    reads = TokenBucket(time, rate, burst)
    return Sweeps(time, reads, reads if shared else TokenBucket(time, rate, burst))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("rate", "burst", "write", "ratio", "throttled"),
    [
        (100, 100, False, 1.05, 0.05),
        (100, 100, True, 1.05, 0.05),
        (100, 2, False, 1.15, 0.05),
        (100, 2, True, 1.20, 0.05),
        (50, 1, False, 1.25, 0.10),
        # A write that may wait at most one slot, 20 ms, cannot fit between reads that take 30 ms.
        (50, 1, True, 1.50, 0.10),
        (20, 1, False, 1.25, 0.10),
        (20, 1, True, 1.25, 0.10),
    ],
)
def test_a_sweep_takes_little_longer_than_the_limit_allows(
    rate: float, burst: float, ratio: float, throttled: float, *, write: bool, shared: bool
) -> None:
    repositories = 30 * int(rate)
    run = sweeps(rate, burst, shared=shared)

    seconds = run.run(repositories, write=write)

    calls_of_the_busiest_bucket = 2 * repositories if write and shared else repositories
    assert run.done == repositories
    assert seconds <= ratio * (calls_of_the_busiest_bucket - burst) / rate
    assert run.throttled <= throttled * run.calls
    assert run.longest_wait <= 1 + 1e-6


@pytest.mark.parametrize("burst", [1, 50])
def test_the_limiter_follows_a_rate_that_halves_and_doubles(burst: float) -> None:
    time = VirtualTime()
    bucket = TokenBucket(time, 50, burst)
    run = SweepsUnderAChangingLimit(time, bucket, bucket, changes=((20, 25), (40, 50)))

    seconds = run.run(20 * 50 + 20 * 25 + 20 * 50, write=False)

    assert seconds <= 1.35 * 60
    assert run.throttled <= 0.10 * run.calls


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("start_interval", [0, 0.3, 1.5])
def test_two_invocations_share_a_limit_fairly_also_if_one_starts_later(
    start_interval: float, *, write: bool
) -> None:
    run = sweeps(50, 50)
    repositories = 775 if write else 1550

    seconds = run.run(repositories, write=write, invocations=2, start_interval=start_interval)

    assert run.done == repositories // 2 * 2
    assert seconds <= 1.20 * (1550 - 50) / 50 + start_interval
    assert run.throttled <= 0.15 * run.calls


@pytest.mark.parametrize("write", [False, True])
def test_two_invocations_come_to_an_end_under_a_limit_without_burst(*, write: bool) -> None:
    run = sweeps(50, 1)

    run.run(400, write=write, invocations=2)

    assert run.done == 400


def test_nothing_is_delayed_before_the_first_throttle() -> None:
    run = sweeps(1e9, 1e9)

    seconds = run.run(2400, write=True)

    assert seconds < 2400 / MAX_CONCURRENCY * 2 * LATENCY * 1.1


def paced(rate: float = 20.0, *, idle: float = 0.0) -> tuple[VirtualTime, RateLimiter]:
    """Return a limiter that has found this rate, perhaps after a call and idle seconds."""
    time = VirtualTime()
    limiter = RateLimiter(time.clock, lambda seconds: setattr(time, "now", time.now + seconds))
    if idle:
        limiter.on_success(limiter.acquire())
        time.now += idle
    for _ in range(int(rate)):
        limiter.on_success(limiter.acquire())
    permit = limiter.acquire()
    limiter.on_throttle(permit)
    return time, limiter


def seconds_of_twenty_reads(time: VirtualTime, limiter: RateLimiter) -> float:
    started = time.now
    for _ in range(20):
        limiter.acquire()
    return time.now - started


def test_the_first_throttle_limits_the_rate_to_what_was_served_but_for_a_burst() -> None:
    time, limiter = paced(20)

    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1, rel=0.1)


def test_the_idle_time_of_a_warm_process_does_not_lower_the_rate() -> None:
    time, limiter = paced(20, idle=3600)

    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1, rel=0.1)


def test_throttles_of_calls_that_were_sent_before_the_rate_was_set_do_not_lower_it_again() -> None:
    time, limiter = paced(20)

    for _ in range(24):
        limiter.on_throttle(Permit(time.now - 0.1, rate=inf))
    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1, rel=0.1)


def test_slow_start_ends_near_the_rate_at_which_the_throttled_call_was_sent() -> None:
    time, limiter = paced(20)
    sent = limiter.acquire()
    for _ in range(40):
        limiter.on_success(limiter.acquire())
    limiter.on_throttle(sent)

    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1 / 0.7, rel=0.1)


def test_a_rate_that_is_not_used_is_not_raised() -> None:
    time, limiter = paced(20)
    for _ in range(200):
        time.now += 1
        limiter.on_success(limiter.acquire())

    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1, rel=0.1)


def test_a_read_takes_the_slot_of_its_write_too_so_that_the_write_does_not_wait() -> None:
    time, limiter = paced(20)
    for _ in range(30):
        limiter.acquire()
        limiter.acquire_for_write()

    started = time.now
    for _ in range(10):
        limiter.acquire()
        before = time.now
        limiter.acquire_for_write()
        assert time.now == before

    assert time.now - started == pytest.approx(2 * 10 / 20, rel=0.05)


def test_reads_take_one_slot_each_soon_after_the_last_write() -> None:
    time, limiter = paced(20)
    for _ in range(30):
        limiter.acquire()
        limiter.acquire_for_write()
    for _ in range(30):
        limiter.acquire()

    assert seconds_of_twenty_reads(time, limiter) == pytest.approx(1, rel=0.05)


def test_a_read_waits_one_slot_after_a_write() -> None:
    time, limiter = paced(20)
    limiter.acquire()
    time.now += 1

    limiter.acquire_for_write()
    written_at = time.now
    limiter.acquire()

    assert time.now - written_at == pytest.approx(1 / 20)


def test_a_write_waits_one_slot_at_most_after_several_were_throttled() -> None:
    time, limiter = paced(20)
    for _ in range(3):
        limiter.on_throttle(limiter.acquire_for_write())
    limiter.acquire()

    started = time.now
    permit = limiter.acquire_for_write()

    assert 0 < time.now - started <= 1 / 20 + 1e-9
    assert permit.paced or time.now - started == pytest.approx(1 / 20)
