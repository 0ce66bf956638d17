"""The report: what one invocation did, as it is logged and answered."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from aws_lambda_powertools import Logger

logger = Logger(service="ecr-allow-pull", use_rfc3339=True)

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

    def __init__(self, *, dry_run: bool, ignored: str = "") -> None:
        """Begin a report; `ignored` is why the event asks for no check, if it asks for none."""
        self._dry_run = dry_run
        self._ignored = ignored
        self._totals: Counter[Outcome] = Counter()
        self._unchanged: list[Result] = []
        self._others: list[Result] = []

    def add(self, result: Result) -> None:
        """Count a result, and log it unless it says that nothing had to be done."""
        self._totals[result.outcome] += 1
        kept = self._unchanged if result.outcome is Outcome.UNCHANGED else self._others
        if len(kept) < _MAX_DETAILS:
            kept.append(result)
        if result.outcome is Outcome.FAILED:
            logger.error("check failed", extra=result.details())
        elif result.outcome is not Outcome.UNCHANGED:
            logger.info("checked", extra=result.details())

    def answer(self) -> dict[str, object]:
        """Give the totals, and the details up to a limit: of all, or else of what is not unchanged."""
        checked = self._totals.total()
        listed = self._others + (self._unchanged if checked <= _MAX_DETAILS else [])
        answer: dict[str, object] = {
            "checked": checked,
            "dry_run": self._dry_run,
            "outcomes": {outcome.value: count for outcome, count in self._totals.items()},
            "repositories": [result.details() for result in listed],
            "truncated": checked - self._totals[Outcome.UNCHANGED] > _MAX_DETAILS,
        }
        return answer | {"ignored": self._ignored} if self._ignored else answer

    def close(self) -> dict[str, object]:
        """Log the totals and give the answer.

        Raises:
            ChecksFailed: a repository failed; names it and why.
        """
        answer = self.answer()
        logger.info("report", extra={key: value for key, value in answer.items() if key != "repositories"})
        if count := self._totals[Outcome.FAILED]:
            failed = [result for result in self._others if result.outcome is Outcome.FAILED]
            named = "; ".join(f"{result.repository}: {result.reason}" for result in failed[:_MAX_NAMED])
            more = f"; and {count - _MAX_NAMED} more, named in the log" if count > _MAX_NAMED else ""
            raise ChecksFailed(f"{count} of {answer['checked']} repositories failed: {named}{more}")
        return answer
