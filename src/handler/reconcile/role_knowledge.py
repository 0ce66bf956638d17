"""What an invocation has proved about the configured roles: which exist, and which do not."""

import threading
from collections.abc import Iterable

# In every third repository whose rejections prove nothing, one write obtains a proof.
_UNPROVED_REJECTIONS = 3


class RoleKnowledge:
    """Proofs that the threads of an invocation share. The sets that it returns never change."""

    def __init__(self) -> None:
        """Start with nothing proved."""
        self._lock = threading.Lock()
        self._existing: frozenset[str] = frozenset()
        self._missing: frozenset[str] = frozenset()
        self._deleted_ids_rejected = False
        self._unproved = 0

    @property
    def existing(self) -> frozenset[str]:
        """The roles that ECR accepted, or that a stored policy shows by their ARN."""
        return self._existing

    @property
    def missing(self) -> frozenset[str]:
        """The roles that are proved not to exist: no further repository needs an attempt with them."""
        return self._missing

    @property
    def deleted_ids_rejected(self) -> bool:
        """Whether ECR is proved to reject a policy for the id of a deleted principal."""
        return self._deleted_ids_rejected

    def record_existing(self, roles: Iterable[str]) -> None:
        """Record that the roles exist. That outweighs every earlier and later proof of the opposite."""
        with self._lock:
            self._existing = self._existing.union(roles)
            self._missing -= self._existing

    def record_missing(self, roles: Iterable[str]) -> None:
        """Record roles that are proved not to exist (see `rejections.proved_missing`)."""
        with self._lock:
            self._missing = self._missing.union(roles) - self._existing

    def record_deleted_ids_rejected(self) -> None:
        """Record that ECR accepted a policy without ids of deleted principals, and rejects it with them."""
        self._deleted_ids_rejected = True

    def count_unproved_rejection(self) -> bool:
        """Count a repository whose rejection proves nothing; return whether it is time to obtain a proof."""
        with self._lock:
            self._unproved += 1
            return self._unproved % _UNPROVED_REJECTIONS == 0
