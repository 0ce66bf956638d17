"""The totals of one invocation: the counts of all results, and some of the results themselves. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from handler.policy.denials import Denial
from handler.reconcile.result import Outcome, Result, Severity

# Results that are kept of each severity: memory does not grow with the number of repositories.
MAX_DETAILS = 100


@dataclass(slots=True)
class Totals:
    """The counts of all results, and some of the results of each severity.

    Attributes:
        outcomes: the repositories with each outcome.
        severities: the repositories with each severity.
        refused: the repositories that lack a grant for each role that ECR refused.
        not_removed: for each Sid, the repositories that keep unlisted principals.
        unlisted: the repositories with unlisted principals.
        unlisted_entries: the unlisted principals in all of them.
        denied: the repositories whose policy denies a grant.
        pulls_denied: the policies that always deny the pull, the registry's included.
        pulls_denied_conditionally: those that deny the pull only under a condition.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    severities: Counter[Severity] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    not_removed: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0
    unlisted_entries: int = 0
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
        return self.severities[Severity.FAILED] + self.severities[Severity.ROLE_REFUSED]

    def add(self, result: Result) -> None:
        """Count a result, and keep it unless there are many of its severity."""
        severity = Severity.of(result)
        self.outcomes[result.outcome] += 1
        self.severities[severity] += 1
        self.refused.update(result.refused)
        self.not_removed.update(result.not_removed)
        self.unlisted += bool(result.unlisted)
        self.unlisted_entries += len(result.unlisted)
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
