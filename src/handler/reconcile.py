"""Reconcile: read, decide and write for each repository that is asked for."""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from handler import policy
from handler.policy import InvalidPolicy, PolicyTooLong
from handler.registry import Registry, RegistryError, RepositoryNotFound, Unavailable
from handler.report import Outcome, Report, Result
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
        report.add(check(name, settings, registry, dry_run=dry_run))
    return report


def check(name: str, settings: Settings, registry: Registry, *, dry_run: bool) -> Result:
    """Make sure that one repository carries the grant, and tell what it took."""
    if name not in settings.scope:
        return Result(name, Outcome.OUT_OF_SCOPE)
    try:
        return _patiently(partial(_check_once, name, settings, registry, dry_run=dry_run))
    except RepositoryNotFound:
        return Result(name, Outcome.GONE)
    except (RegistryError, InvalidPolicy, PolicyTooLong) as error:
        return Result(name, Outcome.FAILED, reason=str(error))


def _check_once(name: str, settings: Settings, registry: Registry, *, dry_run: bool) -> Result:
    present = policy.parse(registry.policy_text(name))
    wanted = policy.attach(present, settings.worker_role_arns, remove_unlisted=settings.remove_unlisted_roles)
    if wanted == present:
        return Result(name, Outcome.UNCHANGED)
    before, after = policy.granted(present), policy.granted(wanted)
    text = policy.render(wanted)
    if not dry_run:
        registry.set_policy_text(name, text)
    return Result(
        name,
        Outcome.WOULD_ATTACH if dry_run else Outcome.ATTACHED,
        added=tuple(sorted(after - before)),
        removed=tuple(sorted(before - after)),
    )


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


def _patiently[T](attempt: Callable[[], T]) -> T:
    """Try again while ECR is not available, after pauses that double and vary.

    An attempt that writes reads first, so that no try repeats a write over what others wrote meanwhile.
    """
    for tries_before in range(_TRIES - 1):
        try:
            return attempt()
        except Unavailable:
            jitter = random.uniform(0.5, 1)  # noqa: S311 - it keeps no secret
            time.sleep(jitter * _FIRST_PAUSE * 2**tries_before)
    return attempt()
