"""The desired policy: the grants attached, everything else unchanged. Pure; knows no AWS SDK."""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence

from handler.policy.grants import ACTIONS, Entry, Grant
from handler.policy.document import Policy, Statement, statements, strings

# The Sid of a grant, or the same with a number from 2 on where the Sids before are taken.
_OUR_SID = re.compile(rf"(?P<grant>{'|'.join(ACTIONS)})(?:[2-9]|[1-9][0-9]+)?")
# A deleted role or user appears in a stored policy as its unique id:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
_DELETED = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_PLAIN_ELEMENTS = {"Sid", "Effect", "Principal", "Action"}
_LOWER_CASE_ACTIONS = {sid: {action.lower() for action in actions} for sid, actions in ACTIONS.items()}


def attach(
    policy: Policy | None,
    grants: Sequence[Grant],
    *,
    remove_unlisted: Collection[str] = (),
    remove_deleted: bool = False,
) -> Policy | None:
    """Plan the policy in which our statements allow every role of every grant its actions.

    Foreign statements, `Version` and `Id` stay as they are. A policy that already holds the grants is
    returned itself. Principals in our statements that no grant lists stay, unless they are to be removed.

    Args:
        policy: the repository's policy, or None if it has none.
        grants: the grants, each Sid at most once.
        remove_unlisted: the Sids of the grants whose statements hold exactly the grant's roles.
        remove_deleted: our statements hold no ids of deleted principals.
    """
    entries = entries_of(policy)
    missing = {
        grant.sid: [role for role in grant.roles if Entry(grant.sid, role) not in entries] for grant in grants
    }
    listed = frozenset(entry for grant in grants for entry in grant.entries())
    removed = {entry for entry in entries - listed if entry.sid in remove_unlisted}
    if remove_deleted:
        removed |= deleted(entries)
    if not any(missing.values()) and not removed:
        return policy

    kept: list[Statement] = []
    for statement in statements(policy):
        ours = _ours(statement)
        if ours is None:
            kept.append(statement)
            continue
        sid, principals = ours
        kept_principals = [name for name in principals if Entry(sid, name) not in removed]
        kept_principals += missing.pop(sid, [])  # the first of our statements gains the missing roles
        if kept_principals == principals:
            kept.append(statement)
        elif kept_principals:
            kept.append(statement | {"Principal": _principal(kept_principals)})
    taken = {str(statement.get("Sid")) for statement in statements(policy)}
    kept += [_statement(_free_sid(sid, taken), sid, roles) for sid, roles in missing.items() if roles]
    return (policy or {"Version": "2012-10-17"}) | {"Statement": kept}


def entries_of(policy: Policy | None) -> frozenset[Entry]:
    """Return the entries of our statements: the principals of each grant."""
    return frozenset(
        Entry(ours[0], principal)
        for statement in statements(policy)
        if (ours := _ours(statement))
        for principal in ours[1]
    )


def deleted(entries: Iterable[Entry]) -> frozenset[Entry]:
    """Return those entries whose principal is the id of a deleted role or user."""
    return frozenset(entry for entry in entries if is_deleted(entry.principal))


def is_deleted(principal: str) -> bool:
    """Return whether a principal is the id of a deleted role or user."""
    return _DELETED.fullmatch(principal) is not None


def foreign(policy: Policy | None) -> list[tuple[str, Statement]]:
    """Return the statements that are not ours, each with its label: its Sid or its number."""
    return [
        (f'"{sid}"' if isinstance(sid := statement.get("Sid"), str) else f"number {number}", statement)
        for number, statement in enumerate(statements(policy), start=1)
        if _ours(statement) is None
    ]


def _ours(statement: Statement) -> tuple[str, list[str]] | None:
    """Return the grant and the principals of our statement, or None if the statement is foreign.

    Only a plain statement is ours. To extend one that allows more, or only under a condition, would
    grant more, or less, than the grant.
    """
    sid = statement.get("Sid")
    match = _OUR_SID.fullmatch(sid) if isinstance(sid, str) else None
    if not match or statement.keys() != _PLAIN_ELEMENTS or statement["Effect"] != "Allow":
        return None
    actions = strings(statement["Action"])
    if actions is None or {action.lower() for action in actions} != _LOWER_CASE_ACTIONS[match["grant"]]:
        return None
    principal = statement["Principal"]
    if not isinstance(principal, dict) or principal.keys() != {"AWS"}:
        return None
    principals = strings(principal["AWS"])
    # AWS may reduce a list with a wildcard to the wildcard: we would add the roles in every run.
    if principals is None or any("*" in name for name in principals):
        return None
    return match["grant"], principals


def _statement(sid: str, grant: str, roles: Sequence[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Principal": _principal(roles), "Action": list(ACTIONS[grant])}


def _principal(roles: Sequence[str]) -> dict[str, object]:
    return {"AWS": roles[0] if len(roles) == 1 else list(roles)}


def _free_sid(sid: str, taken: Collection[str]) -> str:
    candidates = itertools.chain([sid], (f"{sid}{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
