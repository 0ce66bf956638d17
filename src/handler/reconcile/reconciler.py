"""The reconciler: brings one repository to the desired state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import extract_tb

from handler.ecr.errors import PolicyRejected, RegistryError, RepositoryNotFound, Throttled, Unavailable
from handler.ecr.registry import Registry
from handler.ecr.retry import Deadline, DeadlineExceeded, retry_with_backoff
from handler.policy.denials import denials, rejection_hint
from handler.policy.document import InvalidPolicy, Policy, parse, render
from handler.policy.grants import Grantee, grantees, principals
from handler.policy.plan import Plan, grantees_of, plan, plan_removal
from handler.reconcile.result import Outcome, Result
from handler.reconcile.role_check import RoleCheck, RoleCheckFailed
from handler.settings import Mode, Settings
from handler.telemetry import logger


@dataclass(frozen=True, slots=True)
class Context:
    """What the reconciliations of a sweep share.

    Attributes:
        settings: the desired state.
        registry: where the repositories are.
        role_check: says which roles are missing; None only in a dry run without a stack.
        deadline: no further attempt starts after it.
        dry_run: write nothing to users' repositories.
        may_be_new: a repository that ECR does not find may appear within seconds.
        inspects_all: read repositories out of scope too, to find configured roles there.
    """

    settings: Settings
    registry: Registry
    role_check: RoleCheck | None
    deadline: Deadline
    dry_run: bool = False
    may_be_new: bool = False
    inspects_all: bool = False


def reconcile(name: str, context: Context) -> Result:
    """Attach every grant of the repository, or remove all, as the mode says. A failure is a result."""
    try:
        if name not in context.settings.scope:
            return _inspect(name, context) if context.inspects_all else Result(name, Outcome.OUT_OF_SCOPE)
        return _Reconciliation(name, context).run()
    except Exception as error:  # noqa: BLE001 - not even a bug in one reconciliation stops the others
        # The error's own text may hold parts of a policy.
        kind = type(error).__name__
        frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
        logger.error("internal error", extra={"repository": name, "error": kind, "at": frames})
        bug = f"unexpected {kind}, a bug of this function; the log says where"
        return Result(name, Outcome.FAILED, error=bug)


def _inspect(name: str, context: Context) -> Result:
    """Find the configured roles in our statements of a repository out of scope. An error is only reported."""
    try:
        read = partial(context.registry.get_policy, name)
        present = grantees_of(parse(retry_with_backoff(read, context.deadline)))
    except RepositoryNotFound:
        return Result(name, Outcome.GONE)
    except (RegistryError, DeadlineExceeded, InvalidPolicy) as error:
        return Result(name, Outcome.OUT_OF_SCOPE, error=str(error))
    roles = context.settings.roles()
    ours = frozenset(each for each in present if each.principal in roles)
    return Result(name, Outcome.OUT_OF_SCOPE, out_of_scope_grants=ours)


class _Reconciliation:
    """The reconciliation of one repository.

    ECR has no conditional write. So a write follows directly on its read, and every attempt starts with a
    new read: what that read shows stays. What others write between a read and its write is lost.
    """

    def __init__(self, name: str, context: Context) -> None:
        self._name = name
        self._context = context
        self._removes = context.settings.mode is Mode.REMOVE
        self._grants = () if self._removes else context.settings.grants_for(name)
        # As remembered, and then as asked.
        self._missing = context.role_check.known_missing() if context.role_check else frozenset[str]()
        self._policy: Policy | None = None  # as last read or written
        self._plan: Plan | None = None  # None if the policy could not be read
        # What our writes have changed, or may have changed where the response was lost.
        self._added = self._removed = frozenset[Grantee]()

    def run(self) -> Result:
        """Attach or remove the grants; return the result, also if that failed."""
        try:
            self._plan_only() if self._context.dry_run else self._enforce()
        except RepositoryNotFound:
            return Result(self._name, Outcome.GONE)
        except DeadlineExceeded as error:
            return self._result(Outcome.INTERRUPTED, f"no attempt succeeded in time: {error}")
        except PolicyRejected as error:
            return self._result(Outcome.FAILED, f"{error}. {rejection_hint(self._policy)}")
        except InvalidPolicy as error:
            return self._result(Outcome.FAILED, f"{error}. Ask the owner to correct the policy")
        except (RegistryError, RoleCheckFailed) as error:
            return self._result(Outcome.FAILED, str(error))
        return self._result()

    def _enforce(self) -> None:
        """Read the policy, plan the desired one and write that; if ECR rejects it, without missing roles."""
        try:
            self._retry(self._read_plan_write)
        except PolicyRejected:
            if not self._learn_missing_roles():
                raise
            self._retry(self._read_plan_write)
        if self._plan and self._plan.unfit:
            # No write shows whether these roles exist. Those that do not exist need no space.
            self._make_plan()
            if self._learn_missing_roles():
                self._make_plan()

    def _plan_only(self) -> None:
        """Plan the desired policy. No rejection shows missing roles, so ask about each that is added."""
        planned = self._retry(self._read_and_plan)
        if self._learn_missing_roles():
            planned = self._make_plan()
        self._record_change(planned)
        self._policy = planned.policy

    def _result(self, outcome: Outcome | None = None, error: str = "") -> Result:
        """Return the result: with this outcome, or else with that of the policy as it is now."""
        present, wanted = grantees_of(self._policy), grantees(self._grants)
        lacking = [each for each in wanted if each not in present] if self._plan else []
        added, removed = self._added & present, self._removed - present
        listed = self._context.settings.roles() if self._removes else ()
        if outcome is None:
            error = self._plan.length_error if self._plan else ""
            if lacking or error:
                outcome = Outcome.INCOMPLETE if present & set(wanted) else Outcome.FAILED
            elif not (added or removed):
                outcome = Outcome.UNCHANGED
            else:
                outcome = self._outcome_of_change()
        return Result(
            self._name,
            outcome,
            added=added,
            removed=removed,
            missing_roles=tuple(role for role in principals(lacking) if role in self._missing),
            denied_by=denials(self._policy, self._grants),
            error=error,
            unlisted=frozenset(each for each in present.difference(wanted) if each.principal not in listed),
            not_removed=self._plan.not_removed if self._plan else (),
        )

    def _outcome_of_change(self) -> Outcome:
        if self._removes:
            return Outcome.WOULD_REMOVE if self._context.dry_run else Outcome.REMOVED
        return Outcome.WOULD_ATTACH if self._context.dry_run else Outcome.ATTACHED

    def _retry[T](self, attempt: Callable[[], T]) -> T:
        may_appear = [RepositoryNotFound] if self._context.may_be_new else []
        return retry_with_backoff(attempt, self._context.deadline, *may_appear)

    def _read_and_plan(self) -> Plan:
        self._policy = parse(self._context.registry.get_policy(self._name))
        return self._make_plan()

    def _make_plan(self) -> Plan:
        settings = self._context.settings
        if self._removes:
            planned = plan_removal(
                self._policy, settings.roles(), remove_unlisted=settings.remove_unlisted_roles
            )
        else:
            planned = plan(
                self._policy,
                self._grants,
                missing=self._missing,
                remove_unlisted=settings.remove_unlisted_roles,
            )
        self._plan = planned
        return planned

    def _read_plan_write(self) -> None:
        planned = self._read_and_plan()
        if planned.unfit and planned.removed:
            # A role without space may be missing: then, its grant must not lose its last principals.
            self._learn_missing_roles()
            planned = self._read_and_plan()
        if planned.policy is self._policy:
            return
        try:
            if planned.policy is None:
                self._context.registry.delete_policy(self._name)
            else:
                self._context.registry.set_policy(self._name, render(planned.policy))
        except Throttled:  # certainly not applied
            raise
        except Unavailable:  # the response was lost, and the write may have been applied
            self._record_change(planned)
            raise
        self._record_change(planned)
        self._policy = planned.policy

    def _record_change(self, planned: Plan) -> None:
        self._added |= planned.added
        self._removed |= planned.removed

    def _learn_missing_roles(self) -> bool:
        """Ask which roles that the plan adds or has no space for are missing; return whether any is."""
        if self._context.role_check is None or self._plan is None:
            return False
        roles = principals(sorted(self._plan.added.union(self._plan.unfit)))
        missing = self._context.role_check.missing(roles, self._context.deadline)
        self._missing |= missing
        return bool(missing)
