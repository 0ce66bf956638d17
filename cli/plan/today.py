"""Who is denied today: whether the worker roles can pull before the plan is carried out. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from cli.access import Decision, Finding, Role, Through, decide, findings, uncertain
from handler.policy.grants import REQUIRED_PULL_ACTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handler.policy.document import Policy

# Registry policies of this scope only decide on replication and on pull-through caches.
SCOPE_V1 = "V1"
REPOSITORY_POLICY, REGISTRY_POLICY = "repository policy", "registry policy"
_UNKNOWN_SCOPE = "the scope of the registry policy is V2, which is unknown"


class Today(StrEnum):
    """Whether the registry's side allows the pull today."""

    ALLOWED = auto()
    CONDITIONAL = auto()
    DENIED = auto()


@dataclass(frozen=True, slots=True)
class RegistrySide:
    """The registry's own policy.

    Attributes:
        policy: the policy, or None.
        scope: its scope, V1 or V2; empty if unknown.
        arn_prefix: the ARN of a repository, without its name.
    """

    policy: Policy | None = None
    scope: str = ""
    arn_prefix: str = ""

    def findings(self, role: Role, action: str, repository: str) -> tuple[Finding, ...]:
        """Find the statements that apply to a pull from the repository."""
        if self.scope == SCOPE_V1:
            return ()
        resource = self.arn_prefix + repository
        found = findings(self.policy, role, action, source=REGISTRY_POLICY, resource=resource)
        return found if self.scope else uncertain(found, _UNKNOWN_SCOPE)


@dataclass
class PullsToday:
    """The repositories by what the worker roles can do there today.

    Attributes:
        repositories: the repositories of each answer.
        allowed_by: how many repositories are allowed by which kind of statement.
    """

    repositories: dict[Today, list[str]] = field(default_factory=lambda: {each: [] for each in Today})
    allowed_by: Counter[str] = field(default_factory=Counter)

    def add(self, repository: str, today: Today, allowed_by: str) -> None:
        """Add a repository."""
        self.repositories[today].append(repository)
        if today is Today.ALLOWED:
            self.allowed_by[allowed_by] += 1

    def details(self) -> dict[str, list[str]]:
        """Return the repositories by answer, in alphabetical order."""
        return {today.value: sorted(names) for today, names in self.repositories.items() if names}


def pull_today(
    repository: str, policy: Policy | None, registry: RegistrySide, roles: Sequence[str]
) -> tuple[Today, str]:
    """Return whether every role can pull from the repository today, and by what kind of statement."""
    decisions: set[Decision] = set()
    kinds: Counter[str] = Counter()
    for role in map(Role, roles):
        for action in REQUIRED_PULL_ACTIONS:
            found = (
                *findings(policy, role, action, source=REPOSITORY_POLICY),
                *registry.findings(role, action, repository),
            )
            decisions.add(decide(found))
            kinds.update(_kind(each) for each in found if not (each.denies or each.condition))
    if decisions & {Decision.DENIED, Decision.NOT_ALLOWED}:
        return Today.DENIED, ""
    if Decision.CONDITIONAL in decisions:
        return Today.CONDITIONAL, ""
    return Today.ALLOWED, kinds.most_common(1)[0][0]


def _kind(finding: Finding) -> str:
    if finding.policy == REGISTRY_POLICY:
        return "the registry policy"
    return {
        Through.ROLE: "another statement for the role",
        Through.ACCOUNT: "a statement for the whole account",
        Through.EVERYONE: "a statement for everyone",
    }[finding.through]
