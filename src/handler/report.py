"""The report: what one invocation did, as it is logged and answered."""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto

from aws_lambda_powertools import Logger

from handler.foreign import Denial

# Lambda filters lines by level only if their time is in this form.
logger = Logger(service="ecr-allow-pull", use_rfc3339=True, location=None)

# However many repositories there are, the answer and the error stay small enough to read.
_MAX_DETAILS = 100
_MAX_NAMED = 10

_WHY_REFUSED = (
    "it does not exist, or was made less than a minute ago. Create it, or take it out of WorkerRoleArns"
)


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
    """One repository's check.

    Attributes:
        repository: its name.
        outcome: what became of the check.
        added: whom our statement gained.
        removed: whom our statement lost.
        refused: the worker roles that it lacks, because ECR refuses them.
        denied_by: the statements that deny worker roles a pull.
        reason: why the check failed.
    """

    repository: str
    outcome: Outcome
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    denied_by: tuple[Denial, ...] = ()
    reason: str = ""

    def details(self) -> dict[str, object]:
        """Give what is known, without what is empty. The refused roles are the whole report's."""
        known = {
            "repository": self.repository,
            "outcome": self.outcome.value,
            "added": list(self.added),
            "removed": list(self.removed),
            "denied_by": [_details_of(denial) for denial in self.denied_by],
            "reason": self.reason,
        }
        return {key: value for key, value in known.items() if value}


def _details_of(denial: Denial) -> dict[str, object]:
    details: dict[str, object] = {"statement": denial.statement, "roles": list(denial.roles)}
    return details | {"conditional": True} if denial.conditional else details


class _Urgency(IntEnum):
    """In what order the answer lists results."""

    FAILED = auto()
    LACKS_A_REFUSED_ROLE = auto()
    DENIED = auto()
    CHANGED = auto()
    NOT_CHECKED = auto()
    UNCHANGED = auto()

    @classmethod
    def of(cls, result: Result) -> "_Urgency":
        if result.refused:
            return cls.LACKS_A_REFUSED_ROLE
        if result.outcome is Outcome.FAILED:
            return cls.FAILED
        if result.denied_by:
            return cls.DENIED
        match result.outcome:
            case Outcome.UNCHANGED:
                return cls.UNCHANGED
            case Outcome.ATTACHED | Outcome.WOULD_ATTACH:
                return cls.CHANGED
        return cls.NOT_CHECKED


class ChecksFailed(Exception):
    """Some repositories do not carry the grant for every worker role; what could be done was done."""


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
        self._urgencies: Counter[_Urgency] = Counter()
        self._refused: Counter[str] = Counter()
        self._denied = 0
        self._kept: dict[_Urgency, list[Result]] = {urgency: [] for urgency in _Urgency}

    def add(self, result: Result) -> None:
        """Count a result, and log it unless it says nothing new."""
        urgency = _Urgency.of(result)
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
            logger.warning("pull denied", extra=result.details())
        if urgency is _Urgency.FAILED:
            logger.error("check failed", extra=result.details())
        elif result.outcome not in (Outcome.UNCHANGED, Outcome.FAILED):
            logger.info("checked", extra=result.details())

    def answer(self) -> dict[str, object]:
        """Give the totals, and the details up to a limit: failures first, the unchanged only among few."""
        checked = self._totals.total()
        listed = [result for urgency in _Urgency for result in self._sorted(urgency)]
        if checked > _MAX_DETAILS:
            listed = [result for result in listed if _Urgency.of(result) is not _Urgency.UNCHANGED]
        answer: dict[str, object] = {
            "checked": checked,
            "dry_run": self._dry_run,
            "outcomes": {outcome.value: count for outcome, count in self._totals.items()},
            "repositories": [result.details() for result in listed[:_MAX_DETAILS]],
            "truncated": checked - self._urgencies[_Urgency.UNCHANGED] > _MAX_DETAILS,
        }
        further = {
            "refused_roles": [
                {"role": role, "missing_in": count, "reason": _WHY_REFUSED}
                for role, count in sorted(self._refused.items())
            ],
            "denied": self._denied,
            "unmatched": self.unmatched,
            "handed_over": self._handed_over,
            "ignored": self._ignored,
        }
        return answer | {key: value for key, value in further.items() if value}

    @property
    def failed(self) -> int:
        """How many repositories lack the grant for a worker role, in this and earlier invocations."""
        here = self._urgencies[_Urgency.FAILED] + self._urgencies[_Urgency.LACKS_A_REFUSED_ROLE]
        return here + self._failed_before

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
        told = [
            f"ECR refused the worker role {role} for {count} of {checked} repositories: {_WHY_REFUSED}"
            for role, count in sorted(self._refused.items())
        ]
        if count := self._urgencies[_Urgency.FAILED]:
            named = self._sorted(_Urgency.FAILED)[:_MAX_NAMED]
            reasons = "; ".join(f"{result.repository}: {result.reason}" for result in named)
            more = f"; and {count - len(named)} more, named in the log" if count > len(named) else ""
            told.append(f"{count} of {checked} repositories failed: {reasons}{more}")
        if self._failed_before:
            told.append(f"{self._failed_before} failed in earlier invocations of the sweep, named in the log")
        return ". ".join(told)

    def _sorted(self, urgency: _Urgency) -> list[Result]:
        return sorted(self._kept[urgency], key=lambda result: result.repository)
