"""What the plan found: the results of a sweep that wrote nothing, sorted by what they mean. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cli.plan.today import PullsToday
from handler.policy.registry_policy import Status
from handler.reconcile.result import Outcome
from handler.settings import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cli.plan.trail import TrailCheck
    from handler.policy.denials import Denial
    from handler.policy.grants import Grantee
    from handler.policy.registry_policy import RegistryPolicy
    from handler.reconcile.result import Result


class Change(NamedTuple):
    """One principal that a statement would gain (`+`) or lose (`-`)."""

    sign: str
    sid: str
    principal: str


@dataclass
class Plan:
    """The plan for one registry.

    Attributes:
        region: the registry's region.
        mode: what the function would do.
        account: the registry's account; empty if the registry is empty.
        listed: the number of repositories in the registry.
        in_scope: the number of repositories that the settings select.
        unmatched: the globs of the settings that match no repository.
        mistyped: those of them that select the scope.
        complete: whether all repositories in scope were read.
        all_failed: whether no result so far is a success.
        registry_policy: what the registry's own policy says on the grants, unless the registry is empty.
        today: who can pull today from the repositories that would change.
        trail: whether a trail announces new repositories.
        results: the result of each repository that was read.
    """

    region: str
    mode: Mode = Mode.ENFORCE
    account: str = ""
    listed: int = 0
    in_scope: int = 0
    unmatched: list[str] = field(default_factory=list)
    mistyped: list[str] = field(default_factory=list)
    complete: bool = False
    all_failed: bool = True
    registry_policy: RegistryPolicy | None = None
    today: PullsToday = field(default_factory=PullsToday)
    trail: TrailCheck | None = None
    results: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add the result of a repository."""
        self.results.append(result)
        self.all_failed = self.all_failed and result.outcome is Outcome.FAILED

    def of(self, *outcomes: Outcome) -> list[Result]:
        """Return the results with one of the outcomes, by name."""
        return _by_name(one for one in self.results if one.outcome in outcomes)

    @property
    def to_change(self) -> list[Result]:
        """The repositories whose policy would change, also where that is not all that the grants need."""
        return _by_name(one for one in self.results if one.added or one.removed)

    @property
    def failed(self) -> list[Result]:
        """The repositories whose policy cannot be read, or does not take every grant."""
        return self.of(Outcome.FAILED, Outcome.INCOMPLETE)

    @property
    def denied(self) -> list[Result]:
        """The repositories with a foreign statement that denies a role its grant."""
        return _by_name(one for one in self.results if one.denied_by)

    @property
    def unlisted(self) -> list[Result]:
        """The repositories whose grants name principals that are not configured."""
        return _by_name(one for one in self.results if one.unlisted)

    @property
    def pulls_stay_denied(self) -> bool:
        """Whether a statement that the function does not change surely denies pulls."""
        by_registry = self.registry_policy is not None and self.registry_policy.status is Status.DENIES
        return by_registry or any(
            denial.refuses_pull and not denial.conditional for one in self.results for denial in one.denied_by
        )

    def to_json(self) -> dict[str, object]:
        """Return the plan for machines, in the form of the function's report, with further fields."""
        reported = [one for one in self.results if one.outcome is not Outcome.UNCHANGED or _notable(one)]
        document = {
            "account": self.account,
            "region": self.region,
            "mode": self.mode.value,
            "complete": self.complete,
            "listed": self.listed,
            "in_scope": self.in_scope,
            "checked": len(self.results),
            "dry_run": True,
            "outcomes": dict(sorted(Counter(one.outcome.value for one in self.results).items())),
            "repositories": [one.details() for one in _by_name(reported)],
            "truncated": False,
            "pulls_today": self.today.details(),
            "trail": self.trail and self.trail.details(),
        }
        optional = {
            "denied": len(self.denied),
            "unlisted": len(self.unlisted),
            "registry_policy": self.registry_policy and self.registry_policy.details(),
            "unmatched": self.unmatched,
        }
        return document | {key: value for key, value in optional.items() if value}


def _notable(result: Result) -> bool:
    return bool(result.denied_by or result.unlisted)


def changes(result: Result) -> tuple[Change, ...]:
    """Return what a repository's grants would gain and lose."""
    gained = (Change("+", *grantee) for grantee in sorted(result.added))
    lost = (Change("-", *grantee) for grantee in sorted(result.removed))
    return (*gained, *lost)


def by_change(results: Iterable[Result]) -> dict[tuple[Change, ...], list[str]]:
    """Group repositories by what would change, the largest group first."""
    return _grouped((changes(one), one.repository) for one in results)


def by_denial(results: Iterable[Result]) -> dict[Denial, list[str]]:
    """Group repositories by the foreign statement that denies a grant, the largest group first."""
    return _grouped((denial, one.repository) for one in results for denial in one.denied_by)


def by_unlisted(results: Iterable[Result]) -> dict[Grantee, list[str]]:
    """Group repositories by the principal that is not configured, the largest group first."""
    return _grouped((grantee, one.repository) for one in results for grantee in sorted(one.unlisted))


def by_reason(results: Iterable[Result]) -> dict[str, list[str]]:
    """Group repositories by the reason of their failure, the largest group first."""
    return _grouped((_without_name(one), one.repository) for one in results)


def _without_name(result: Result) -> str:
    """Return the reason without the repository's name, in an ARN or in quotation marks."""
    name = re.escape(result.repository)
    return re.sub(rf"(?<=:repository/){name}(?![\w./-])|(?<=['\"]){name}(?=['\"])", "…", result.reason)


def _by_name(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=lambda one: one.repository)


def _grouped[K](pairs: Iterable[tuple[K, str]]) -> dict[K, list[str]]:
    groups: dict[K, list[str]] = defaultdict(list)
    for key, repository in pairs:
        groups[key].append(repository)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
