"""Threads in virtual time: one runs at a time, time passes only while all sleep, every run is the same."""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from handler.ecr.rate_limiter import RateLimiter

type Wakeup = tuple[float, int, threading.Lock]


def _held_lock() -> threading.Lock:
    """Return a lock as a binary semaphore without a permit: much faster than Python's own semaphore."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class VirtualTime:
    """A scheduler of threads, with their clock, their sleep and their lock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._wakeups: list[Wakeup] = []
        self._idle = _held_lock()
        self._local = threading.local()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.wake(self.current(), seconds)
        self.wait()

    def current(self) -> threading.Lock:
        semaphore: threading.Lock = self._local.semaphore
        return semaphore

    def wake(self, semaphore: threading.Lock, seconds: float = 0.0) -> None:
        """Schedule the thread that waits on the semaphore."""
        heapq.heappush(self._wakeups, (self.now + seconds, next(self._order), semaphore))

    def wait(self) -> None:
        """Let the other threads run until this one is scheduled again."""
        self._idle.release()
        self.current().acquire()

    def run(self, functions: Sequence[Callable[[], object]], until: float) -> None:
        """Run each function in a thread of its own, to its end or until the time is over."""
        threads = [
            threading.Thread(target=self._thread, args=(function, semaphore), daemon=True)
            for function in functions
            if (semaphore := _held_lock())
        ]
        for thread in threads:
            thread.start()
            self._idle.acquire()
        while self._wakeups and self.now < until:
            self.now, _, semaphore = heapq.heappop(self._wakeups)
            semaphore.release()
            self._idle.acquire()

    def _thread(self, function: Callable[[], object], semaphore: threading.Lock) -> None:
        self._local.semaphore = semaphore
        self.wake(semaphore)
        self.wait()
        function()
        self._idle.release()


class VirtualLock:
    """A lock for such threads, first come, first served."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        if self._held:
            self._waiting.append(self._time.current())
            self._time.wait()
        self._held = True

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._waiting:
            self._time.wake(self._waiting.popleft())
        else:
            self._held = False


def limiter_without_waits() -> RateLimiter:
    """Return a rate limiter whose clock is moved on by its waits."""
    time = VirtualTime()

    def sleep(seconds: float) -> None:
        time.now += seconds

    return RateLimiter(time.clock, sleep)
