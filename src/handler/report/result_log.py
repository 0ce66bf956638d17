"""The log lines of results: changes, failures, denials, skips and, up to a limit, unlisted principals."""

from collections import Counter
from collections.abc import Mapping, Sequence

from handler.policy.denials import Denial
from handler.policy.grants import Entry
from handler.telemetry import logger
from handler.reconcile.result import WHY_REFUSED, Outcome, Result, by_grant

# An unlisted principal is logged for at most so many repositories, and all in at most so many lines.
_MAX_UNLISTED_REPOSITORIES = 100
_MAX_UNLISTED_LINES = 1_000


class ResultLog:
    """Logs the results of one invocation."""

    def __init__(self, *, drift: bool) -> None:
        """Start the log of an invocation; with `drift`, another caller has changed the policy."""
        self._drift = drift
        self._refused: set[str] = set()
        self._unlisted = Counter[Entry]()
        self._unlisted_lines = 0

    def add(self, result: Result) -> None:
        """Log what a result says."""
        for role in sorted(set(result.refused) - self._refused):
            logger.error("role refused", extra={"role": role, "reason": WHY_REFUSED})
        self._refused.update(result.refused)
        if result.denied_by:
            log_denials(result.denied_by, result.details())
        self._log_unlisted(result)
        self._log_outcome(result)

    def _log_unlisted(self, result: Result) -> None:
        if self._unlisted_lines == _MAX_UNLISTED_LINES:
            return
        if any(self._unlisted[entry] < _MAX_UNLISTED_REPOSITORIES for entry in result.unlisted):
            self._unlisted.update(result.unlisted)
            self._unlisted_lines += 1
            details = {"repository": result.repository, "unlisted": by_grant(result.unlisted)}
            logger.warning("unlisted principals", extra=details)

    def _log_outcome(self, result: Result) -> None:
        match result.outcome:
            case Outcome.UNCHANGED:
                pass
            case Outcome.INTERRUPTED:
                logger.warning("interrupted", extra=result.details())
            case _ if result.lacks_grant:
                logger.error("reconcile failed", extra=result.details())
            case Outcome.ATTACHED if self._drift and result.added:
                logger.warning("drift corrected", extra=result.details())
            case _:
                logger.info("reconciled", extra=result.details())


def log_denials(denials: Sequence[Denial], details: Mapping[str, object]) -> None:
    """Log statements that deny a grant, with these details."""
    refuses_pull = any(denial.refuses_pull for denial in denials)
    logger.warning("pull denied" if refuses_pull else "grant denied", extra=details)
