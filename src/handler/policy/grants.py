"""The grants: which roles are allowed which actions, by a statement of which Sid."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

PULL = "AllowPull"
DESCRIBE_IMAGES = "AllowDescribeImages"
PULL_THROUGH_CACHE = "AllowPullThroughCache"

# The actions of each Sid, in the order in which they are written.
ACTIONS = {
    PULL: ("ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"),
    DESCRIBE_IMAGES: ("ecr:DescribeImages",),
    PULL_THROUGH_CACHE: ("ecr:BatchImportUpstreamImage",),
}
# What docker and containerd call to pull. BatchCheckLayerAvailability is optional: AWS's managed policy
# AmazonEC2ContainerRegistryPullOnly does without it.
REQUIRED_PULL_ACTIONS = frozenset({"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"})

# Principals without the name of a person: accounts, roles, and the ids of deleted roles and users.
_IMPERSONAL = re.compile(r"[0-9]{12}|A[A-Z0-9]{15,}|arn:[^:]+:iam::[0-9]{12}:(?:root|role/[!-~]+)")
_PERSONAL = re.compile(r"arn:[^:]+:(?:iam|sts)::(?P<account>[0-9]{12}):(?P<kind>[a-z-]+)/.+")
_KINDS = {"user": "a user", "assumed-role": "a session", "federated-user": "a federated user"}


class Grantee(NamedTuple):
    """A principal in our statement of a grant."""

    sid: str
    principal: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The roles that are allowed the actions of a Sid in a repository; none if it does not apply."""

    sid: str
    roles: tuple[str, ...]


def grantees(grants: Iterable[Grant]) -> tuple[Grantee, ...]:
    """Return a grantee for each role of each grant, in their order."""
    return tuple(Grantee(grant.sid, role) for grant in grants for role in grant.roles)


def principals(grantees: Iterable[Grantee]) -> tuple[str, ...]:
    """Return the principals of the grantees, each once, in their order."""
    return tuple(dict.fromkeys(grantee.principal for grantee in grantees))


def by_grant(grantees: Iterable[Grantee]) -> dict[str, list[str]]:
    """Return the principals by the Sid of their grant, in alphabetical order, for the log and the report.

    Names of users and sessions are often email addresses. Of these principals, only the account is shown.
    """
    grouped: dict[str, list[str]] = {}
    for grantee in sorted(grantees):
        grouped.setdefault(grantee.sid, []).append(_without_personal_name(grantee.principal))
    return grouped


def _without_personal_name(principal: str) -> str:
    if _IMPERSONAL.fullmatch(principal):
        return principal
    match = _PERSONAL.fullmatch(principal)
    kind = match and _KINDS.get(match["kind"])
    return f"{kind} of account {match['account']}" if match and kind else "another principal"
