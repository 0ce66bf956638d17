"""The reconciler: brings one repository to the desired state."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from traceback import extract_tb

from handler.policy.denials import denials
from handler.policy.grants import Entry, roles_of
from handler.telemetry import logger
from handler.policy.document import InvalidPolicy
from handler.reconcile.policy_writer import PolicyWriter, SweepContext
from handler.ecr.registry import RegistryError, RepositoryNotFound
from handler.reconcile.rejections import proved_missing, rejection_reason
from handler.reconcile.result import Outcome, Result
from handler.ecr.retry import DeadlineExceeded
from handler.reconcile.role_granter import RoleGranter


def reconcile(name: str, context: SweepContext) -> Result:
    """Attach every grant of the repository, as far as ECR accepts its roles. A failure is a result.

    ECR rejects a whole policy for one principal that does not exist, and does not say which. Then the roles
    are granted one by one.
    """
    try:
        return _Reconciliation(name, context).reconcile()
    except Exception as error:  # noqa: BLE001 - not even a bug in one reconciliation stops the others
        # The error's own text may hold parts of a policy.
        kind = type(error).__name__
        frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
        logger.error("internal error", extra={"repository": name, "error": kind, "at": frames})
        return Result(
            name, Outcome.FAILED, reason=f"unexpected {kind}, a bug of this function; the log says where"
        )


class _Reconciliation:
    """The reconciliation of one repository."""

    def __init__(self, name: str, context: SweepContext) -> None:
        self._name = name
        self._grants = context.settings.grants(name)
        self._remove_unlisted = context.settings.remove_unlisted_roles
        self._knowledge = context.knowledge
        self._outcome_of_change = Outcome.WOULD_ATTACH if context.dry_run else Outcome.ATTACHED
        self._writer = PolicyWriter(name, self._grants, context)
        self._granter = RoleGranter(self._writer, self._grants, context)

    def reconcile(self) -> Result:
        """Attach the grants; return the result, also if that failed."""
        try:
            return self._reconcile()
        except RepositoryNotFound:
            return Result(self._name, Outcome.GONE)
        except DeadlineExceeded as error:
            return self._result(Outcome.INTERRUPTED, reason=f"no attempt succeeded in time: {error}")
        except (RegistryError, InvalidPolicy) as error:
            return self._result(Outcome.FAILED, reason=str(error))

    def _reconcile(self) -> Result:
        """Attach the grants; return the result.

        Raises:
            InvalidPolicy: the policy cannot be parsed, and is not rewritten.
            RepositoryNotFound: there is no such repository.
            RegistryError: ECR refused a call, or rejects the policy whatever the roles are.
            DeadlineExceeded: the deadline passed.
        """
        rejections = self._granter.grant()
        missing = proved_missing(rejections, self._writer.accepted_contents) - self._knowledge.existing
        self._knowledge.record_missing(missing)
        lacking = roles_of([grant.missing_from(self._writer.granted) for grant in self._grants])
        refused = [role for role in lacking if role in missing | self._granter.skipped]
        unexplained = [role for role in lacking if role not in refused]
        lost = [role for role in unexplained if role not in rejections]
        unproved = {role: rejections[role] for role in unexplained if role in rejections}
        reasons = []
        if lost:
            reasons.append(f"another caller removed the grant of {', '.join(lost)} meanwhile")
        if unproved:
            reasons.append(rejection_reason(self._writer.current, unproved, self._knowledge.existing))
        if reasons:
            return self._result(Outcome.FAILED, refused, ". ".join(reasons))
        if self._writer.added or self._writer.removed:
            return self._result(self._outcome_of_change, refused)
        return self._result(Outcome.FAILED if refused else Outcome.UNCHANGED, refused)

    def _result(self, outcome: Outcome, refused: Sequence[str] = (), reason: str = "") -> Result:
        """Return the result, with what was changed so far."""
        unlisted = self._writer.entries.difference(*(grant.entries() for grant in self._grants))
        return Result(
            self._name,
            outcome,
            added=self._writer.added,
            removed=self._writer.removed,
            refused=tuple(refused),
            denied_by=denials(self._writer.current, self._grants),
            reason=reason,
            unlisted=unlisted,
            not_removed=self._not_removed(unlisted, refused),
        )

    def _not_removed(self, unlisted: Iterable[Entry], refused: Sequence[str]) -> tuple[str, ...]:
        """Return the Sids that keep unlisted entries because no accepted role could take their place."""
        kept = {entry.sid for entry in unlisted} if self._remove_unlisted else set()
        return tuple(
            grant.sid
            for grant in self._grants
            if grant.sid in kept and refused and set(grant.roles) <= set(refused)
        )
