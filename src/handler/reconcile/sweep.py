"""The sweep: reconciles the repositories of a request concurrently, until the deadline."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf

from handler.ecr.errors import RegistryError
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.ecr.retry import CALL_TIMEOUT, Deadline, DeadlineExceeded
from handler.events.request import MAX_FAILED_NAMES, Continuation, Request
from handler.policy.document import InvalidPolicy, parse
from handler.policy.registry_policy import RegistryPolicy, Status, evaluate
from handler.policy.scope import is_glob
from handler.reconcile import continuation as next_invocation
from handler.reconcile.creation_events import Creations
from handler.reconcile.listing import Listing
from handler.reconcile.reconciler import Context, reconcile
from handler.reconcile.result import Outcome, Result
from handler.reconcile.role_check import RoleCheck
from handler.settings import Mode, Settings

# In the worst case, a read and its write start at the deadline, and then the call of the continuation with
# its retries. The rest is for the rate limiter, backoff, name resolution and the report.
RESERVE = (2 + next_invocation.ATTEMPTS) * CALL_TIMEOUT + 38  # seconds
_MAX_RESERVE_SHARE = 0.25  # of the time that is left at the start
_MAX_SINGLE = 60.0  # seconds for a request that names one repository


class OutOfTime(Exception):
    """The time ended before a repository was reconciled or listed, so a continuation would not help."""


class Sweep:
    """The reconciliation of all the repositories of a request.

    Attributes:
        dry_run: whether nothing is written.
        continuation: after `run`, the request for what there was no time for, if any.
        unmatched: after `run`, the globs that matched no repository in scope.
        creations: after `run`, the repositories that a scheduled sweep shows to be created in the last day.
    """

    def __init__(
        self,
        request: Request,
        settings: Settings,
        registry: Registry,
        role_check: RoleCheck | None,
        time_left: Callable[[], float],
    ) -> None:
        """Prepare the sweep; `time_left` returns the seconds until the invocation ends."""
        self.dry_run = request.dry_run or settings.mode is Mode.PLAN
        self.continuation: Request | None = None
        self.unmatched: tuple[str, ...] = ()
        self.creations = Creations()
        self._request = request
        globs = tuple(filter(is_glob, request.repositories))
        before = request.continuation
        self._is_single = len(request.repositories) == 1 and not globs and not before
        left = time_left()
        reserve = min(RESERVE, _MAX_RESERVE_SHARE * left)
        if self._is_single and left < inf:
            # Lambda retries the event, and an invocation that waits holds concurrency.
            reserve = max(reserve, left - _MAX_SINGLE)
        self._deadline = Deadline(time_left, reserve)
        # A sweep of everything also shows which patterns for pull-through caches match nothing in scope.
        imported = settings.pull_through_cache.included if "*" in globs else ()
        before = before or Continuation(unmatched=tuple(dict.fromkeys((*globs, *imported))))
        # What is reconciled by its name is not listed too.
        patterns = (*request.repositories, *before.failed, *before.failed_again)
        self._listing = Listing(patterns, before, settings, registry, self._deadline)
        shared = Context(
            settings,
            registry,
            role_check,
            self._deadline,
            dry_run=self.dry_run,
            may_be_new=request.may_be_new,
            inspects_all=self._listing.lists_all,
        )
        self._reconcile = partial(reconcile, context=shared)
        self._named = frozenset(patterns)
        self._waiting = deque(pattern for pattern in request.repositories if not is_glob(pattern))
        self._to_retry = deque(before.failed)
        self._to_retry_again = deque(before.failed_again)
        self._made_progress = False
        self._last_error = ""

    def run(self) -> Iterator[Result]:
        """Reconcile each repository on its own, and yield the results as they come.

        A repository that fails stops no other. What fails in an invocation that another one continues is
        reconciled once more at the end of the sweep.

        Raises:
            RegistryError: the repositories cannot be listed.
            OutOfTime: no repository was reconciled or listed.
        """
        failed: list[str] = []
        interrupted: list[Result] = []
        concurrency = 1 if self._is_single else MAX_CONCURRENCY
        try:
            for result in _run_concurrently(self._reconcile, self._names(), concurrency):
                if result.outcome is Outcome.INTERRUPTED:
                    self._last_error = result.reason
                    interrupted.append(result)
                    continue
                self._made_progress = True
                if result.lacks_grant:
                    failed.append(result.repository)
                if result.repository in self._named or not result.is_uneventful_inspection:
                    self.creations.add_result(result)
                    yield result
        except RegistryError:
            yield from interrupted
            raise
        if self._has_first_tries() or (self._to_retry and self._made_progress):
            yield from interrupted
            self.continuation = self._continuation_request([each.repository for each in interrupted], failed)
            return
        yield from (replace(result, outcome=Outcome.FAILED) for result in interrupted)
        error = (
            "it failed in an earlier invocation, whose log has the reason, and there was no time to retry it"
        )
        for name in (*self._to_retry, *self._to_retry_again):
            yield Result(name, Outcome.FAILED, error=error)
        self.unmatched = self._listing.continuation.unmatched

    def _has_first_tries(self) -> bool:
        return bool(self._waiting or self._listing.globs)

    def _names(self) -> Iterator[str]:
        """Yield the names that were asked for, those that the globs match, and at last those that failed."""
        yield from self._until_deadline(self._waiting)
        while self._listing.globs and not self._deadline.passed():
            try:
                page = self._listing.next_page()
            except DeadlineExceeded as error:
                self._last_error = str(error)
                return
            if self._request.scheduled and not self.dry_run:
                self.creations.add_page(page, datetime.now(UTC))
            self._waiting.extend(each.name for each in page)
            self._made_progress = True
            yield from self._until_deadline(self._waiting)
        if not self._has_first_tries():
            yield from self._until_deadline(self._to_retry)
        if not (self._has_first_tries() or self._to_retry):
            yield from self._until_deadline(self._to_retry_again)

    def _until_deadline(self, names: deque[str]) -> Iterator[str]:
        while names and not self._deadline.passed():
            yield names.popleft()

    def _continuation_request(self, interrupted: list[str], failed: list[str]) -> Request:
        if not self._made_progress:
            raise OutOfTime(
                f"the time ended before a single repository was reconciled, with {len(interrupted)} tried "
                f"and {len(self._waiting)} waiting: {self._last_error or 'raise the function timeout'}"
            )
        before = self._listing.continuation
        # The interrupted ones come first, so that the limit drops names of repositories that failed.
        if self._has_first_tries():
            # Nothing was retried yet.
            names, again = (*interrupted, *before.failed, *failed), before.failed_again
            names = tuple(dict.fromkeys(names))
        else:
            names, again = (*interrupted, *self._to_retry), (*before.failed_again, *failed)
        named = names[:MAX_FAILED_NAMES]
        named_again = again[: MAX_FAILED_NAMES - len(named)]
        unnamed = len(names) + len(again) - len(named) - len(named_again)
        continuation = replace(
            before,
            failed=named,
            failed_again=named_again,
            failed_more=before.failed_more + unnamed,
            of_all=self._request.of_all,
        )
        patterns = (*self._waiting, *self._listing.globs)
        return replace(self._request, repositories=patterns, continuation=continuation)


def read_registry_policy(
    registry: Registry, settings: Settings, repository_arn_prefix: str
) -> RegistryPolicy:
    """Read and evaluate the registry's policy. The result only advises, so every error is a note."""
    try:
        policy = parse(registry.get_registry_policy())
        return evaluate(policy, settings.all_grants(), repository_arn_prefix)
    except (RegistryError, InvalidPolicy) as error:
        note = str(error)
    except Exception as error:  # noqa: BLE001 - not even a bug here stops the sweep
        note = f"unexpected {type(error).__name__}, a bug of this function"
    return RegistryPolicy(Status.UNKNOWN, note=note)


def _run_concurrently[T](call: Callable[[str], T], names: Iterable[str], concurrency: int) -> Iterator[T]:
    """Yield the results of the calls as they come, with at most so many in flight."""
    if concurrency == 1:  # what an event needs: a thread would take longer than the rest of our own work
        yield from map(call, names)
        return
    in_flight: set[Future[T]] = set()
    with ThreadPoolExecutor(concurrency) as executor:
        try:
            for name in names:
                in_flight.add(executor.submit(call, name))
                if len(in_flight) == concurrency:
                    done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
        except RegistryError:
            yield from (future.result() for future in in_flight)
            raise
        yield from (future.result() for future in as_completed(in_flight))
