"""What is known about a pull from both sides, and what could not be read. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.access import Decision, Role
    from cli.diagnose.image import Image
    from handler.policy.document import Policy

TOKEN = "ecr:GetAuthorizationToken"  # noqa: S105 - an action
# In the order in which a runtime calls them.
PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
OPTIONAL = "ecr:BatchCheckLayerAvailability"
IMPORT, CREATE = "ecr:BatchImportUpstreamImage", "ecr:CreateRepository"


@dataclass(frozen=True, slots=True)
class Unknown:
    """What could not be read, and why."""

    reason: str


class ImageState(StrEnum):
    """Whether the image can be pulled, apart from permissions."""

    ACTIVE = auto()
    ARCHIVED = auto()
    ACTIVATING = auto()
    MISSING = auto()


@dataclass(frozen=True, slots=True)
class CacheRule:
    """A pull-through cache rule whose prefix the repository has.

    Attributes:
        prefix: the prefix of the repositories.
        upstream: the upstream registry.
        template_policy: the policy that ECR gives to a repository that the cache creates, or None.
    """

    prefix: str
    upstream: str
    template_policy: Policy | Unknown | None = None


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """The registry's side.

    Attributes:
        repository_exists: whether the repository exists in the region.
        other_regions: the regions that were searched and have the repository.
        image: the state of the image.
        policy: the repository's policy.
        registry_policy: the registry's own policy.
        scope: the scope of the registry's own policy.
        cache_rule: the rule behind the repository's prefix.
    """

    repository_exists: bool | Unknown = True
    other_regions: tuple[str, ...] = ()
    image: ImageState | Unknown = ImageState.ACTIVE
    policy: Policy | Unknown | None = None
    registry_policy: Policy | Unknown | None = None
    scope: str | Unknown = "V2"
    cache_rule: CacheRule | Unknown | None = None


@dataclass(frozen=True, slots=True)
class Simulated:
    """The answer of IAM's simulation for one action.

    Attributes:
        decision: what the role's own side decides.
        reason: which policy decides, or the condition keys whose values are not known.
    """

    decision: Decision
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """The role's side, read with credentials of the role's account.

    Attributes:
        found_arn: the ARN of the role with that name; None if there is none.
        simulated: the answers by action.
    """

    found_arn: str | Unknown | None
    simulated: Mapping[str, Simulated] | Unknown = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known about a pull.

    Attributes:
        image: the image, with its registry.
        role: the role that pulls.
        registry: the registry's side.
        role_side: the role's side; None without credentials of the role's account.
        role_command: the command for the role's side, if that is not known.
        completed: whether the address was given without a registry.
    """

    image: Image
    role: Role
    registry: RegistryFacts
    role_side: RoleFacts | None = None
    role_command: str = ""
    completed: bool = False

    @property
    def is_same_account(self) -> bool:
        """Whether the role and the registry are in one account."""
        return self.role.account == self.image.account

    @property
    def repository_arn(self) -> str:
        """The ARN of the repository."""
        image = self.image
        return f"arn:{self.role.partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"

    @property
    def creates_repository(self) -> bool:
        """Whether the pull would make the cache create the repository."""
        return self.registry.repository_exists is False and isinstance(self.registry.cache_rule, CacheRule)

    @property
    def imports(self) -> bool:
        """Whether the pull would make the cache import the image."""
        missing = self.registry.image is ImageState.MISSING or self.creates_repository
        return missing and isinstance(self.registry.cache_rule, CacheRule)

    @property
    def needed(self) -> tuple[str, ...]:
        """The actions without which this pull fails, apart from the token."""
        return (
            *PULL,
            *((IMPORT,) if self.imports else ()),
            *((CREATE,) if self.creates_repository else ()),
        )
