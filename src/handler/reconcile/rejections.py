"""What follows from a policy that ECR rejects as a whole: which roles are missing, and the reason. Pure.

ECR rejects a policy for one principal that does not exist, and does not say which. A role is proved to be
missing if ECR rejects a policy that holds the role, and one of these is true: that policy holds nothing else;
or ECR accepts a policy with the same foreign statements and at least the same other entries, but without the
role.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from handler.policy.denials import canonical_form, deleted_principals
from handler.policy.grants import Entry
from handler.policy.plan import deleted, entries_of
from handler.policy.document import Policy, PolicyTooLong


@dataclass(frozen=True, slots=True)
class Contents:
    """What a policy holds, in a form that compares by meaning. Ids of deleted principals do not count."""

    statements: object
    entries: frozenset[Entry]

    def __bool__(self) -> bool:
        """Return whether there is anything."""
        return bool(self.statements or self.entries)

    def is_part_of(self, other: "Contents") -> bool:
        """Return whether the foreign statements are the same, and the other has at least these entries."""
        return self.statements == other.statements and self.entries <= other.entries


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why ECR rejects the policy with a role, and what else was in that policy."""

    cause: Exception
    others: Contents

    @property
    def too_long(self) -> bool:
        """Return whether the policy exceeds ECR's maximum length."""
        return isinstance(self.cause, PolicyTooLong)


def contents(policy: Policy | None, without: Collection[str] = ()) -> Contents:
    """Return the foreign statements, and the entries of ours `without` those of these roles."""
    entries = entries_of(policy)
    entries -= deleted(entries)
    return Contents(
        canonical_form(policy), frozenset(entry for entry in entries if entry.principal not in without)
    )


def proved_missing(rejections: Mapping[str, Rejection], accepted: Contents | None) -> set[str]:
    """Return the roles that are proved not to exist.

    Args:
        rejections: the last rejection of each role.
        accepted: the contents of the policy that ECR accepted last, if any.
    """
    return {
        role
        for role, rejection in rejections.items()
        if not rejection.too_long
        and (not rejection.others or (accepted is not None and rejection.others.is_part_of(accepted)))
    }


def rejection_reason(
    policy: Policy | None, rejections: Mapping[str, Rejection], existing: Collection[str]
) -> str:
    """Return why a repository lacks roles that are not proved to be missing.

    Args:
        policy: the repository's policy.
        rejections: the last rejection of each of these roles.
        existing: the roles that exist; ECR must have rejected the policy for another principal.
    """
    too_long = {role: each for role, each in rejections.items() if each.too_long}
    rejected = {role: each for role, each in rejections.items() if not each.too_long}
    reasons = [f"No space for {_join(too_long)}: {_cause(too_long)}"] if too_long else []
    if rejected:
        reasons.append(f"{_cause(rejected)}. {principal_hint(policy, rejected.keys() - set(existing))}")
    return ". ".join(reasons)


def principal_hint(policy: Policy | None, doubtful: Collection[str] = ()) -> str:
    """Return how to find the principal for which ECR rejects a policy.

    Args:
        policy: the repository's policy.
        doubtful: the worker roles that may be that principal.
    """
    if foreign := deleted_principals(policy):
        hint = (
            f"A principal in a foreign statement was deleted: {'; '.join(foreign)}. Ask the owner of the "
            "statement to remove the principal: the function does not change foreign statements"
        )
    else:
        hint = (
            "Find the principal in the repository's policy that no longer exists, or the part of a foreign "
            "statement that ECR does not accept"
        )
    if not doubtful:
        return hint
    return (
        f"Does the role {_join(doubtful)} exist? If not: Create it, or take it out of WorkerRoleArns or "
        f"DescribeRoleArns. If so: {hint}"
    )


def _cause(rejections: Mapping[str, Rejection]) -> str:
    return str(next(iter(rejections.values())).cause)


def _join(roles: Iterable[str]) -> str:
    return ", ".join(sorted(roles))
