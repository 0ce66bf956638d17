"""The sweep: reconciles the repositories of a request concurrently, until the deadline."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

from handler.policy_writer import Context
from handler.reconciler import reconcile
from handler.registry import MAX_CONCURRENCY, Registry, RegistryError, Throttled, Unavailable
from handler.request import MAX_FAILED_NAMES, Checkpoint, Request
from handler.result import Outcome, Result
from handler.retry import Deadline, DeadlineExceeded, retry_with_backoff
from handler.scope import is_glob, matches_any
from handler.settings import Settings

# Reserved for the attempts in flight, the continuation and the report: a read, a write and two attempts of
# the continuation may each take 13 s, after waits for the rate limiter.
_RESERVE = 90.0  # seconds
_MAX_RESERVE_SHARE = 0.25  # of the time that is left at the start
_MAX_RELISTINGS = 3


class OutOfTime(Exception):
    """The time ended before a repository was reconciled or listed, so a continuation would not help."""


class Sweep:
    """The reconciliation of all the repositories of a request.

    Attributes:
        dry_run: whether nothing is written.
        remaining: after `run`, the request for what there was no time for, if any.
        unmatched: after `run`, the globs that matched no repository in scope.
    """

    def __init__(
        self, request: Request, settings: Settings, registry: Registry, time_left: Callable[[], float]
    ) -> None:
        """Prepare the sweep; `time_left` returns the seconds until the invocation ends."""
        self.dry_run = request.dry_run or settings.plan
        self.remaining: Request | None = None
        self.unmatched: tuple[str, ...] = ()
        self._request = request
        self._registry = registry
        self._deadline = Deadline(time_left, min(_RESERVE, _MAX_RESERVE_SHARE * time_left()))
        self._context = Context(settings, registry, self._deadline, self.dry_run, request.may_be_new)
        self._named = [pattern for pattern in request.repositories if not is_glob(pattern)]
        self._waiting = deque(self._named)
        self._globs = tuple(pattern for pattern in request.repositories if is_glob(pattern))
        # A sweep of everything also shows which patterns for pull-through caches match nothing in scope.
        expected = settings.pull_through_cache.included if "*" in self._globs else ()
        unmatched = tuple(dict.fromkeys((*self._globs, *expected)))
        self._checkpoint = request.checkpoint or Checkpoint(unmatched=unmatched)
        self._failed_before = deque(self._checkpoint.failed)
        self._progress = False
        self._last_error = ""

    def run(self) -> Iterator[Result]:
        """Reconcile each repository on its own, and yield the results as they come.

        A repository that fails stops no other. What fails in an invocation that another one continues is
        reconciled once more at the end of the sweep.

        Raises:
            RegistryError: the repositories cannot be listed.
            OutOfTime: not one repository was reconciled.
        """
        failed: list[str] = []
        interrupted: list[Result] = []
        with ThreadPoolExecutor(MAX_CONCURRENCY) as executor:
            try:
                for result in _run_concurrently(executor, self._reconcile, self._names()):
                    if result.outcome is Outcome.INTERRUPTED:
                        self._last_error = result.reason
                        interrupted.append(result)
                        continue
                    self._progress = True
                    if result.lacks_grant:
                        failed.append(result.repository)
                    yield result
            except RegistryError:
                yield from interrupted
                raise
        if self._is_incomplete():
            yield from interrupted
            self.remaining = self._rest([*failed, *(each.repository for each in interrupted)])
            return
        yield from (replace(result, outcome=Outcome.FAILED) for result in interrupted)
        for name in self._failed_before:
            yield Result(name, Outcome.FAILED, reason="it failed before, and there was no time to retry it")
        self.unmatched = self._checkpoint.unmatched

    def _is_incomplete(self) -> bool:
        return bool(self._waiting or self._globs)

    def _names(self) -> Iterator[str]:
        """Yield the names that were asked for, those that the globs match, and at last those that failed."""
        yield from self._until_deadline(self._waiting)
        while self._globs and not self._deadline.passed():
            try:
                self._list_page()
            except DeadlineExceeded as error:
                self._last_error = str(error)
                return
            yield from self._until_deadline(self._waiting)
        if not self._is_incomplete():
            yield from self._until_deadline(self._failed_before)

    def _until_deadline(self, names: deque[str]) -> Iterator[str]:
        while names and not self._deadline.passed():
            yield names.popleft()

    def _list_page(self) -> None:
        try:
            listed, token = self._list(self._checkpoint.token)
        except RegistryError as error:
            if isinstance(error, Unavailable) or not self._may_list_again():
                raise
            self._checkpoint = replace(self._checkpoint, relistings=self._checkpoint.relistings + 1)
            listed, token = self._list(None)
        self._progress = True
        in_scope = [name for name in listed if name in self._context.settings.scope]
        unmatched = [
            glob
            for glob in self._checkpoint.unmatched
            if not any(matches_any(name, [glob]) for name in in_scope)
        ]
        self._checkpoint = replace(self._checkpoint, token=token, unmatched=tuple(unmatched))
        named = set(self._named)
        self._waiting.extend(
            name for name in in_scope if matches_any(name, self._globs) and name not in named
        )
        if token is None:
            self._globs = ()

    def _may_list_again(self) -> bool:
        # How long a token stays valid is not documented: that of the invocation before may be too old.
        # A new listing costs one read for each repository that is done.
        token, before = self._checkpoint.token, self._request.checkpoint
        inherited = before is not None and token is not None and token == before.token
        return inherited and self._checkpoint.relistings < _MAX_RELISTINGS

    def _list(self, token: str | None) -> tuple[list[str], str | None]:
        page = partial(self._registry.list_repositories, token)
        return retry_with_backoff(page, self._deadline, retryable=(Unavailable,), throttles=(Throttled,))

    def _reconcile(self, name: str) -> Result:
        if name not in self._context.settings.scope:
            return Result(name, Outcome.OUT_OF_SCOPE)
        return reconcile(name, self._context)

    def _rest(self, failed: list[str]) -> Request:
        if not self._progress:
            raise OutOfTime(
                f"the time ended before a single repository was reconciled, with {len(failed)} tried and "
                f"{len(self._waiting)} waiting: {self._last_error or 'raise the function timeout'}"
            )
        names = tuple(dict.fromkeys((*self._checkpoint.failed, *failed)))
        checkpoint = replace(
            self._checkpoint,
            failed=names[:MAX_FAILED_NAMES],
            failed_more=self._checkpoint.failed_more + len(names[MAX_FAILED_NAMES:]),
        )
        return replace(self._request, repositories=(*self._waiting, *self._globs), checkpoint=checkpoint)


def _run_concurrently[T](
    executor: ThreadPoolExecutor, call: Callable[[str], T], names: Iterable[str]
) -> Iterator[T]:
    """Yield the results of the calls as they come, with at most `MAX_CONCURRENCY` in flight."""
    waiting = iter(names)
    in_flight: set[Future[T]] = set()
    while True:
        try:
            while len(in_flight) < MAX_CONCURRENCY and (name := next(waiting, None)) is not None:
                in_flight.add(executor.submit(call, name))
        except RegistryError:
            yield from (future.result() for future in in_flight)
            raise
        if not in_flight:
            return
        done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
