"""The policy that should be: the grant attached, everything else untouched. Pure; knows no AWS SDK."""

import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import cast

type Statement = dict[str, object]
type Policy = dict[str, object]

SID = "AllowPull"
PULL_ACTIONS = ("ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability")
# `policyText` of SetRepositoryPolicy, from the ECR API reference.
MAX_CHARACTERS = 10_240

# AllowPull, or AllowPull2, AllowPull3, ... for where the name before was taken.
_OUR_SID = re.compile(rf"{SID}(?:[2-9]|[1-9][0-9]+)?")
# A role or user that was deleted shows in a stored policy as its unique id:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
_DELETED = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_POLICY_ELEMENTS = {"Version", "Id", "Statement"}
_PLAIN_ELEMENTS = {"Sid", "Effect", "Principal", "Action"}
_LOWER_CASE_PULL_ACTIONS = {action.lower() for action in PULL_ACTIONS}


class InvalidPolicy(ValueError):
    """A policy that cannot be understood, and so must not be rewritten."""


class PolicyTooLong(ValueError):
    """A policy that ECR would refuse for its length."""


def parse(text: str | None) -> Policy | None:
    """Read a repository's policy text; no text is no policy.

    Raises:
        InvalidPolicy: it is not a policy document; says what is wrong with it.
    """
    if text is None or not text.strip():
        return None
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_float=_exact)
        # What could not be written back as it was read is not touched: half characters, NaN, 1e999, ...
        _compact(document).encode()
    except InvalidPolicy:
        raise
    except (ValueError, RecursionError):
        raise InvalidPolicy("the repository's policy cannot be read, or not written back, as JSON") from None
    if not isinstance(document, dict):
        raise InvalidPolicy("the repository's policy is not a JSON object")
    if unknown := document.keys() - _POLICY_ELEMENTS:
        raise InvalidPolicy(f"the repository's policy has unknown elements: {', '.join(sorted(unknown))}")
    if not all(isinstance(statement, dict) for statement in _as_list(document.get("Statement"))):
        raise InvalidPolicy('"Statement" in the repository\'s policy is neither an object nor a list of them')
    return document


def render(policy: Policy) -> str:
    """Write a policy as compactly as JSON allows.

    Raises:
        PolicyTooLong: the text would pass ECR's limit; gives both sizes, in characters.
    """
    text = _compact(policy)
    if len(text) > MAX_CHARACTERS:
        raise PolicyTooLong(
            f"the policy with {SID} would have {len(text):,} characters and ECR allows {MAX_CHARACTERS:,}: "
            "shorten the other statements, for example by joining those that allow the same actions"
        )
    return text


def attach(
    policy: Policy | None,
    roles: Sequence[str],
    *,
    remove_unlisted: bool = False,
    remove_deleted: bool = False,
) -> Policy:
    """Work out the policy in which `AllowPull` lets every role pull.

    Foreign statements, `Version` and `Id` stay as they are. A policy that already holds the grant
    is given back itself. Principals in our statement that are not among `roles` stay in it, with two
    exceptions.

    Args:
        policy: the repository's policy, or None if it has none.
        roles: the ARNs of the worker roles, at least one.
        remove_unlisted: our statement is to hold exactly `roles`.
        remove_deleted: our statement is to hold no ids of deleted principals.
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
    """Tell which principals our statement lets pull."""
    return frozenset(
        principal for statement in statements(policy) for principal in _our_principals(statement) or ()
    )


def deleted(principals: Iterable[str]) -> frozenset[str]:
    """Tell which principals are ids of roles or users that were deleted."""
    return frozenset(filter(_DELETED.fullmatch, principals))


def foreign(policy: Policy | None) -> list[tuple[str, Statement]]:
    """Give the statements that are not ours, each with what to call it: its Sid or its number."""
    return [
        (f'"{sid}"' if isinstance(sid := statement.get("Sid"), str) else f"number {number}", statement)
        for number, statement in enumerate(statements(policy), start=1)
        if _our_principals(statement) is None
    ]


def statements(policy: Policy | None) -> list[Statement]:
    """Give a policy's statements, which it may hold as a list or as one object."""
    return cast("list[Statement]", _as_list((policy or {}).get("Statement", [])))


def strings(value: object) -> list[str] | None:
    """Read what a policy may write as one string or as a list of them; None if it is neither."""
    values = _as_list(value)
    texts = [item for item in values if isinstance(item, str)]
    return texts if texts and len(texts) == len(values) else None


def _our_principals(statement: Statement) -> list[str] | None:
    """Tell whom our statement names, or None if the statement is foreign.

    Only a plain statement is ours: to extend one that allows more, or only on a condition, would
    hand out more, or less, than a pull.
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
    # A wildcard may swallow the roles beside it when AWS normalises the list: we would add them forever.
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


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a JSON object, and lose none of two values that share a key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise InvalidPolicy("the repository's policy has an object with the same key twice")
    return made


def _exact(text: str) -> float:
    number = float(text)
    if Decimal(repr(number)) != Decimal(text):
        raise InvalidPolicy(f"the repository's policy holds {text}, which cannot be written back as it is")
    return number


def _compact(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
