"""Timeouts, the deadline, and retry with exponential backoff and jitter. All times in seconds."""

import random
import time
from collections.abc import Callable, Iterator

from handler.ecr.errors import RegistryError, Throttled, Unavailable

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 10
CALL_TIMEOUT = CONNECT_TIMEOUT + READ_TIMEOUT

MAX_FAILURES = 6
_FIRST_DELAY = 0.2
_MAX_DELAY = 6.4


class DeadlineExceeded(Exception):
    """The deadline passed before an operation succeeded; the message says what failed last."""


class Deadline:
    """The moment after which no new work starts: some time before the invocation ends."""

    def __init__(self, time_left: Callable[[], float], reserve: float) -> None:
        """Keep the `reserve` of the `time_left`."""
        self._time_left = time_left
        self._reserve = reserve

    def remaining(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self._time_left() - self._reserve)

    def passed(self) -> bool:
        """Return whether the deadline has passed."""
        return self.remaining() == 0


def retry_with_backoff[T](operation: Callable[[], T], deadline: Deadline, *also: type[RegistryError]) -> T:
    """Call an operation of the registry until it succeeds, with growing delays between the attempts.

    Args:
        operation: what to call.
        deadline: no further attempt starts after it, and no delay outlasts it.
        also: the errors besides Unavailable after which another attempt makes sense. A sixth error ends the
            attempts, but throttled calls do not count.

    Raises:
        DeadlineExceeded: the deadline passed after such an error.
        RegistryError: the operation's error, if it is another one or there were too many.
    """
    retryable: tuple[type[RegistryError], ...] = (Unavailable, *also)
    failures = 0
    delays = backoff_delays()
    while True:
        try:
            return operation()
        except retryable as error:
            failures += not isinstance(error, Throttled)
            if failures == MAX_FAILURES:
                raise
            time.sleep(min(next(delays), deadline.remaining()))
            if deadline.passed():
                raise DeadlineExceeded(str(error)) from None


def backoff_delays() -> Iterator[float]:
    """Yield delays in seconds, without end: they double up to a limit, and vary by a half."""
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)  # noqa: S311 - not used for security
        delay = min(2 * delay, _MAX_DELAY)
