"""What `make plan` found: the results of a sweep that wrote nothing, sorted by what they mean."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from handler.reconcile.result import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.policy.denials import Denial
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
        account: the registry's account; empty if the registry is empty.
        region: the registry's region.
        listed: the number of repositories in the registry.
        in_scope: the number of repositories that the settings select.
        unmatched: the globs of the settings that match no repository.
        complete: whether all of these were read.
        all_failed: whether no result so far is a success.
        registry_policy: what the registry's own policy says on the grants, unless the registry is empty.
        results: the result of each repository that was read.
    """

    region: str
    account: str = ""
    listed: int = 0
    in_scope: int = 0
    unmatched: list[str] = field(default_factory=list)
    complete: bool = False
    all_failed: bool = True
    registry_policy: RegistryPolicy | None = None
    results: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add the result of a repository."""
        self.results.append(result)
        self.all_failed = self.all_failed and result.outcome is Outcome.FAILED

    @property
    def granted(self) -> list[Result]:
        """The repositories that need no change."""
        return self._of(Outcome.UNCHANGED)

    @property
    def to_change(self) -> list[Result]:
        """The repositories whose policy would change, also where that is not all that the grants need."""
        return _by_name(one for one in self.results if one.added or one.removed)

    @property
    def gone(self) -> list[Result]:
        """The repositories that were deleted meanwhile."""
        return self._of(Outcome.GONE)

    @property
    def failed(self) -> list[Result]:
        """The repositories whose policy cannot be read, or does not take every grant."""
        return self._of(Outcome.FAILED, Outcome.INCOMPLETE)

    @property
    def denied(self) -> list[Result]:
        """The repositories with a foreign statement that denies a role its grant."""
        return _by_name(one for one in self.results if one.denied_by)

    def to_json(self) -> dict[str, object]:
        """Return the plan for machines: all repositories but those that need no change."""
        return {
            "account": self.account,
            "region": self.region,
            "complete": self.complete,
            "counts": {
                "listed": self.listed,
                "in_scope": self.in_scope,
                "granted": len(self.granted),
                "would_change": len(self.to_change),
                "denied": len(self.denied),
                "failed": len(self.failed),
                "gone": len(self.gone),
            },
            "unmatched": self.unmatched,
            "registry_policy": self.registry_policy and self.registry_policy.details(),
            "would_change": [one.details() for one in self.to_change],
            "denied": [one.details() for one in self.denied],
            "failed": [one.details() for one in self.failed],
        }

    def _of(self, *outcomes: Outcome) -> list[Result]:
        return _by_name(one for one in self.results if one.outcome in outcomes)


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


def by_reason(results: Iterable[Result]) -> dict[str, list[str]]:
    """Group repositories by the reason of their failure, the largest group first."""
    return _grouped((one.reason.replace(one.repository, "…"), one.repository) for one in results)


def _by_name(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=lambda one: one.repository)


def _grouped[K](pairs: Iterable[tuple[K, str]]) -> dict[K, list[str]]:
    groups: dict[K, list[str]] = defaultdict(list)
    for key, repository in pairs:
        groups[key].append(repository)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
