"""The desired policy: the grant attached, everything else unchanged. Pure; knows no AWS SDK."""

import re
from collections.abc import Iterable, Sequence

from handler.policy_document import Policy, Statement, statements, strings

SID = "AllowPull"
PULL_ACTIONS = ("ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability")

# AllowPull, or AllowPull2, AllowPull3, ... where the Sid before is taken.
_OUR_SID = re.compile(rf"{SID}(?:[2-9]|[1-9][0-9]+)?")
# A deleted role or user appears in a stored policy as its unique id:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
_DELETED = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_PLAIN_ELEMENTS = {"Sid", "Effect", "Principal", "Action"}
_LOWER_CASE_PULL_ACTIONS = {action.lower() for action in PULL_ACTIONS}


def attach(
    policy: Policy | None,
    roles: Sequence[str],
    *,
    remove_unlisted: bool = False,
    remove_deleted: bool = False,
) -> Policy:
    """Plan the policy in which `AllowPull` grants every role the pull.

    Foreign statements, `Version` and `Id` stay as they are. A policy that already holds the grant
    is returned itself. Principals in our statements that are not among `roles` stay, unless one of the
    two flags removes them.

    Args:
        policy: the repository's policy, or None if it has none.
        roles: the ARNs of the worker roles, at least one.
        remove_unlisted: our statements hold exactly `roles`.
        remove_deleted: our statements hold no ids of deleted principals.
    """
    if policy is None:
        return {"Version": "2012-10-17", "Statement": [_statement(SID, roles)]}
    present = granted(policy)
    missing = [role for role in roles if role not in present]
    removed = deleted(present) if remove_deleted else frozenset[str]()
    if remove_unlisted:
        removed |= present - set(roles)
    if not missing and not removed:
        return policy

    kept: list[Statement] = []
    for statement in statements(policy):
        principals = _our_principals(statement)
        if principals is None:
            kept.append(statement)
            continue
        wanted = [principal for principal in principals if principal not in removed] + missing
        missing = []
        if wanted == principals:
            kept.append(statement)
        elif wanted:
            kept.append(statement | {"Principal": _principal(wanted)})
    if missing:
        kept.append(_statement(_free_sid(statements(policy)), missing))
    return policy | {"Statement": kept}


def granted(policy: Policy | None) -> frozenset[str]:
    """Return the principals in our statements."""
    return frozenset(
        principal for statement in statements(policy) for principal in _our_principals(statement) or ()
    )


def deleted(principals: Iterable[str]) -> frozenset[str]:
    """Return those principals that are ids of deleted roles or users."""
    return frozenset(filter(_DELETED.fullmatch, principals))


def foreign(policy: Policy | None) -> list[tuple[str, Statement]]:
    """Return the statements that are not ours, each with its label: its Sid or its number."""
    return [
        (f'"{sid}"' if isinstance(sid := statement.get("Sid"), str) else f"number {number}", statement)
        for number, statement in enumerate(statements(policy), start=1)
        if _our_principals(statement) is None
    ]


def _our_principals(statement: Statement) -> list[str] | None:
    """Return the principals of our statement, or None if the statement is foreign.

    Only a plain statement is ours. To extend one that allows more, or only under a condition, would
    grant more, or less, than a pull.
    """
    sid = statement.get("Sid")
    if not isinstance(sid, str) or not _OUR_SID.fullmatch(sid):
        return None
    if statement.keys() != _PLAIN_ELEMENTS or statement["Effect"] != "Allow":
        return None
    actions = strings(statement["Action"])
    if actions is None or {action.lower() for action in actions} != _LOWER_CASE_PULL_ACTIONS:
        return None
    principal = statement["Principal"]
    if not isinstance(principal, dict) or principal.keys() != {"AWS"}:
        return None
    principals = strings(principal["AWS"])
    # AWS may reduce a list with a wildcard to the wildcard: we would add the roles in every run.
    if principals is None or any("*" in name for name in principals):
        return None
    return principals


def _statement(sid: str, roles: Sequence[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Principal": _principal(roles), "Action": list(PULL_ACTIONS)}


def _principal(roles: Sequence[str]) -> dict[str, object]:
    return {"AWS": roles[0] if len(roles) == 1 else list(roles)}


def _free_sid(present: Iterable[Statement]) -> str:
    taken = {sid for statement in present if isinstance(sid := statement.get("Sid"), str)}
    number = 2
    sid = SID
    while sid in taken:
        sid = f"{SID}{number}"
        number += 1
    return sid
