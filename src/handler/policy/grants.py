"""The grants: which roles are allowed which actions, by a statement of which Sid. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

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


class Entry(NamedTuple):
    """A principal in our statement of a grant."""

    sid: str
    principal: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The roles that are allowed the actions of a Sid in a repository; none if it does not apply."""

    sid: str
    roles: tuple[str, ...]

    def entries(self) -> frozenset[Entry]:
        """Return an entry for each role."""
        return frozenset(Entry(self.sid, role) for role in self.roles)

    def limited_to(self, roles: Collection[str], entries: Collection[Entry]) -> Self:
        """Return the grant for those of its roles that are listed or have an entry."""
        kept = (role for role in self.roles if role in roles or Entry(self.sid, role) in entries)
        return replace(self, roles=tuple(kept))

    def missing_from(self, entries: Collection[Entry]) -> Self:
        """Return the grant for those of its roles that have no entry."""
        return replace(self, roles=tuple(role for role in self.roles if Entry(self.sid, role) not in entries))


def roles_of(grants: Collection[Grant]) -> tuple[str, ...]:
    """Return the roles of all grants, each once, in their order."""
    return tuple(dict.fromkeys(role for grant in grants for role in grant.roles))
