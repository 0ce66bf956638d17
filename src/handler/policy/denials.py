"""Foreign statements: which deny the grant, and which may make ECR reject the policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from handler.policy.document import Policy, Statement, strings
from handler.policy.grants import ACTIONS, REQUIRED_PULL_ACTIONS, Grant
from handler.policy.plan import foreign, is_deleted

# A policy can hold a hundred denials, and the response has a maximum size.
_MAX_DENIALS = 10


@dataclass(frozen=True, slots=True)
class Denial:
    """A foreign statement that denies roles actions of a grant, always or under its condition.

    Attributes:
        statement: its Sid in quotes, or its number.
        grant: the Sid of the grant.
        roles: the roles of the grant that it denies.
        actions: the actions of the grant that it denies.
        conditional: whether it has a condition.
    """

    statement: str
    grant: str
    roles: tuple[str, ...]
    actions: tuple[str, ...]
    conditional: bool

    @property
    def refuses_pull(self) -> bool:
        """Whether pulls fail. Container runtimes do without BatchCheckLayerAvailability."""
        return not REQUIRED_PULL_ACTIONS.isdisjoint(self.actions)


def denials(policy: Policy | None, grants: Sequence[Grant]) -> tuple[Denial, ...]:
    """Find the foreign statements that deny roles of the grants any of their actions.

    The rules are those of the IAM user guide, "IAM JSON policy elements". A condition is not evaluated,
    and a statement that denies a single session of a role is not found.
    """
    return tuple(
        Denial(name, grant.sid, roles, actions, conditional=bool(statement.get("Condition")))
        for name, statement in foreign(policy)
        if statement.get("Effect") == "Deny"
        for grant in grants
        if (actions := tuple(action for action in ACTIONS[grant.sid] if covers(statement, action)))
        if (roles := tuple(role for role in grant.roles if applies_to(statement, role)))
    )


def denials_details(denials: Sequence[Denial]) -> dict[str, object]:
    """Return denials for the report, as many as it takes for one policy."""
    return {
        "denied_by": [_denial_details(denial) for denial in denials[:_MAX_DENIALS]],
        "denied_by_more": len(denials[_MAX_DENIALS:]),
    }


def _denial_details(denial: Denial) -> dict[str, object]:
    details = {
        "statement": denial.statement,
        "grant": denial.grant,
        "roles": list(denial.roles),
        "actions": list(denial.actions),
        "conditional": denial.conditional,
    }
    return {key: value for key, value in details.items() if value}


def deleted_principals(policy: Policy | None) -> list[str]:
    """Describe the foreign statements that name deleted principals, each with the ids."""
    return [
        f"statement {name} names {', '.join(sorted(gone))}"
        for name, statement in foreign(policy)
        if (gone := {name for name in _aws_principals(statement) if is_deleted(name)})
    ]


def rejection_hint(policy: Policy | None) -> str:
    """Return how to find the principal for which ECR rejects a policy, if it is no configured role."""
    if named := deleted_principals(policy):
        return (
            f"A principal in a foreign statement was deleted: {'; '.join(named)}. Ask the owner of the "
            "statement to remove the principal: the function does not change foreign statements"
        )
    return (
        "Find the principal in the repository's policy that no longer exists, or the part of a foreign "
        "statement that ECR does not accept"
    )


def covers(statement: Statement, action: str) -> bool:
    """Return whether the statement applies to the action, by its name, a wildcard or `NotAction`."""
    if "NotAction" in statement:
        return not _matches(statement["NotAction"], action)
    return _matches(statement.get("Action"), action)


def _matches(actions: object, action: str) -> bool:
    # Brackets are a wildcard for fnmatch, but not in an AWS policy.
    globs = (glob.lower().replace("[", "[[]") for glob in strings(actions) or ())
    return any(fnmatchcase(action.lower(), glob) for glob in globs)


def applies_to(statement: Statement, role: str) -> bool:
    """Return whether the statement applies to the role, by the role, its account or `NotPrincipal`.

    A `NotPrincipal` also denies every role with a permissions boundary, which is not known here.
    """
    _, partition, _, _, account, _ = role.split(":", 5)
    whole_account = {account, f"arn:{partition}:iam::{account}:root"}
    named = set(_aws_principals(statement))
    if "NotPrincipal" in statement:
        # AWS evaluates the account first: an exception needs both it and the role.
        return "*" not in named and not (role in named and named & whole_account)
    return not named.isdisjoint({"*", role} | whole_account)


def _aws_principals(statement: Statement) -> list[str]:
    element = statement.get("Principal", statement.get("NotPrincipal"))
    if element == "*":
        return ["*"]
    return (strings(element.get("AWS")) or []) if isinstance(element, dict) else []
