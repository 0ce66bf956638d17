"""The report: what one invocation did, as it is logged and returned."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from handler.telemetry import emit_metrics, logger
from handler.policy.registry_policy import RegistryPolicy
from handler.events.request import Request
from handler.reconcile.result import WHY_REFUSED, Outcome, Result, Severity
from handler.report.result_log import ResultLog, log_denials
from handler.report.totals import MAX_DETAILS, Totals

# The response and the error stay readable, and far below Lambda's 6 MB, however many repositories there are.
_MAX_DETAILS_SIZE = 200_000  # characters
_MAX_NAMED = 10


class RepositoriesFailed(Exception):
    """Some repositories lack a grant for a role; all else was done."""


class Report:
    """The results of one invocation: the totals of all, the details of some.

    Attributes:
        unmatched: the patterns that matched no repository in scope.
        continued: whether a new invocation continues the sweep. It also takes over the failures.
    """

    def __init__(self, request: Request, *, dry_run: bool) -> None:
        """Start the report on a request; in a `dry_run` nothing is written."""
        self.unmatched: tuple[str, ...] = ()
        self.continued = False
        self._request = request
        self._dry_run = dry_run
        self._totals = Totals()
        self._unnamed_failures = request.checkpoint.failed_more if request.checkpoint else 0
        self._drift_corrected = 0
        self._seconds_to_grant: dict[str, float] = {}
        self._registry_policy: RegistryPolicy | None = None
        self._result_log = ResultLog(drift=request.after_policy_change)

    def add_registry_policy(self, policy: RegistryPolicy) -> None:
        """Add what the registry policy means for the grants. Its denials count as those of one repository."""
        self._registry_policy = policy
        self._totals.add_denials(policy.denied_by)
        if policy.denied_by:
            log_denials(policy.denied_by, policy.details())

    def add(self, result: Result) -> None:
        """Count a result, and log what it says."""
        self._totals.add(result)
        self._result_log.add(result)
        attached = result.outcome is Outcome.ATTACHED and bool(result.added)
        self._drift_corrected += attached and self._request.after_policy_change
        if attached and self._request.created_at and not result.refused:
            since = datetime.now(UTC) - self._request.created_at
            self._seconds_to_grant["SecondsToGrant"] = max(since.total_seconds(), 0)

    def publish(self) -> dict[str, object]:
        """Log the totals, write the metrics, and return the response."""
        totals = self._totals
        counts = {
            "Attached": totals.outcomes[Outcome.ATTACHED],
            "Unchanged": totals.outcomes[Outcome.UNCHANGED],
            "DriftCorrected": self._drift_corrected,
            # A new invocation that continues the sweep retries the failures, and counts what remains.
            "Failed": 0 if self.continued else totals.failed + self._unnamed_failures,
            "RolesRefused": len(totals.refused),
            "UnlistedPrincipals": totals.unlisted_entries,
            "PullsDenied": totals.pulls_denied,
            "PullsDeniedConditionally": totals.pulls_denied_conditionally,
        }
        emit_metrics(counts, self._seconds_to_grant)
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
            "outcomes": {outcome.value: count for outcome, count in totals.outcomes.items()},
            "repositories": details,
            "truncated": len(details) < sum(totals.severities[severity] for severity in listed),
        }
        optional = {
            "refused_roles": [
                {"role": role, "missing_in": count, "reason": WHY_REFUSED}
                for role, count in sorted(totals.refused.items())
            ],
            "not_removed": [
                {"grant": sid, "repositories": count, "reason": _why_not_removed(count)}
                for sid, count in sorted(totals.not_removed.items())
            ],
            "denied": totals.denied,
            "unlisted": totals.unlisted,
            "registry_policy": self._registry_policy and self._registry_policy.details(),
            "unmatched": list(self.unmatched[:MAX_DETAILS]),
            "handed_over": self.continued,
            "ignored": self._request.ignored,
        }
        return response | {key: value for key, value in optional.items() if value}

    def raise_for_failures(self) -> None:
        """Raise if a repository failed, unless a new invocation continues the sweep and retries it.

        Raises:
            RepositoriesFailed: names the repositories and the reasons.
        """
        if (self._totals.failed or self._unnamed_failures) and not self.continued:
            raise RepositoriesFailed(". ".join(_failures(self._totals, self._unnamed_failures)))


def _failures(totals: Totals, unnamed: int) -> list[str]:
    failures = [
        f"ECR refused the role {role} for {count} of {totals.checked} repositories: {WHY_REFUSED}"
        for role, count in sorted(totals.refused.items())
    ]
    failures += [
        f"{sid}: {_why_not_removed(count)}. Unlisted principals keep the access that RemoveUnlistedRoles "
        "would remove"
        for sid, count in sorted(totals.not_removed.items())
    ]
    if count := totals.severities[Severity.FAILED]:
        named = totals.results(Severity.FAILED)[:_MAX_NAMED]
        reasons = "; ".join(f"{result.repository}: {result.reason}" for result in named)
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
