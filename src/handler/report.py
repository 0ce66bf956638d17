"""The report: what one invocation did, as it is logged and answered."""

from collections import Counter
from datetime import UTC, datetime

from aws_lambda_powertools import Logger

from handler import metrics
from handler.request import Request
from handler.result import Outcome, Result, Urgency

# Lambda filters lines by level only if their time is in this form.
logger = Logger(use_rfc3339=True, location=None)

# However many repositories there are, the answer and the error stay small enough to read.
_MAX_DETAILS = 100
_MAX_NAMED = 10

_WHY_REFUSED = (
    "it does not exist, or was made less than a minute ago. Create it, or take it out of WorkerRoleArns"
)


class ChecksFailed(Exception):
    """Some repositories do not carry the grant for every worker role; what could be done was done."""


def reject(error: Exception) -> dict[str, object]:
    """Log and count what is wrong with the caller's event or the settings, and give it as the answer."""
    logger.error("rejected", extra={"reason": str(error)})
    metrics.emit({"Rejected": 1}, {})
    return {"error": str(error)}


class Report:
    """The results of one invocation: totals of all, details of some."""

    def __init__(self, request: Request, *, dry_run: bool) -> None:
        """Begin the report on a request; in a `dry_run` nothing is written."""
        self._request = request
        self._dry_run = dry_run
        self._failed_before = request.resume.failed if request.resume else 0
        self._seconds_to_pullable: dict[str, float] = {}
        self._handed_over = False
        self.unmatched: list[str] = []
        self._totals: Counter[Outcome] = Counter()
        self._urgencies: Counter[Urgency] = Counter()
        self._refused: Counter[str] = Counter()
        self._denied = 0
        self._denied_always = 0
        self._kept: dict[Urgency, list[Result]] = {urgency: [] for urgency in Urgency}

    def add(self, result: Result) -> None:
        """Count a result, and log it unless it says nothing new."""
        urgency = Urgency.of(result)
        self._totals[result.outcome] += 1
        self._urgencies[urgency] += 1
        if len(self._kept[urgency]) < _MAX_DETAILS:
            self._kept[urgency].append(result)
        for role in result.refused:
            if role not in self._refused:
                logger.error("role refused", extra={"role": role, "reason": _WHY_REFUSED})
            self._refused[role] += 1
        if result.denied_by:
            self._denied += 1
            self._denied_always += any(not denial.conditional for denial in result.denied_by)
            logger.warning("pull denied", extra=result.details())
        if result.outcome is Outcome.FAILED:
            logger.error("check failed", extra=result.details())
        elif self._request.healing and result.outcome is Outcome.ATTACHED:
            logger.warning("healed", extra=result.details())
        elif result.outcome is not Outcome.UNCHANGED:
            logger.info("checked", extra=result.details())
        if self._request.created_at and result.outcome is Outcome.ATTACHED and not result.refused:
            since = datetime.now(UTC) - self._request.created_at
            self._seconds_to_pullable["SecondsToPullable"] = max(since.total_seconds(), 0)

    def answer(self) -> dict[str, object]:
        """Give the totals, and the details up to a limit: failures first, the unchanged only among few."""
        checked = self._totals.total()
        listed = [result for urgency in Urgency for result in self._sorted(urgency)]
        if checked > _MAX_DETAILS:
            listed = [result for result in listed if Urgency.of(result) is not Urgency.UNCHANGED]
        answer: dict[str, object] = {
            "checked": checked,
            "dry_run": self._dry_run,
            "outcomes": {outcome.value: count for outcome, count in self._totals.items()},
            "repositories": [result.details() for result in listed[:_MAX_DETAILS]],
            "truncated": checked - self._urgencies[Urgency.UNCHANGED] > _MAX_DETAILS,
        }
        further = {
            "refused_roles": [
                {"role": role, "missing_in": count, "reason": _WHY_REFUSED}
                for role, count in sorted(self._refused.items())
            ],
            "denied": self._denied,
            "unmatched": self.unmatched,
            "handed_over": self._handed_over,
            "ignored": self._request.ignored,
        }
        return answer | {key: value for key, value in further.items() if value}

    @property
    def failed(self) -> int:
        """How many repositories lack the grant for a worker role, in this and earlier invocations."""
        return self._failed_here + self._failed_before

    @property
    def _failed_here(self) -> int:
        return self._urgencies[Urgency.FAILED] + self._urgencies[Urgency.LACKS_A_REFUSED_ROLE]

    def log(self) -> dict[str, object]:
        """Log and measure the totals and give the answer, be there failures or not."""
        answer = self.answer()
        attached = self._totals[Outcome.ATTACHED]
        counts = {
            "Attached": attached,
            "Unchanged": self._totals[Outcome.UNCHANGED],
            "Healed": attached if self._request.healing else 0,
            "Failed": self._failed_here,
            "RolesRefused": len(self._refused),
            "PullsDenied": self._denied_always,
            "PullsDeniedOnCondition": self._denied - self._denied_always,
        }
        metrics.emit(counts, self._seconds_to_pullable)
        logger.info("report", extra={key: value for key, value in answer.items() if key != "repositories"})
        return answer

    def close(self, *, handed_over: bool = False) -> dict[str, object]:
        """Log the totals and give the answer.

        Failures of an invocation that `handed_over` are left to the one that ends the sweep: for an
        error here, Lambda would run, and hand over, the same again.

        Raises:
            ChecksFailed: a repository failed; names it and why.
        """
        self._handed_over = handed_over
        answer = self.log()
        if self.failed and not handed_over:
            raise ChecksFailed(self._failures(answer["checked"]))
        return answer

    def _failures(self, checked: object) -> str:
        told = [
            f"ECR refused the worker role {role} for {count} of {checked} repositories: {_WHY_REFUSED}"
            for role, count in sorted(self._refused.items())
        ]
        if count := self._urgencies[Urgency.FAILED]:
            named = self._sorted(Urgency.FAILED)[:_MAX_NAMED]
            reasons = "; ".join(f"{result.repository}: {result.reason}" for result in named)
            more = f"; and {count - len(named)} more, named in the log" if count > len(named) else ""
            told.append(f"{count} of {checked} repositories failed: {reasons}{more}")
        if self._failed_before:
            told.append(f"{self._failed_before} failed in earlier invocations of the sweep, named in the log")
        return ". ".join(told)

    def _sorted(self, urgency: Urgency) -> list[Result]:
        return sorted(self._kept[urgency], key=lambda result: result.repository)
