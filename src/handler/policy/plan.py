"""The plan: the policy that a repository should have, with the grants and everything else unchanged."""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from handler.policy.document import MAX_CHARACTERS, Policy, Statement, render, statements, strings
from handler.policy.grants import ACTIONS, Grant, Grantee, grantees, principals

# The Sid of a grant, or the same with a number from 2 on where the Sids before are taken.
_OUR_SID = re.compile(rf"(?P<grant>{'|'.join(ACTIONS)})(?:[2-9]|[1-9][0-9]+)?")
# A deleted role or user appears in a stored policy as its unique id:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
_DELETED = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_PLAIN_ELEMENTS = {"Sid", "Effect", "Principal", "Action"}
_LOWER_CASE_ACTIONS = {sid: {action.lower() for action in actions} for sid, actions in ACTIONS.items()}


@dataclass(frozen=True, slots=True)
class Plan:
    """The policy that a repository should have.

    Attributes:
        policy: the planned policy; the very object of the current policy if nothing is to change.
        added: the grantees that it adds.
        removed: the grantees that it removes.
        not_removed: the Sids that keep unlisted grantees although these are to be removed, because no
            configured role of the grant exists.
        unfit: the grantees that it lacks because the policy would be too long.
        length: the characters of the policy with everything, if that is too long for ECR; otherwise 0.
    """

    policy: Policy | None
    added: frozenset[Grantee] = frozenset()
    removed: frozenset[Grantee] = frozenset()
    not_removed: tuple[str, ...] = ()
    unfit: tuple[Grantee, ...] = ()
    length: int = 0

    @property
    def length_error(self) -> str:
        """What is not done because the policy would be too long; empty if it is not."""
        if not self.length:
            return ""
        what = f"no space for {', '.join(principals(self.unfit))}" if self.unfit else "nothing removed"
        return (
            f"{what}: the policy would have {self.length:,} characters and ECR allows {MAX_CHARACTERS:,}: "
            "shorten the other statements, for example by merging those that allow the same actions"
        )


def plan(
    current: Policy | None,
    grants: Sequence[Grant],
    *,
    missing: Collection[str] = (),
    remove_unlisted: bool = False,
) -> Plan:
    """Plan the policy in which our statements allow every role of every grant its actions.

    Foreign statements, `Version` and `Id` stay. Principals in our statements that no grant lists stay too,
    with one exception: wherever anything else changes, the ids of deleted principals go. They never match
    anybody again, and whoever edits such a policy must remove them:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html

    Args:
        current: the repository's policy, or None if it has none.
        grants: the grants, each Sid at most once.
        missing: the roles that are not added, because they do not exist.
        remove_unlisted: our statements hold exactly the grants' roles. A grant of which every role is missing
            keeps its principals.
    """
    present, listed = grantees_of(current), grantees(grants)
    wanted = [each for each in listed if each not in present and each.principal not in missing]
    unlisted = present.difference(listed) if remove_unlisted else frozenset[Grantee]()
    sids_with_a_role = {each.sid for each in listed if each in present or each.principal not in missing}
    sids_without_any = {grant.sid for grant in grants if grant.roles} - sids_with_a_role
    # An id of a deleted principal gives no access, so it may stay.
    kept = {sid for sid, name in unlisted if sid in sids_without_any and not is_deleted(name)}
    unlisted = frozenset(each for each in unlisted if each.sid not in sids_without_any)
    if not wanted and not unlisted:
        return Plan(current, not_removed=tuple(sorted(kept)))
    removed = unlisted | {each for each in present if is_deleted(each.principal)}
    length = len(render(_edited(current, wanted, removed)))
    fitting = wanted if length <= MAX_CHARACTERS else _fitting(current, wanted, removed)
    unfit = tuple(each for each in wanted if each not in fitting)
    excess = length if length > MAX_CHARACTERS else 0
    planned = _edited(current, fitting, removed)
    # ECR takes no policy without statements, and to delete a policy is another permission.
    if not statements(planned):
        kept |= {sid for sid, name in unlisted if not is_deleted(name)}
    if not statements(planned) or not (fitting or unlisted) or len(render(planned)) > MAX_CHARACTERS:
        return Plan(current, not_removed=tuple(sorted(kept)), unfit=unfit, length=excess)
    return Plan(planned, frozenset(fitting), removed, tuple(sorted(kept)), unfit, excess)


def policy_with(grantee: Grantee) -> Policy:
    """Return the policy with one grantee and nothing else."""
    return _edited(None, [grantee], ())


def plan_removal(current: Policy | None, roles: Collection[str], *, remove_unlisted: bool = False) -> Plan:
    """Plan the policy in which our statements name none of the roles, and no deleted principal.

    Args:
        current: the repository's policy, or None if it has none.
        roles: the configured roles.
        remove_unlisted: our statements go with all their principals.

    Returns:
        The plan. Its policy is None if nothing would be left: then the policy is to be deleted.
    """
    removed = frozenset(
        each
        for each in grantees_of(current)
        if remove_unlisted or each.principal in roles or is_deleted(each.principal)
    )
    if not removed:
        return Plan(current)
    planned = _edited(current, (), removed)
    if (length := len(render(planned))) > MAX_CHARACTERS:  # ECR counts a stored text that it wrote otherwise
        return Plan(current, length=length)
    return Plan(planned if statements(planned) else None, removed=removed)


def grantees_of(policy: Policy | None) -> frozenset[Grantee]:
    """Return the grantees of our statements."""
    return frozenset(
        Grantee(ours[0], principal)
        for statement in statements(policy)
        if (ours := _ours(statement))
        for principal in ours[1]
    )


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


def _fitting(policy: Policy | None, wanted: Iterable[Grantee], removed: Collection[Grantee]) -> list[Grantee]:
    """Return the grantees that can be added before the policy is too long: each in its turn, if it fits."""
    fitting: list[Grantee] = []
    for each in wanted:
        if len(render(_edited(policy, [*fitting, each], removed))) <= MAX_CHARACTERS:
            fitting.append(each)
    return fitting


def _edited(policy: Policy | None, added: Iterable[Grantee], removed: Collection[Grantee]) -> Policy:
    """Return the policy with grantees added to our statements, and others removed from them."""
    new: dict[str, list[str]] = {}
    for sid, role in added:
        new.setdefault(sid, []).append(role)
    kept: list[Statement] = []
    for statement in statements(policy):
        ours = _ours(statement)
        if ours is None:
            kept.append(statement)
            continue
        sid, principals = ours
        left = [name for name in principals if Grantee(sid, name) not in removed]
        if left:  # the first of our statements that stays gains the new roles
            left += new.pop(sid, [])
        if left == principals:
            kept.append(statement)
        elif left:
            kept.append(statement | {"Principal": _principal(left)})
    taken = {str(statement.get("Sid")) for statement in kept}
    kept += [_statement(_free_sid(sid, taken), sid, roles) for sid, roles in new.items()]
    return (policy or {"Version": "2012-10-17"}) | {"Statement": kept}


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
