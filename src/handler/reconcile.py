"""Reconcile: check each repository that is asked for, many side by side, as long as there is time."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import extract_tb

from handler.check import Check, Roles
from handler.policy import InvalidPolicy, PolicyTooLong
from handler.registry import SIDE_BY_SIDE, Registry, RegistryError, RepositoryNotFound, Throttled, Unavailable
from handler.report import Report, logger
from handler.request import Request, Resume
from handler.result import Outcome, Result
from handler.scope import is_glob, matches_any
from handler.settings import Settings

type Seconds = Callable[[], float]

_TRIES = 6
_FIRST_PAUSE = 0.2  # seconds
_LONGEST_PAUSE = 6.4  # seconds
# What is kept for the tries under way, the hand-over and the report: at most, and as a share of all
# the time. Each of the three calls may time out after 13 s, and a try may wait for its slot first.
_RESERVE = 90.0  # seconds
_RESERVE_SHARE = 0.25


class OutOfTime(Exception):
    """The function's time ended before it could check a single repository."""


class _TimeIsUp(Exception):
    """There is no time for another try."""


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
        OutOfTime: not one check came to its end, so that to hand over would have none; says what was
            in the way.
    """
    sweep = _Sweep(request, settings, registry, time_left)
    begun_at = sweep.place
    try:
        rest = sweep.run()
    except RegistryError:
        sweep.report.log()  # what was done before is done
        raise
    if rest == replace(request, resume=begun_at):
        sweep.report.log()
        raise OutOfTime(
            f"the function's time ended before a single check did, with {', '.join(rest.repositories[:10])} "
            f"(of {len(rest.repositories)}) left: {sweep.obstacle or 'raise its time limit'}"
        )
    return sweep.report, rest


class _Sweep:
    """The checks of one invocation."""

    def __init__(self, request: Request, settings: Settings, registry: Registry, time_left: Seconds) -> None:
        self._request = request
        self._settings = settings
        self._registry = registry
        self._dry_run = request.dry_run or settings.plan
        self._time_left = time_left
        self._roles = Roles()
        self.obstacle = ""
        self._reserve = min(_RESERVE, _RESERVE_SHARE * time_left())
        self.place = request.resume or Resume(unmatched=tuple(filter(is_glob, request.repositories)))
        self.report = Report(request, dry_run=self._dry_run)

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
                except _TimeIsUp:
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
        """Check these until the time is up; give those whose check was not begun or came to no end."""
        under_way: dict[Future[Result], str] = {}
        unfinished: set[str] = set()
        begun = 0
        while under_way or (begun < len(names) and self._has_time()):
            while begun < len(names) and len(under_way) < SIDE_BY_SIDE and self._has_time():
                under_way[threads.submit(self._check, names[begun])] = names[begun]
                begun += 1
            for check in wait(under_way, return_when=FIRST_COMPLETED).done:
                name = under_way.pop(check)
                try:
                    self.report.add(check.result())
                except _TimeIsUp:
                    unfinished.add(name)
        return [name for name in names[:begun] if name in unfinished] + names[begun:]

    def _has_time(self) -> bool:
        return self._time_left() > self._reserve

    def _check(self, name: str) -> Result:
        if name not in self._settings.scope:
            return Result(name, Outcome.OUT_OF_SCOPE)
        check = Check(name, self._settings, self._registry, self._roles, dry_run=self._dry_run)
        passing = (Unavailable, RepositoryNotFound) if self._request.may_be_new else (Unavailable,)
        try:
            return self._patiently(check.attempt, passing)
        except _TimeIsUp:
            if done := check.failed("").added:
                logger.warning("unfinished", extra={"repository": name, "added": list(done)})
            raise
        except RepositoryNotFound:
            return Result(name, Outcome.GONE)
        except (RegistryError, InvalidPolicy, PolicyTooLong) as error:
            return check.failed(str(error))
        except Exception as error:  # noqa: BLE001 - one repository stops no other, not even by a fault of ours
            # Its own words may hold parts of a policy.
            fault = type(error).__name__
            at = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
            logger.error("check broke", extra={"repository": name, "fault": fault, "at": at})
            return check.failed(f"unexpected {fault}, a fault of this function; the log says where")

    def _patiently[T](
        self, attempt: Callable[[], T | None], passing: tuple[type[RegistryError], ...] = (Unavailable,)
    ) -> T:
        """Try until there is a result, also after errors that pass: a throttle always, others some times.

        Raises:
            _TimeIsUp: there is no time for another try.
            RegistryError: the error did not pass.
        """
        tries = 0
        pauses = _pauses()
        while True:
            try:
                if (result := attempt()) is not None:
                    return result
            except passing as error:
                # A throttle says that the call came too early, and not that it will not succeed.
                tries += not isinstance(error, Throttled)
                if tries == _TRIES:
                    raise
                self.obstacle = str(error)
                time.sleep(max(0, min(next(pauses), self._time_left() - self._reserve)))
            if not self._has_time():
                raise _TimeIsUp


def _pauses() -> Iterator[float]:
    """Give seconds that double up to a limit, and vary, without end."""
    longest = _FIRST_PAUSE
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - it keeps no secret
        longest = min(2 * longest, _LONGEST_PAUSE)
