"""The report: what one invocation did, as it is logged and answered."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from aws_lambda_powertools import Logger

# Lambda filters lines by level only if their time is in this form.
logger = Logger(service="ecr-allow-pull", use_rfc3339=True, location=None)

# However many repositories there are, the answer and the error stay small enough to read.
_MAX_DETAILS = 100
_MAX_NAMED = 10


class Outcome(StrEnum):
    """What became of one check."""

    ATTACHED = "attached"
    UNCHANGED = "unchanged"
    WOULD_ATTACH = "would_attach"
    OUT_OF_SCOPE = "out_of_scope"
    GONE = "gone"
    FAILED = "failed"


_BY_URGENCY = (
    Outcome.FAILED,
    Outcome.ATTACHED,
    Outcome.WOULD_ATTACH,
    Outcome.GONE,
    Outcome.OUT_OF_SCOPE,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One repository's check: its outcome, whom our statement gained or lost, and why it failed."""

    repository: str
    outcome: Outcome
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reason: str = ""

    def details(self) -> dict[str, object]:
        """Give what is known, without what is empty."""
        known = {
            "repository": self.repository,
            "outcome": self.outcome.value,
            "added": list(self.added),
            "removed": list(self.removed),
            "reason": self.reason,
        }
        return {key: value for key, value in known.items() if value}


class ChecksFailed(Exception):
    """Some repositories of the invocation failed; all the others were done."""


class Report:
    """The results of one invocation: totals of all, details of some."""

    def __init__(self, *, dry_run: bool, ignored: str = "", failed_before: int = 0) -> None:
        """Begin a report.

        Args:
            dry_run: nothing is written.
            ignored: why the event asks for no check, if it asks for none.
            failed_before: how many repositories failed in earlier invocations of the same sweep.
        """
        self._dry_run = dry_run
        self._ignored = ignored
        self._failed_before = failed_before
        self._handed_over = False
        self.unmatched: list[str] = []
        self._totals: Counter[Outcome] = Counter()
        self._kept: dict[Outcome, list[Result]] = {outcome: [] for outcome in Outcome}

    def add(self, result: Result) -> None:
        """Count a result, and log it unless it says that nothing had to be done."""
        self._totals[result.outcome] += 1
        kept = self._kept[result.outcome]
        if len(kept) < _MAX_DETAILS:
            kept.append(result)
        if result.outcome is Outcome.FAILED:
            logger.error("check failed", extra=result.details())
        elif result.outcome is not Outcome.UNCHANGED:
            logger.info("checked", extra=result.details())

    def answer(self) -> dict[str, object]:
        """Give the totals, and the details up to a limit: failures first, the unchanged only among few."""
        checked = self._totals.total()
        outcomes = _BY_URGENCY if checked > _MAX_DETAILS else (*_BY_URGENCY, Outcome.UNCHANGED)
        listed = [result for outcome in outcomes for result in self._sorted(outcome)]
        answer: dict[str, object] = {
            "checked": checked,
            "dry_run": self._dry_run,
            "outcomes": {outcome.value: count for outcome, count in self._totals.items()},
            "repositories": [result.details() for result in listed[:_MAX_DETAILS]],
            "truncated": checked - self._totals[Outcome.UNCHANGED] > _MAX_DETAILS,
        }
        if self.unmatched:
            answer["unmatched"] = self.unmatched
        if self._handed_over:
            answer["handed_over"] = True
        if self._ignored:
            answer["ignored"] = self._ignored
        return answer

    @property
    def failed(self) -> int:
        """How many repositories failed, in this and in earlier invocations of the sweep."""
        return self._totals[Outcome.FAILED] + self._failed_before

    def log(self) -> dict[str, object]:
        """Log the totals and give the answer, be there failures or not."""
        answer = self.answer()
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
        told = []
        if count := self._totals[Outcome.FAILED]:
            named = self._sorted(Outcome.FAILED)[:_MAX_NAMED]
            reasons = "; ".join(f"{result.repository}: {result.reason}" for result in named)
            more = f"; and {count - len(named)} more, named in the log" if count > len(named) else ""
            told.append(f"{count} of {checked} repositories failed: {reasons}{more}")
        if self._failed_before:
            told.append(f"{self._failed_before} failed in earlier invocations of the sweep, named in the log")
        return ". ".join(told)

    def _sorted(self, outcome: Outcome) -> list[Result]:
        return sorted(self._kept[outcome], key=lambda result: result.repository)
