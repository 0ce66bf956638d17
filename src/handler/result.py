"""The result of one check: what became of it, and how urgent it is to tell."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto

from handler.foreign import Denial


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


class Urgency(IntEnum):
    """In what order the answer lists results."""

    FAILED = auto()
    LACKS_A_REFUSED_ROLE = auto()
    DENIED = auto()
    CHANGED = auto()
    NOT_CHECKED = auto()
    UNCHANGED = auto()

    @classmethod
    def of(cls, result: Result) -> "Urgency":
        """Tell how urgent a result is."""
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
