"""The policy writer: one read-plan-write on one repository, retried as a whole, and what it changed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from handler.policy.grants import Entry, Grant, roles_of
from handler.policy.plan import deleted, entries_of
from handler.policy.document import Policy, PolicyTooLong, parse, render
from handler.ecr.registry import (
    PolicyRejected,
    Registry,
    RepositoryNotFound,
    Throttled,
    Unavailable,
)
from handler.reconcile.rejections import Contents, Rejection, contents
from handler.ecr.retry import Deadline, retry_with_backoff
from handler.reconcile.role_knowledge import RoleKnowledge
from handler.settings import Settings

type Plan = Callable[[Policy | None], Policy | None]


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What the reconciliations of a sweep share.

    Attributes:
        settings: the desired state.
        registry: where the repositories are.
        deadline: no further attempt starts after it.
        dry_run: write nothing.
        may_be_new: a repository that ECR does not find may appear within seconds.
        knowledge: what is proved about the roles.
    """

    settings: Settings
    registry: Registry
    deadline: Deadline
    dry_run: bool = False
    may_be_new: bool = False
    knowledge: RoleKnowledge = field(default_factory=RoleKnowledge)


class Rejected(Exception):
    """ECR does not accept a policy; `roles` are the roles that the policy adds."""

    def __init__(self, cause: Exception, roles: Sequence[str], policy: Policy) -> None:
        """Keep what follows from the rejection of this policy."""
        super().__init__(str(cause))
        self.roles = roles
        self.rejection = Rejection(cause, contents(policy, without=roles))
        self.holds_deleted_ids = bool(deleted(entries_of(policy)))


class PolicyWriter:
    """Writes the policy of one repository.

    ECR has no conditional write. So a write follows directly on its read, and every attempt starts with a
    new read: what others wrote before that read stays.

    Attributes:
        current: the policy as last read or written.
        entries: the entries of our statements in it.
        accepted: the entries of the grants in the policies that ECR accepted, or would get in a dry run.
    """

    def __init__(self, name: str, grants: Sequence[Grant], context: SweepContext) -> None:
        """Prepare for the repository of this name, which has these grants."""
        self._name = name
        self._roles = frozenset(roles_of(grants))
        self._context = context
        self.current: Policy | None = None
        self.entries: frozenset[Entry] = frozenset()
        self.accepted: frozenset[Entry] = frozenset()
        self._accepted_policy: Policy | None = None
        self._deleted: frozenset[Entry] = frozenset()
        self._gained: frozenset[Entry] = frozenset()
        self._lost: frozenset[Entry] = frozenset()

    @property
    def granted(self) -> frozenset[Entry]:
        """The entries of our statements. What was accepted counts, for a read may lag behind a write."""
        return self.entries | self.accepted

    @property
    def accepted_contents(self) -> Contents | None:
        """The contents of the policy that ECR accepted last, if any."""
        return contents(self._accepted_policy) if self._accepted_policy else None

    @property
    def added(self) -> frozenset[Entry]:
        """The entries that our statements gained by the writes."""
        return self._gained & self.granted

    @property
    def removed(self) -> frozenset[Entry]:
        """The entries that our statements lost by the writes."""
        return self._lost - self.granted

    def update(self, plan: Plan, *, force: bool = False) -> bool:
        """Read the policy, plan another, and write that if it differs. Return whether it was written.

        Args:
            plan: the current policy -> the desired one; the same object if nothing is to change.
            force: write the desired policy even if it is the current one.

        Raises:
            Rejected: ECR does not accept the desired policy.
            InvalidPolicy: the current policy cannot be parsed.
            RegistryError: ECR refused a call.
            DeadlineExceeded: the deadline passed.
        """
        may_appear = (RepositoryNotFound,) if self._context.may_be_new else ()
        return retry_with_backoff(
            partial(self._read_plan_write, plan, force=force),
            self._context.deadline,
            retryable=(Unavailable, *may_appear),
            throttles=(Throttled,),
        )

    def _read_plan_write(self, plan: Plan, *, force: bool) -> bool:
        if not (self._context.dry_run and self._accepted_policy):  # a dry run goes on from what it planned
            self.current = parse(self._context.registry.get_policy(self._name))
        current = self.current
        self.entries = entries_of(current)
        if deleted(self.entries) - self._deleted:  # a role that ECR accepted may have been deleted since
            self.accepted, self._accepted_policy = frozenset(), None
        self._deleted |= deleted(self.entries)
        self._context.knowledge.record_existing(self._roles_in(self.entries))
        desired = plan(current)
        if desired is None or (desired is current and not force):
            return False
        try:
            self._write(desired)
        except (PolicyRejected, PolicyTooLong) as cause:
            added = entries_of(desired) - self.granted
            raise Rejected(cause, sorted(self._roles_in(added)), desired) from None
        return True

    def _write(self, desired: Policy) -> None:
        text = render(desired)
        entries = entries_of(desired)
        gained, lost = entries - self.entries, self.entries - entries
        if not self._context.dry_run:
            try:
                self._context.registry.set_policy(self._name, text)
            except Throttled:
                raise
            except Unavailable:  # the response was lost, and the write may have been applied
                self._record_change(gained, lost)
                raise
            self._context.knowledge.record_existing(self._roles_in(entries))
        self._record_change(gained, lost)
        self.current, self.entries = desired, entries
        self.accepted |= frozenset(entry for entry in entries if entry.principal in self._roles)
        self._accepted_policy = desired

    def _roles_in(self, entries: Iterable[Entry]) -> frozenset[str]:
        return self._roles.intersection(entry.principal for entry in entries)

    def _record_change(self, gained: frozenset[Entry], lost: frozenset[Entry]) -> None:
        self._gained |= gained
        self._lost |= lost
