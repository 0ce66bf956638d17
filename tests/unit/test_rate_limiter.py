"""The rate limiter, against a token bucket like the one of AWS, on a simulated clock."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from handler.rate_limiter import RateLimiter


class TokenBucketEcr:
    """An ECR that serves `rate` calls per second, and a burst of the same size."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.tokens = rate
        self.now = 0.0
        self.served = 0
        self.throttled = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.tokens = min(self.rate, self.tokens + seconds * self.rate)

    def call(self, limiter: RateLimiter, latency: float = 0.001) -> None:
        limiter.acquire()
        self.sleep(latency)
        if self.tokens >= 1:
            self.tokens -= 1
            self.served += 1
            limiter.on_success()
        else:
            self.throttled += 1
            limiter.on_throttle()


@pytest.mark.parametrize(("rate", "share"), [(5, 0.1), (20, 0.05), (100, 0.02), (500, 0.02)])
def test_the_call_rate_approaches_the_served_rate_with_few_throttles(rate: float, share: float) -> None:
    ecr = TokenBucketEcr(rate)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    while ecr.now < 20:  # until the limiter has adapted to the rate
        ecr.call(limiter)
    ecr.served = ecr.throttled = 0

    while ecr.now < 120:
        ecr.call(limiter)

    assert ecr.served / 100 > rate * 0.9
    assert ecr.throttled / (ecr.served + ecr.throttled) < share


def test_calls_are_not_delayed_before_the_first_throttle() -> None:
    ecr = TokenBucketEcr(rate=1e9)
    limiter = RateLimiter(ecr.clock, ecr.sleep)

    for _ in range(1000):
        ecr.call(limiter)

    assert ecr.now == pytest.approx(1.0)


def test_the_limiter_adapts_to_a_higher_rate() -> None:
    ecr = TokenBucketEcr(rate=5)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    while ecr.now < 30:
        ecr.call(limiter)

    ecr.rate = 200
    while ecr.now < 60:
        ecr.call(limiter)
    ecr.served = 0
    while ecr.now < 70:
        ecr.call(limiter)

    assert ecr.served / 10 > 150


def test_a_throttle_after_an_idle_hour_does_not_lower_the_rate() -> None:
    ecr = TokenBucketEcr(rate=100)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    ecr.call(limiter)
    ecr.sleep(3600)
    ecr.tokens = 0

    ecr.call(limiter, latency=0)
    started = ecr.now
    for _ in range(50):
        ecr.call(limiter)

    assert ecr.now - started < 1


def test_an_unused_rate_is_not_raised() -> None:
    ecr = TokenBucketEcr(rate=5)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    while ecr.now < 20:
        ecr.call(limiter)
    for _ in range(30):
        ecr.sleep(1)
        ecr.call(limiter)

    started = ecr.now
    for _ in range(20):
        ecr.call(limiter)

    assert ecr.now - started > 2


def test_acquire_nowait_does_not_wait_but_delays_the_next_acquire() -> None:
    ecr = TokenBucketEcr(rate=10)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    while ecr.now < 20:
        ecr.call(limiter)
    limiter.acquire()

    started = ecr.now
    for _ in range(5):
        limiter.acquire_nowait()
    assert ecr.now == started
    limiter.acquire()

    assert ecr.now - started > 0.4


def test_the_first_throttle_lowers_the_rate_to_the_served_rate_without_the_burst() -> None:
    ecr = TokenBucketEcr(rate=20)
    limiter = RateLimiter(ecr.clock, ecr.sleep)
    ecr.sleep(0.03)
    for _ in range(20):  # concurrent calls
        limiter.on_success()
    limiter.on_throttle()

    started = ecr.now
    for _ in range(20):
        limiter.acquire()

    assert ecr.now - started == pytest.approx(1, rel=0.15)


def test_a_queued_caller_waits_by_the_rate_at_its_own_turn() -> None:
    slept: list[float] = []
    asleep, awake = Event(), Event()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            asleep.set()
            awake.wait(10)

    now = 0.5
    limiter = RateLimiter(lambda: now, sleep)
    for _ in range(150):
        limiter.on_success()
    limiter.on_throttle()  # about 100 calls per second
    limiter.acquire()
    with ThreadPoolExecutor(2) as threads:
        threads.submit(limiter.acquire)
        assert asleep.wait(10)
        threads.submit(limiter.acquire)
        now = 1.5
        limiter.on_throttle()  # no call was served lately: 1 call per second
        awake.set()
    limiter.acquire()

    assert slept[-1] == pytest.approx(1)
