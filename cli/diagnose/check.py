"""One check of a diagnosis, and the verdict that follows from all. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto


class Mark(StrEnum):
    """The result of a check."""

    OK = auto()
    FAILED = auto()
    UNKNOWN = auto()
    NOTE = auto()


class Verdict(StrEnum):
    """What a pull by the role gets."""

    ALLOWED = auto()
    DENIED = auto()
    UNDECIDED = auto()


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: what was checked.
        mark: the result.
        reason: why.
        fix: what to do.
    """

    name: str
    mark: Mark
    reason: str
    fix: str = ""

    def details(self) -> dict[str, str]:
        """Return the fields that are not empty, for JSON."""
        details = {"check": self.name, "result": self.mark.value, "reason": self.reason, "fix": self.fix}
        return {key: value for key, value in details.items() if value}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The checks of a pull, in order, and the verdict."""

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict: a failed check denies, and an unknown one leaves it undecided."""
        marks = {check.mark for check in self.checks}
        if Mark.FAILED in marks:
            return Verdict.DENIED
        return Verdict.UNDECIDED if Mark.UNKNOWN in marks else Verdict.ALLOWED

    @property
    def reason(self) -> str:
        """The reason for the verdict: that of the first check that decides."""
        deciding = {Verdict.DENIED: Mark.FAILED, Verdict.UNDECIDED: Mark.UNKNOWN}.get(self.verdict)
        first = next((check for check in self.checks if check.mark is deciding), None)
        return first.reason if first else "both sides allow every action that the pull needs"


def joined(items: tuple[str, ...] | list[str]) -> str:
    """Join items for a sentence."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
