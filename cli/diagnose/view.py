"""Shows a diagnosis to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.console import print_line
from cli.diagnose.check import Mark, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from cli.diagnose.check import Diagnosis
    from cli.diagnose.facts import Facts

_MARKS = {
    Mark.OK: ("✓", "green"),
    Mark.FAILED: ("✗", "red"),
    Mark.UNKNOWN: ("?", "yellow"),
    Mark.NOTE: ("·", "dim"),
}
_VERDICTS = {
    Verdict.ALLOWED: ("✓ Allowed", "bold green"),
    Verdict.DENIED: ("✗ Denied", "bold red"),
    Verdict.UNDECIDED: ("? Undecided", "bold yellow"),
}


def show(facts: Facts, diagnosis: Diagnosis, console: Console) -> None:
    """Print the checks in order, each with its fix, and at last the verdict."""
    console.print()
    print_line(console, f"Pull of {facts.image.address()}", "bold", indent=0)
    print_line(console, f"by {facts.role.arn}", "bold", indent=0)
    console.print()
    for check in diagnosis.checks:
        sign, style = _MARKS[check.mark]
        print_line(console, f"{sign} {check.name}: {check.reason}", style)
        if check.fix:
            print_line(console, f"→ {check.fix}", indent=4)
    console.print()
    text, style = _VERDICTS[diagnosis.verdict]
    print_line(console, f"{text}: {diagnosis.reason}", style, indent=0)
    console.print()
