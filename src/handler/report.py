"""The report: what one invocation did, as it is logged and returned."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from handler.denials import Denial
from handler.observability import emit_metrics, logger
from handler.registry_policy import RegistryPolicy
from handler.request import Request
from handler.result import WHY_REFUSED, Outcome, Result, Severity
from handler.result_log import ResultLog, log_denials

# The response and the error stay readable, and far below Lambda's 6 MB, however many repositories there are.
_MAX_DETAILS = 100
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
        self._unnamed_failures = request.checkpoint.failed_more if request.checkpoint else 0
        self._seconds_to_grant: dict[str, float] = {}
        self._totals: Counter[Outcome] = Counter()
        self._severities: Counter[Severity] = Counter()
        self._refused: Counter[str] = Counter()
        self._not_removed: Counter[str] = Counter()
        self._unlisted = 0
        self._unlisted_entries = 0
        self._denied = 0
        self._pulls_denied = 0
        self._pulls_denied_conditionally = 0
        self._registry_policy: RegistryPolicy | None = None
        self._result_log = ResultLog(drift=request.after_policy_change)
        self._details: dict[Severity, list[Result]] = {severity: [] for severity in Severity}

    def add_registry_policy(self, policy: RegistryPolicy) -> None:
        """Add what the registry's policy says on the grants. Its denial counts as one of a repository."""
        self._registry_policy = policy
        self._count_denials(policy.denied_by)
        if policy.denied_by:
            log_denials(policy.denied_by, policy.details())

    def add(self, result: Result) -> None:
        """Count a result, and log it unless nothing changed."""
        severity = Severity.of(result)
        self._totals[result.outcome] += 1
        self._severities[severity] += 1
        if len(self._details[severity]) < _MAX_DETAILS:
            self._details[severity].append(result)
        self._refused.update(result.refused)
        self._not_removed.update(result.not_removed)
        self._count_denials(result.denied_by)
        self._denied += bool(result.denied_by)
        self._unlisted += bool(result.unlisted)
        self._unlisted_entries += len(result.unlisted)
        self._result_log.add(result)
        if self._request.created_at and result.outcome is Outcome.ATTACHED and not result.refused:
            since = datetime.now(UTC) - self._request.created_at
            self._seconds_to_grant["SecondsToGrant"] = max(since.total_seconds(), 0)

    def _count_denials(self, denials: Sequence[Denial]) -> None:
        refusing = [denial for denial in denials if denial.refuses_pull]
        always = any(not denial.conditional for denial in refusing)
        self._pulls_denied += always
        self._pulls_denied_conditionally += bool(refusing) and not always

    def publish(self) -> dict[str, object]:
        """Log the totals, write the metrics, and return the response."""
        attached = self._totals[Outcome.ATTACHED]
        counts = {
            "Attached": attached,
            "Unchanged": self._totals[Outcome.UNCHANGED],
            "DriftCorrected": attached if self._request.after_policy_change else 0,
            # A new invocation that continues the sweep retries the failures, and counts what remains.
            "Failed": 0 if self.continued else self._failed + self._unnamed_failures,
            "RolesRefused": len(self._refused),
            "UnlistedPrincipals": self._unlisted_entries,
            "PullsDenied": self._pulls_denied,
            "PullsDeniedConditionally": self._pulls_denied_conditionally,
        }
        emit_metrics(counts, self._seconds_to_grant)
        response = self.response()
        logger.info("report", extra={key: value for key, value in response.items() if key != "repositories"})
        return response

    def response(self) -> dict[str, object]:
        """Return the totals, and details up to a limit: failures first, the unchanged only among few."""
        checked = self._totals.total()
        is_short = checked <= _MAX_DETAILS
        listed = [severity for severity in Severity if is_short or severity is not Severity.UNCHANGED]
        details = _details(result for severity in listed for result in self._sorted(severity))
        response: dict[str, object] = {
            "checked": checked,
            "dry_run": self._dry_run,
            "outcomes": {outcome.value: count for outcome, count in self._totals.items()},
            "repositories": details,
            "truncated": len(details) < sum(self._severities[severity] for severity in listed),
        }
        optional = {
            "refused_roles": [
                {"role": role, "missing_in": count, "reason": WHY_REFUSED}
                for role, count in sorted(self._refused.items())
            ],
            "not_removed": [
                {"grant": sid, "repositories": count, "reason": _why_not_removed(count)}
                for sid, count in sorted(self._not_removed.items())
            ],
            "denied": self._denied,
            "unlisted": self._unlisted,
            "registry_policy": self._registry_policy and self._registry_policy.details(),
            "unmatched": list(self.unmatched[:_MAX_DETAILS]),
            "handed_over": self.continued,
            "ignored": self._request.ignored,
        }
        return response | {key: value for key, value in optional.items() if value}

    def raise_for_failures(self) -> None:
        """Raise if a repository failed, unless a new invocation continues the sweep and retries it.

        Raises:
            RepositoriesFailed: names the repositories and the reasons.
        """
        if (self._failed or self._unnamed_failures) and not self.continued:
            raise RepositoriesFailed(". ".join(self._failures()))

    @property
    def _failed(self) -> int:
        return self._severities[Severity.FAILED] + self._severities[Severity.ROLE_REFUSED]

    def _failures(self) -> list[str]:
        checked = self._totals.total()
        failures = [
            f"ECR refused the role {role} for {count} of {checked} repositories: {WHY_REFUSED}"
            for role, count in sorted(self._refused.items())
        ]
        failures += [
            f"{sid}: {_why_not_removed(count)}. Unlisted principals keep the access that RemoveUnlistedRoles "
            "would remove"
            for sid, count in sorted(self._not_removed.items())
        ]
        if count := self._severities[Severity.FAILED]:
            named = self._sorted(Severity.FAILED)[:_MAX_NAMED]
            reasons = "; ".join(f"{result.repository}: {result.reason}" for result in named)
            more = f"; and {count - len(named)} more, named in the log" if count > len(named) else ""
            failures.append(f"{count} of {checked} repositories failed: {reasons}{more}")
        if self._unnamed_failures:
            failures.append(
                f"{self._unnamed_failures} more failed in earlier invocations of the sweep and are named in "
                'the log. Run a sweep of all: {"repositories": ["*"]}'
            )
        return failures

    def _sorted(self, severity: Severity) -> list[Result]:
        return sorted(self._details[severity], key=lambda result: result.repository)


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
        if len(listed) == _MAX_DETAILS or size > _MAX_DETAILS_SIZE:
            break
        listed.append(details)
    return listed
