"""The totals of one invocation: the counts of all results, and some of the results themselves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto

from handler.policy.denials import Denial
from handler.reconcile.result import Outcome, Result

# Results that are kept of each severity: memory does not grow with the number of repositories.
MAX_DETAILS = 100


class Severity(IntEnum):
    """The order in which the response lists results."""

    FAILED = auto()
    ROLE_MISSING = auto()
    DENIED = auto()
    CHANGED = auto()
    UNLISTED = auto()
    SKIPPED = auto()
    UNCHANGED = auto()

    @classmethod
    def of(cls, result: Result) -> "Severity":
        """Return the severity of a result."""
        if result.lacks_grant:
            return cls.FAILED if result.error else cls.ROLE_MISSING
        if result.denied_by:
            return cls.DENIED
        match result.outcome:
            case Outcome.UNCHANGED | Outcome.OUT_OF_SCOPE if result.unlisted or result.out_of_scope_grants:
                return cls.UNLISTED
            case Outcome.UNCHANGED:
                return cls.UNCHANGED
            case Outcome.ATTACHED | Outcome.REMOVED | Outcome.WOULD_ATTACH | Outcome.WOULD_REMOVE:
                return cls.CHANGED
        return cls.SKIPPED


@dataclass(slots=True)
class Totals:
    """The counts of all results, and some of the results of each severity.

    Each counts repositories, but `unlisted_grantees` counts principals in all of them, and `pulls_denied`
    counts policies that deny the pull, always or only under a condition, the registry's policy included.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    severities: Counter[Severity] = field(default_factory=Counter)
    missing_roles: Counter[str] = field(default_factory=Counter)
    recreated: Counter[str] = field(default_factory=Counter)
    not_removed: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0
    unlisted_grantees: int = 0
    out_of_scope_grants: int = 0
    denied: int = 0
    pulls_denied: int = 0
    pulls_denied_conditionally: int = 0
    _results: dict[Severity, list[Result]] = field(default_factory=lambda: {each: [] for each in Severity})

    @property
    def checked(self) -> int:
        """The repositories with a result."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """The repositories that lack a grant."""
        return self.severities[Severity.FAILED] + self.severities[Severity.ROLE_MISSING]

    def add(self, result: Result) -> None:
        """Count a result, and keep it unless there are many of its severity."""
        severity = Severity.of(result)
        self.outcomes[result.outcome] += 1
        self.severities[severity] += 1
        self.missing_roles.update(result.missing_roles)
        self.recreated.update(result.recreated)
        self.not_removed.update(result.not_removed)
        self.unlisted += bool(result.unlisted)
        self.unlisted_grantees += len(result.unlisted)
        self.out_of_scope_grants += bool(result.out_of_scope_grants)
        self.denied += bool(result.denied_by)
        self.add_denials(result.denied_by)
        if len(self._results[severity]) < MAX_DETAILS:
            self._results[severity].append(result)

    def add_denials(self, denials: Sequence[Denial]) -> None:
        """Count the denials of one policy."""
        refusing = [denial for denial in denials if denial.refuses_pull]
        always = any(not denial.conditional for denial in refusing)
        self.pulls_denied += always
        self.pulls_denied_conditionally += bool(refusing) and not always

    def results(self, severity: Severity) -> list[Result]:
        """Return the results of a severity that were kept, by name."""
        return sorted(self._results[severity], key=lambda result: result.repository)
