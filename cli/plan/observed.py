"""The function's registry, which also keeps the policies that the sweep reads, until they were looked at."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cli.plan.today import RegistrySide
from handler.ecr.registry import Registry
from handler.policy.document import InvalidPolicy, parse

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

    from handler.policy.document import Policy


class ObservedRegistry(Registry):
    """Keeps each policy that it reads. Threads may share it.

    Attributes:
        side: the registry's own policy, as far as it was read.
    """

    def __init__(self, client: ECRClient) -> None:
        """Use an ECR client."""
        super().__init__(client)
        self.side = RegistrySide()
        self._texts: dict[str, str | None] = {}
        self._registry_text: str | None = None

    @property
    def has_registry_policy(self) -> bool:
        """Whether the registry has a policy."""
        return self._registry_text is not None

    def get_policy(self, name: str) -> str | None:
        """Read the text of a repository's policy, and keep it."""
        text = super().get_policy(name)
        self._texts[name] = text
        return text

    def get_registry_policy(self) -> str | None:
        """Read the text of the registry's own policy, and keep it."""
        self._registry_text = super().get_registry_policy()
        return self._registry_text

    def observe_registry_side(self, arn_prefix: str, scope: str) -> None:
        """Remember what the registry's own policy means."""
        with suppress(InvalidPolicy):
            self.side = RegistrySide(parse(self._registry_text), scope, arn_prefix)

    def forget(self, name: str) -> Policy | None:
        """Return the policy of a repository, and keep it no longer. The sweep has parsed it before."""
        with suppress(InvalidPolicy):
            return parse(self._texts.pop(name, None))
        return None
