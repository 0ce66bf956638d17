"""The rate limiter: calls to ECR come no faster than ECR serves them, a rate that it does not publish."""

import threading
import time
from collections.abc import Callable
from math import inf

_WINDOW = 1.0  # seconds over which served calls are counted
_SHORTEST_WINDOW = _WINDOW / 2  # what is counted in less says little
_ENOUGH = 10  # calls that were served before the first throttle say enough, however soon it came
_BURST = 1.0  # seconds: as many more calls ECR serves at once, after an idle time
_BELOW = 0.97  # of the rate that was just served, so that the queue at ECR drains
_GROWTH = 0.01  # in the first window after a throttle; doubles with each further one without
_MOST_GROWTH = 1.0
_USED = 0.5  # of the rate, at least, for it to count as tried
_SLOWEST = 1.0  # calls a second


class RateLimiter:
    """Measures the rate that ECR serves and stays near it. Limits nothing until ECR throttles a call."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Start without a limit; the clock and the sleep count in seconds."""
        self._clock = clock
        self._sleep = sleep
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._rate = inf
        self._next_slot = clock()
        self._window_start = clock()
        self._served = 0
        self._growth = _GROWTH

    def acquire(self) -> None:
        """Wait for the next slot and take it."""
        # One at a time: slots that all took at once would outlast a change of the rate.
        with self._turn:
            with self._lock:
                now = self._clock()
                pause = self._take_slot(now)
            if pause > 0:
                self._sleep(pause)

    def acquire_nowait(self) -> None:
        """Take a slot without waiting for it; the next `acquire` waits longer instead."""
        with self._lock:
            self._take_slot(self._clock())

    def on_success(self) -> None:
        """Count a call that ECR served."""
        with self._lock:
            now = self._clock()
            if self._rate < inf and now - self._window_start >= _WINDOW:
                # A rate that was not used was not tried either.
                if self._served >= _USED * self._rate * (now - self._window_start):
                    self._rate *= 1 + self._growth
                    self._growth = min(2 * self._growth, _MOST_GROWTH)
                self._start_window(now)
            self._served += 1

    def on_throttle(self) -> None:
        """Slow down to what ECR served lately; once a window, for one overshoot throttles many calls."""
        with self._lock:
            now = self._clock()
            elapsed = now - self._window_start
            first = self._rate == inf
            if elapsed < _SHORTEST_WINDOW and not (first and self._served >= _ENOUGH):
                return
            lately = self._served / (elapsed + (_BURST if first else 0))
            self._rate = max(min(lately * _BELOW, self._rate), _SLOWEST)
            self._growth = _GROWTH
            self._start_window(now)

    def _take_slot(self, now: float) -> float:
        if now - self._next_slot > _WINDOW:
            self._start_window(now)  # what was idle says nothing of the rate
        slot = max(now, self._next_slot)
        self._next_slot = slot + 1 / self._rate
        return slot - now

    def _start_window(self, now: float) -> None:
        self._window_start = now
        self._served = 0
