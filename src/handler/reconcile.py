"""Reconcile: read, decide and write for each repository that is asked for, many side by side."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

from handler import policy
from handler.policy import InvalidPolicy, PolicyTooLong
from handler.registry import SIDE_BY_SIDE, Registry, RegistryError, RepositoryNotFound, Throttled, Unavailable
from handler.report import Outcome, Report, Result, logger
from handler.request import Request, Resume
from handler.scope import is_glob, matches_any
from handler.settings import Settings

type Seconds = Callable[[], float]

_TRIES = 6
_FIRST_PAUSE = 0.2  # seconds
_LONGEST_PAUSE = 6.4  # seconds
# What the last checks, the hand-over and the report may take: at most, and as a share of all the time.
_RESERVE = 60.0  # seconds
_RESERVE_SHARE = 0.25


class OutOfTime(Exception):
    """The function's time ended before it could check a single repository."""


def reconcile(
    request: Request, settings: Settings, registry: Registry, time_left: Seconds
) -> tuple[Report, Request | None]:
    """Check every repository that is asked for, each on its own and many side by side.

    A repository's failure is a result in the report and stops no other.

    Args:
        request: the repositories.
        settings: what they should carry.
        registry: where they are.
        time_left: the seconds until the invocation must have ended.

    Returns:
        The report, and what there was no time for, if any: the request to hand over. Each request
        leaves less than the one before it, so that a sweep ends.

    Raises:
        RegistryError: the repositories cannot be listed.
        OutOfTime: there was no time for anything, so that to hand over would not end.
    """
    sweep = _Sweep(request, settings, registry, time_left)
    begun_at = sweep.place
    try:
        rest = sweep.run()
    except RegistryError:
        sweep.report.log()  # what was done before is done
        raise
    if rest == replace(request, resume=begun_at):
        raise OutOfTime("the function's time limit is too short to check a single repository: raise it")
    return sweep.report, rest


class _Sweep:
    """The checks of one invocation."""

    def __init__(self, request: Request, settings: Settings, registry: Registry, time_left: Seconds) -> None:
        self._request = request
        self._settings = settings
        self._registry = registry
        self._dry_run = request.dry_run or settings.plan
        self._time_left = time_left
        self._reserve = min(_RESERVE, _RESERVE_SHARE * time_left())
        self.place = request.resume or Resume(unmatched=tuple(filter(is_glob, request.repositories)))
        self.report = Report(dry_run=self._dry_run, ignored=request.ignored, failed_before=self.place.failed)

    def run(self) -> Request | None:
        """Check until all is done or the time is up; give what is left."""
        names = [pattern for pattern in self._request.repositories if not is_glob(pattern)]
        globs = tuple(pattern for pattern in self._request.repositories if is_glob(pattern))
        done = set(names)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            left = self._check_side_by_side(threads, names)
            while globs and not left and self._has_time():
                try:
                    listed, token = self._patiently(partial(self._registry.page, self.place.token))
                except Unavailable:
                    if self._has_time():
                        raise
                    break
                left = self._check_side_by_side(threads, self._wanted(listed, globs, done))
                self.place = replace(self.place, token=token)
                if token is None:
                    globs = ()
        if not left and not globs:
            self.report.unmatched = list(self.place.unmatched)
            return None
        place = replace(self.place, failed=self.report.failed)
        return replace(self._request, repositories=(*left, *globs), resume=place)

    def _wanted(self, listed: list[str], globs: tuple[str, ...], done: set[str]) -> list[str]:
        """Choose what is asked for of a page, and strike off the globs that matched."""
        in_scope = [name for name in listed if name in self._settings.scope]
        unmatched = tuple(
            glob for glob in self.place.unmatched if not any(matches_any(name, [glob]) for name in in_scope)
        )
        self.place = replace(self.place, unmatched=unmatched)
        return [name for name in in_scope if name not in done and matches_any(name, globs)]

    def _check_side_by_side(self, threads: Executor, names: list[str]) -> list[str]:
        """Check these until the time is up; give those that were not begun."""
        under_way: set[Future[Result]] = set()
        begun = 0
        while under_way or (begun < len(names) and self._has_time()):
            while begun < len(names) and len(under_way) < SIDE_BY_SIDE and self._has_time():
                under_way.add(threads.submit(self._check, names[begun]))
                begun += 1
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for check in done:
                self.report.add(check.result())
        return names[begun:]

    def _has_time(self) -> bool:
        return self._time_left() > self._reserve

    def _check(self, name: str) -> Result:
        if name not in self._settings.scope:
            return Result(name, Outcome.OUT_OF_SCOPE)
        attempt = _Check(name, self._settings, self._registry, dry_run=self._dry_run)
        passing = (Unavailable, RepositoryNotFound) if self._request.may_be_new else (Unavailable,)
        try:
            return self._patiently(attempt, passing)
        except RepositoryNotFound:
            return Result(name, Outcome.GONE)
        except (RegistryError, InvalidPolicy, PolicyTooLong) as error:
            return Result(name, Outcome.FAILED, reason=str(error))
        except Exception as error:  # noqa: BLE001 - one repository stops no other, not even by a fault of ours
            logger.exception("check broke", extra={"repository": name})
            return Result(name, Outcome.FAILED, reason=f"unexpected {type(error).__name__}: {error}")

    def _patiently[T](
        self, attempt: Callable[[], T], passing: tuple[type[RegistryError], ...] = (Unavailable,)
    ) -> T:
        """Try again while ECR gives errors that pass and there is time; throttles pass without end.

        An attempt that writes reads first, so that no try repeats a write over what others wrote meanwhile.
        """
        tries = 0
        pauses = _pauses()
        while True:
            try:
                return attempt()
            except passing as error:
                # A throttle says that the call came too early, and not that it will not succeed.
                tries += not isinstance(error, Throttled)
                if tries == _TRIES or not self._has_time():
                    raise
                time.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    """Give seconds that double up to a limit, and vary, without end."""
    longest = _FIRST_PAUSE
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - it keeps no secret
        longest = min(2 * longest, _LONGEST_PAUSE)


class _Check:
    """The check of one repository, which may take several tries."""

    def __init__(self, name: str, settings: Settings, registry: Registry, *, dry_run: bool) -> None:
        self._name = name
        self._settings = settings
        self._registry = registry
        self._dry_run = dry_run
        self._sent: Result | None = None

    def __call__(self) -> Result:
        """Read, decide, and write if needed: a write always follows directly on a read."""
        present = policy.parse(self._registry.policy_text(self._name))
        wanted = policy.attach(
            present,
            self._settings.worker_role_arns,
            remove_unlisted=self._settings.remove_unlisted_roles,
        )
        if wanted == present:
            # A write of which ECR's answer was lost may have been taken all the same.
            return self._sent or Result(self._name, Outcome.UNCHANGED)
        text = policy.render(wanted)
        before, after = policy.granted(present), policy.granted(wanted)
        result = Result(
            self._name,
            Outcome.WOULD_ATTACH if self._dry_run else Outcome.ATTACHED,
            added=tuple(sorted(after - before)),
            removed=tuple(sorted(before - after)),
        )
        if not self._dry_run:
            self._sent = result
            self._registry.set_policy_text(self._name, text)
        return result
