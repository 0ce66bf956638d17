"""The rate limiter: paces the calls to ECR near the rate that ECR serves, which it does not publish.

It is a token bucket that holds one token, so calls are evenly spaced. A read also takes the token of the
write that may follow: as much of a token as the share of the last reads that a write followed. So a write
needs no wait, whether ECR counts reads and writes together or separately.

The rate follows additive increase and multiplicative decrease (AIMD): it grows by a constant each second, and
each throttled call lowers it by a percentage, so a few percent of the calls are throttled once the rate is
found. So invocations that share a limit come to the same rate. Until the first throttle there is no limit;
then the rate doubles every two calls (slow start) until the next one.
botocore's adaptive retry mode is slower. Compare with `make bench` before you change this limiter.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

_MIN_RATE = 5.0  # calls per second: below it, backoff alone is slow enough
_ASSUMED_BURST = 1.0  # seconds of the rate: the assumed size of ECR's bucket
_IDLE_SECONDS = 1.0  # without a call
_SLOW_START_GROWTH = 2**0.5  # the rate doubles every two calls
_SLOW_START_DECREASE = 0.7  # of the rate at which the throttled call was sent
_INCREASE = 0.5  # calls per second, each second
_MAX_INCREASE = 0.03  # of the rate, per served call
_CLEAN_RUN = 25  # served calls without a throttle that double the increase: the limit was probably raised
_DECREASE = 0.06  # of the rate, per throttled call
# The count of throttled writes decays with each served write. From this value on, writes wait for a slot.
_PACE_WRITES_FROM = 3.0
_MAX_THROTTLED_WRITES = 6.0
_THROTTLED_WRITE_DECAY = 0.02  # per served write
_WRITE_SHARE_SMOOTHING = 0.1  # of the moving average of writes per read


@dataclass(frozen=True, slots=True)
class Permit:
    """The permission for one call.

    Attributes:
        time: when it was given, by the limiter's clock.
        rate: the limiter's rate at that time.
        write: whether it is for a write.
        paced: whether the call took a slot, so that a throttle says that the rate is too high.
        waited: whether it had to sleep for the slot, so that the limit had an effect.
    """

    time: float
    rate: float
    write: bool = False
    paced: bool = True
    waited: bool = False


class RateLimiter:
    """Threads share it: each acquires a permit before its call, and reports what became of the call."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Start without a limit; the clock and the sleep count in seconds."""
        self._clock = clock
        self._sleep = sleep
        self._queue_lock = threading.Lock()
        self._lock = threading.Lock()
        self._rate = inf
        self._next_slot = self._next_read = self._rate_set_at = clock()
        self._served = 0
        self._slow_start = True
        self._increase = _INCREASE
        self._clean_run = 0
        self._throttled_writes = 0.0
        self._waiting_writes = 0
        self._write_share = 0.0

    def acquire(self) -> Permit:
        """Wait for the next slot."""
        waited = False
        with self._queue_lock:  # one at a time, so that each waits by the rate of its own turn
            while (delay := self._take_slot()) > 0:
                waited = True
                self._sleep(delay)
        return Permit(self._clock(), self._rate, waited=waited)

    def acquire_for_write(self) -> Permit:
        """Return a permit for a write right after its read. The read has taken the slot of the write too.

        A write does not wait, except where writes are throttled again and again: then it waits for a slot of
        its own, but never longer than one slot, and reads let it pass. Otherwise a limit without burst would
        never serve a write.
        """
        with self._lock:
            self._write_share += _WRITE_SHARE_SMOOTHING
            paced = self._throttled_writes >= _PACE_WRITES_FROM
        if paced and self._wait_one_slot():
            return Permit(self._clock(), self._rate, write=True, waited=True)
        with self._lock:
            now = self._clock()
            self._next_slot = max(self._next_slot, now + 1 / self._rate)
            return Permit(now, self._rate, write=True, paced=False)

    def on_success(self, permit: Permit) -> None:
        """Raise the rate after a call that ECR served."""
        with self._lock:
            if permit.write:
                self._throttled_writes = max(0.0, self._throttled_writes - _THROTTLED_WRITE_DECAY)
            if self._rate == inf:
                self._served += 1
            # A call that did not wait says nothing about the limit.
            elif permit.waited and permit.time >= self._rate_set_at:
                self._raise_rate()

    def on_throttle(self, permit: Permit) -> None:
        """Lower the rate after a call that ECR throttled."""
        with self._lock:
            if permit.time < self._rate_set_at:
                return  # sent at a rate that is no longer valid
            if permit.write:
                self._throttled_writes = min(self._throttled_writes + 1, _MAX_THROTTLED_WRITES)
            now = self._clock()
            if self._rate == inf:
                self._set_rate(self._served / (now - self._rate_set_at + _ASSUMED_BURST), now)
                self._next_slot = now + 1 / self._rate
            elif permit.paced and self._slow_start:
                self._slow_start = False
                self._set_rate(permit.rate * _SLOW_START_DECREASE, now)
            elif permit.paced:
                self._rate = max(self._rate * (1 - _DECREASE), _MIN_RATE)
                self._increase, self._clean_run = _INCREASE, 0

    def _take_slot(self, *, write: bool = False) -> float:
        """Take the next slot and return 0, or return the seconds until the next attempt to take it."""
        with self._lock:
            now = self._clock()
            if self._rate == inf and now - self._next_slot > _IDLE_SECONDS:
                self._served, self._rate_set_at = 0, now  # the time before says nothing about the rate
            yields = self._waiting_writes > 0 and not write
            slot = self._next_slot if write else max(self._next_slot, self._next_read)
            if now >= slot and not yields:
                self._next_slot = now + 1 / self._rate
                if not write:
                    self._next_read = now + (1 + self._write_share) / self._rate
                    self._write_share *= 1 - _WRITE_SHARE_SMOOTHING
                return 0.0
            return max(slot - now, 1 / self._rate if yields else 0.0)

    def _wait_one_slot(self) -> bool:
        give_up_at = self._clock() + 1 / self._rate
        with self._lock:
            self._waiting_writes += 1
        try:
            while (delay := self._take_slot(write=True)) > 0:
                if (left := give_up_at - self._clock()) <= 0:
                    return False
                self._sleep(min(delay, left))
            return True
        finally:
            with self._lock:
                self._waiting_writes -= 1

    def _raise_rate(self) -> None:
        if self._slow_start:
            self._rate *= _SLOW_START_GROWTH
            return
        self._clean_run += 1
        if self._clean_run % _CLEAN_RUN == 0:
            self._increase *= 2
        self._rate += min(self._increase / self._rate, _MAX_INCREASE * self._rate)

    def _set_rate(self, rate: float, now: float) -> None:
        self._rate = max(rate, _MIN_RATE)
        self._rate_set_at = now
