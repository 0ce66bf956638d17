"""Reconcile: read, decide and write for each repository that is asked for."""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from handler import policy
from handler.policy import InvalidPolicy, PolicyTooLong
from handler.registry import Registry, RegistryError, RepositoryNotFound, Unavailable
from handler.report import Outcome, Report, Result, logger
from handler.scope import is_glob, matches_any
from handler.settings import Settings
from handler.triggers import Request

_TRIES = 6
_FIRST_PAUSE = 0.2  # seconds


def reconcile(request: Request, settings: Settings, registry: Registry) -> Report:
    """Check every repository that is asked for, each on its own.

    A repository's failure is a result in the report and stops no other.

    Raises:
        RegistryError: the repositories cannot be listed.
    """
    dry_run = request.dry_run or settings.plan
    report = Report(dry_run=dry_run, ignored=request.ignored)
    for name in _selected(request.repositories, settings, registry):
        report.add(check(name, settings, registry, dry_run=dry_run, created=request.created))
    return report


def check(
    name: str, settings: Settings, registry: Registry, *, dry_run: bool, created: bool = False
) -> Result:
    """Make sure that one repository carries the grant, and tell what it took.

    A repository that was `created` just now is waited for if ECR does not know it yet.
    """
    if name not in settings.scope:
        return Result(name, Outcome.OUT_OF_SCOPE)
    attempt = _Check(name, settings, registry, dry_run=dry_run)
    passing = (Unavailable, RepositoryNotFound) if created else (Unavailable,)
    try:
        return _patiently(attempt, passing)
    except RepositoryNotFound:
        return Result(name, Outcome.GONE)
    except (RegistryError, InvalidPolicy, PolicyTooLong) as error:
        return Result(name, Outcome.FAILED, reason=str(error))
    except Exception as error:  # noqa: BLE001 - one repository stops no other, not even by a fault of ours
        logger.exception("check broke", extra={"repository": name})
        return Result(name, Outcome.FAILED, reason=f"unexpected {type(error).__name__}: {error}")


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


def _selected(patterns: tuple[str, ...], settings: Settings, registry: Registry) -> Iterator[str]:
    """Give each name that is asked for, once; a glob stands for the names in scope that it matches."""
    names = {pattern for pattern in patterns if not is_glob(pattern)}
    globs = [pattern for pattern in patterns if is_glob(pattern)]
    yield from sorted(names)
    if globs:
        for name in _listed(registry):
            if name not in names and matches_any(name, globs) and name in settings.scope:
                yield name


def _listed(registry: Registry) -> Iterator[str]:
    token: str | None = None
    while True:
        names, token = _patiently(partial(registry.page, token))
        yield from names
        if token is None:
            return


def _patiently[T](attempt: Callable[[], T], passing: tuple[type[RegistryError], ...] = (Unavailable,)) -> T:
    """Try again while ECR gives errors that pass, after pauses that double and vary.

    An attempt that writes reads first, so that no try repeats a write over what others wrote meanwhile.
    """
    for tries_before in range(_TRIES - 1):
        try:
            return attempt()
        except passing:
            jitter = random.uniform(0.5, 1)  # noqa: S311 - it keeps no secret
            time.sleep(jitter * _FIRST_PAUSE * 2**tries_before)
    return attempt()
