"""The report: what one invocation did, as it is logged, counted and returned."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from handler.events.request import Ignored, Request
from handler.policy.denials import Denial
from handler.policy.grants import Grantee, by_grant
from handler.policy.registry_policy import RegistryPolicy
from handler.reconcile.result import WHY_MISSING, Outcome, Result
from handler.report.totals import MAX_DETAILS, Severity, Totals
from handler.settings import Mode
from handler.telemetry import emit_metrics, logger

# The response and the error stay readable, and far below Lambda's 6 MB, however many repositories there are.
_MAX_DETAILS_SIZE = 200_000  # characters
_MAX_NAMED = 10
# An unlisted principal is logged for at most so many repositories, and all in at most so many lines.
_MAX_UNLISTED_REPOSITORIES = 100
_MAX_UNLISTED_LINES = 1_000


class RepositoriesFailed(Exception):
    """Some repositories lack a grant for a role; all else was done."""


class Report:
    """The results of one invocation: the totals of all, the details of some."""

    def __init__(self, request: Request, *, dry_run: bool, mode: Mode = Mode.ENFORCE) -> None:
        """Start the report on a request; in a `dry_run` nothing is written."""
        self._request = request
        self._mode = mode
        self._dry_run = dry_run
        self._totals = Totals()
        self._unmatched: Sequence[str] = ()
        self._missed_creations: Sequence[str] = ()
        self._continued = self._ended = False
        self._unnamed_failures = request.continuation.failed_more if request.continuation else 0
        self._attached = self._drift_corrected = self._would_attach = 0
        self._added = set[Grantee]()
        self._seconds_to_grant: dict[str, float] = {}
        self._registry_policy: RegistryPolicy | None = None
        self._logged_missing: set[str] = set()
        self._logged_unlisted = Counter[Grantee]()
        self._unlisted_lines = 0

    def add_registry_policy(self, policy: RegistryPolicy) -> None:
        """Add what the registry policy means for the grants. Its denials count as those of one repository."""
        self._registry_policy = policy
        self._totals.add_denials(policy.denied_by)
        if policy.denied_by:
            _log_denials(policy.denied_by, policy.details())

    def add(self, result: Result) -> None:
        """Count a result, and log what it says."""
        self._totals.add(result)
        gained = bool(result.added) and not self._dry_run
        changed = gained or result.outcome is Outcome.REMOVED
        drift = changed and (self._request.after_policy_change or bool(result.recreated))
        self._attached += gained
        self._would_attach += bool(result.added) and self._mode is Mode.PLAN
        self._added.update(result.added if gained else ())
        self._drift_corrected += drift
        if gained and self._request.created_at and not result.lacks_grant:
            since = datetime.now(UTC) - self._request.created_at
            self._seconds_to_grant["SecondsToGrant"] = max(since.total_seconds(), 0)
        self._log(result, drift=drift)

    def add_missed_creations(self, repositories: Sequence[str]) -> None:
        """Add the repositories whose creation event did not arrive."""
        self._missed_creations = repositories

    def end(self, unmatched: Sequence[str], *, continued: bool) -> None:
        """Add which patterns matched nothing, and whether a new invocation continues the sweep."""
        self._unmatched, self._continued, self._ended = unmatched, continued, True

    def publish(self) -> dict[str, object]:
        """Log the totals, write the metrics, and return the response."""
        totals = self._totals
        counts = {
            "Attached": self._attached,
            "WouldAttach": self._would_attach,
            "Removed": totals.outcomes[Outcome.REMOVED],
            "Unchanged": totals.outcomes[Outcome.UNCHANGED],
            "DriftCorrected": self._drift_corrected,
            # A new invocation that continues the sweep retries the failures, and counts them then.
            "Failed": 0 if self._continued else totals.failed + self._unnamed_failures,
            "MissedCreations": len(self._missed_creations),
            # The dry run of a person shows nothing of the schedule.
            "SweepsCompleted": self._ended
            and not self._continued
            and self._request.of_all
            and self._dry_run == (self._mode is Mode.PLAN),
            "MissingRoles": len(totals.missing_roles),
            "UnlistedPrincipals": totals.unlisted_grantees,
            "PullsDenied": totals.pulls_denied,
            "PullsDeniedConditionally": totals.pulls_denied_conditionally,
        }
        emit_metrics(counts, self._seconds_to_grant, by_grant(self._added))
        response = self.response()
        logger.info("report", extra={key: value for key, value in response.items() if key != "repositories"})
        return response

    def response(self) -> dict[str, object]:
        """Return the totals, and details up to a limit: failures first, the unchanged only among few."""
        totals = self._totals
        is_short = totals.checked <= MAX_DETAILS
        listed = [severity for severity in Severity if is_short or severity is not Severity.UNCHANGED]
        details = _details(result for severity in listed for result in totals.results(severity))
        response: dict[str, object] = {
            "checked": totals.checked,
            "dry_run": self._dry_run,
            "mode": self._mode.value,
            "outcomes": {outcome.value: count for outcome, count in totals.outcomes.items()},
            "repositories": details,
            "truncated": len(details) < sum(totals.severities[severity] for severity in listed),
        }
        optional = {
            "missing_roles": _roles(totals.missing_roles, reason=WHY_MISSING),
            "recreated": _roles(totals.recreated),
            "not_removed": [
                {"grant": sid, "repositories": count, "reason": _why_not_removed(count)}
                for sid, count in sorted(totals.not_removed.items())
            ],
            "denied": totals.denied,
            "unlisted": totals.unlisted,
            "out_of_scope_grants": totals.out_of_scope_grants,
            "registry_policy": self._registry_policy and self._registry_policy.details(),
            "missed_creations": list(self._missed_creations[:MAX_DETAILS]),
            "unmatched": list(self._unmatched[:MAX_DETAILS]),
            "continued": self._continued,
        }
        return response | {key: value for key, value in optional.items() if value}

    def raise_for_failures(self) -> None:
        """Raise if a repository failed, unless a new invocation continues the sweep and retries it.

        Raises:
            RepositoriesFailed: names the repositories and the reasons.
        """
        if (self._totals.failed or self._unnamed_failures) and not self._continued:
            raise RepositoriesFailed(". ".join(_failures(self._totals, self._unnamed_failures)))

    def _log(self, result: Result, *, drift: bool) -> None:
        for role in result.missing_roles:
            if role not in self._logged_missing:
                self._logged_missing.add(role)
                logger.error("role missing", extra={"role": role, "reason": WHY_MISSING})
        if result.denied_by:
            _log_denials(result.denied_by, result.details())
        self._log_unlisted(result)
        if drift:
            logger.warning("drift corrected", extra=result.details())
        if result.lacks_grant:
            logger.error("reconcile failed", extra=result.details())
        elif result.out_of_scope_grants:
            logger.warning("grants out of scope", extra=result.details())
        elif result.outcome is Outcome.INTERRUPTED:
            logger.warning("interrupted", extra=result.details())
        elif result.outcome is not Outcome.UNCHANGED and not drift:
            logger.info("reconciled", extra=result.details())

    def _log_unlisted(self, result: Result) -> None:
        is_new = any(self._logged_unlisted[each] < _MAX_UNLISTED_REPOSITORIES for each in result.unlisted)
        if is_new and self._unlisted_lines < _MAX_UNLISTED_LINES:
            self._logged_unlisted.update(result.unlisted)
            self._unlisted_lines += 1
            details = {"repository": result.repository, "unlisted": by_grant(result.unlisted)}
            logger.warning("unlisted principals", extra=details)


def report_ignored(ignored: Ignored) -> dict[str, object]:
    """Log that an event asks for nothing, and return the response."""
    response: dict[str, object] = {"checked": 0, "ignored": ignored.reason}
    logger.info("report", extra=response)
    return response


def _log_denials(denials: Sequence[Denial], details: Mapping[str, object]) -> None:
    refuses_pull = any(denial.refuses_pull for denial in denials)
    logger.warning("pull denied" if refuses_pull else "grant denied", extra=details)


def _roles(counts: Mapping[str, int], **details: str) -> list[dict[str, object]]:
    return [{"role": role, "repositories": count, **details} for role, count in sorted(counts.items())]


def _failures(totals: Totals, unnamed: int) -> list[str]:
    failures = [
        f"The role {role} is missing in {count} of {totals.checked} repositories: {WHY_MISSING}"
        for role, count in sorted(totals.missing_roles.items())
    ]
    failures += [
        f"{sid}: {_why_not_removed(count)}. Unlisted principals keep the access that RemoveUnlistedRoles "
        "would remove"
        for sid, count in sorted(totals.not_removed.items())
    ]
    if count := totals.severities[Severity.FAILED]:
        named = totals.results(Severity.FAILED)[:_MAX_NAMED]
        reasons = "; ".join(f"{result.repository}: {result.error}" for result in named)
        more = f"; and {count - len(named)} more, named in the log" if count > len(named) else ""
        failures.append(f"{count} of {totals.checked} repositories failed: {reasons}{more}")
    if unnamed:
        failures.append(
            f"{unnamed} more failed in earlier invocations of the sweep and are named in "
            'the log. Run a sweep of all: {"repositories": ["*"]}'
        )
    return failures


def _why_not_removed(count: int) -> str:
    repositories = "1 repository" if count == 1 else f"{count} repositories"
    return f"nothing was removed in {repositories}, because none of the configured roles exists"


def _details(results: Iterable[Result]) -> list[dict[str, object]]:
    """Return the details of the first results, up to a number and a size."""
    listed: list[dict[str, object]] = []
    size = 0
    for result in results:
        details = result.details()
        size += len(json.dumps(details))
        if len(listed) == MAX_DETAILS or size > _MAX_DETAILS_SIZE:
            break
        listed.append(details)
    return listed
