"""What the statements of others do to the grant: they may deny it, or make ECR refuse it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from handler.policy import PULL_ACTIONS, Policy, Statement, deleted, foreign, strings


@dataclass(frozen=True, slots=True)
class Denial:
    """A statement that denies worker roles a pull, always or on its condition."""

    statement: str
    roles: tuple[str, ...]
    conditional: bool


def denials(policy: Policy | None, roles: Sequence[str]) -> tuple[Denial, ...]:
    """Tell which statements deny which of the roles any of the three pull actions.

    The rules are those of the IAM user guide, "IAM JSON policy elements". A condition is not weighed,
    and a statement that denies a single session of a role is not found.
    """
    return tuple(
        Denial(name, denied, conditional=bool(statement.get("Condition")))
        for name, statement in foreign(policy)
        if statement.get("Effect") == "Deny" and _covers_a_pull(statement)
        if (denied := tuple(role for role in roles if _names(statement, role)))
    )


def deleted_principals(policy: Policy | None) -> list[str]:
    """Tell which statements of others name principals that were deleted, and by which ids."""
    return [
        f"statement {name} names {', '.join(sorted(gone))}"
        for name, statement in foreign(policy)
        if (gone := deleted(_aws_principals(statement)))
    ]


def meaning(policy: Policy | None) -> object:
    """Give something that is equal for policies whose foreign statements differ in form and order alone."""
    return _in_any_order([statement for _, statement in foreign(policy)])


def _in_any_order(value: object) -> object:
    if isinstance(value, dict):
        return frozenset((key, _in_any_order(item)) for key, item in value.items())
    # ECR gives one item back as itself, and several in an order that changes.
    return frozenset(map(_in_any_order, value)) if isinstance(value, list) else frozenset([value])


def names_nobody_who_may_be_gone(policy: Policy | None) -> bool:
    """Whether no statement of others names anybody who may not exist any more.

    A role or user that exists shows by its ARN, and one that was deleted by its id. Of accounts and
    identity providers nothing shows that they were closed.
    """
    return all(_is_safe(statement) for _, statement in foreign(policy))


def _is_safe(statement: Statement) -> bool:
    element = statement.get("Principal", statement.get("NotPrincipal"))
    if isinstance(element, dict) and not element.keys() <= {"AWS", "Service"}:
        return False
    return all(name == "*" or ":role/" in name or ":user/" in name for name in _aws_principals(statement))


def _covers_a_pull(statement: Statement) -> bool:
    if "NotAction" in statement:
        return any(not _matches(statement["NotAction"], action) for action in PULL_ACTIONS)
    return any(_matches(statement.get("Action"), action) for action in PULL_ACTIONS)


def _matches(actions: object, action: str) -> bool:
    # Brackets are a wildcard to fnmatch, and to no AWS policy.
    globs = (glob.lower().replace("[", "[[]") for glob in strings(actions) or ())
    return any(fnmatchcase(action.lower(), glob) for glob in globs)


def _names(statement: Statement, role: str) -> bool:
    _, partition, _, _, account, _ = role.split(":")
    whole_account = {account, f"arn:{partition}:iam::{account}:root"}
    named = set(_aws_principals(statement))
    if "NotPrincipal" in statement:
        # AWS weighs the account first: an exception needs both it and the role.
        return "*" not in named and not (role in named and named & whole_account)
    return not named.isdisjoint({"*", role} | whole_account)


def _aws_principals(statement: Statement) -> list[str]:
    element = statement.get("Principal", statement.get("NotPrincipal"))
    if element == "*":
        return ["*"]
    return (strings(element.get("AWS", [])) or []) if isinstance(element, dict) else []
