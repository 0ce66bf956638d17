"""Shows a plan to a person, and the progress until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from handler.policy.registry_policy import Status
from scripts.plan_result import by_change, by_denial, by_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from handler.policy.denials import Denial
    from handler.policy.registry_policy import RegistryPolicy
    from scripts.plan_result import Change, Plan

_MAX_NAMES = 12  # repositories that a group names; --json lists all
_MAX_GROUPS = 10
_REGISTRY_POLICY = {
    Status.ALLOWS: "allows the pull by the worker roles",
    Status.ALLOWS_SOME_ROLES: "allows the pull by some of the worker roles",
    Status.CONDITIONAL: "allows or denies the pull by the worker roles under a condition",
    Status.DENIES: "denies the pull by the worker roles",
    Status.UNKNOWN: "is unknown",
}
_COLORS = {"+": "green", "-": "red"}
_MIN_WIDTH = 110  # characters, where the output is no terminal


def console(*, stderr: bool = False) -> Console:
    """Return a console that does not fold long ARNs in a file or a pipe."""
    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=_MIN_WIDTH)


class PlanProgress:
    """A progress bar on standard error: first the listed repositories, then the policies that were read."""

    def __init__(self) -> None:
        """Prepare the bar, which appears only in a terminal."""
        stderr = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=stderr, transient=True, disable=not stderr.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("Listing repositories", total=None)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def listed(self, count: int) -> None:
        """Show how many repositories are listed so far."""
        self._progress.update(self._task, completed=count)

    def start_reading(self, total: int) -> None:
        """Start the bar of the policies to read."""
        self._progress.reset(self._task, description="Reading policies", total=total)

    def advance(self) -> None:
        """Count a policy that was read."""
        self._progress.advance(self._task)


def show(plan: Plan, console: Console) -> None:
    """Print the counts, then the repositories that would change, are denied, or cannot be read."""
    registry = f"account {plan.account}, {plan.region}" if plan.account else plan.region
    console.print(f"\n[bold]Plan for the registry of {registry}[/]\n")
    console.print(Padding(_counts(plan), (0, 0, 0, 2), expand=False))
    if plan.registry_policy:
        _show_registry_policy(plan.registry_policy, console)
    _show_changes(plan, console)
    _show_denied(plan, console)
    _show_failed(plan, console)
    if plan.listed and plan.unmatched:
        console.print(Text(f"\n! No repository matches: {', '.join(plan.unmatched)}", style="yellow"))
    console.print(f"\n{_summary(plan)}\n")


def _counts(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    rows = (
        (len(plan.granted), "green", "have the grant"),
        (len(plan.to_change), "yellow", "would change"),
        (len(plan.denied), "magenta", "have a statement that denies the grant"),
        (len(plan.failed), "red", "failed, for the reasons below"),
        (len(plan.gone), "dim", "were deleted meanwhile"),
        (plan.in_scope - len(plan.results), "red", "were not read"),
        (plan.listed - plan.in_scope, "dim", "are out of scope"),
    )
    table.add_row(f"{plan.listed:,}", "repositories", style="bold")
    for count, style, text in rows:
        if count or text in {"have the grant", "would change"}:
            table.add_row(f"{count:,}", text, style=style if count else "dim")
    return table


def _show_registry_policy(policy: RegistryPolicy, console: Console) -> None:
    meaning = _REGISTRY_POLICY.get(policy.status, "denies a grant" if policy.denied_by else "")
    if not meaning:
        return
    note = f": {policy.note}" if policy.note else ""
    console.print()
    console.print(Text(f"The registry's policy {meaning}{note}", style="bold"))
    for denial in policy.denied_by:
        _print_line(_denial(denial), "magenta", console)


def _denial(denial: Denial) -> str:
    condition = " under a condition" if denial.conditional else ""
    return f"{denial.statement} denies {denial.grant}{condition} to {', '.join(denial.roles)}"


def _show_groups[K](
    groups: Mapping[K, Sequence[str]],
    heading: str,
    lines: Callable[[K], Iterable[tuple[str, str]]],
    kind: str,
    console: Console,
) -> None:
    """Print the largest groups, each with its lines, which are texts with a style, and its repositories."""
    for group, repositories in list(groups.items())[:_MAX_GROUPS]:
        console.print(f"\n{heading.format(_repositories(len(repositories)))}")
        for text, style in lines(group):
            _print_line(text, style, console)
        _print_names(repositories, console)
    if len(groups) > _MAX_GROUPS:
        console.print(f"\n[dim]… and {len(groups) - _MAX_GROUPS:,} more {kind}: see --json[/]")


def _change_lines(changes: Iterable[Change]) -> list[tuple[str, str]]:
    return [(f"{one.sign} {one.sid}  {one.principal}", _COLORS[one.sign]) for one in changes]


def _show_changes(plan: Plan, console: Console) -> None:
    heading = "[bold]{} would change[/]"
    _show_groups(by_change(plan.to_change), heading, _change_lines, "kinds of change", console)


def _show_denied(plan: Plan, console: Console) -> None:
    heading = "[bold magenta]{} denied by a foreign statement[/]"
    kind = "statements that deny a grant"
    _show_groups(by_denial(plan.denied), heading, lambda one: [(_denial(one), "magenta")], kind, console)


def _show_failed(plan: Plan, console: Console) -> None:
    heading = "[bold red]{} failed[/]"
    _show_groups(by_reason(plan.failed), heading, lambda reason: [(reason, "red")], "reasons", console)


def _print_line(text: str, style: str, console: Console) -> None:
    console.print(Padding(Text(text, style=style), (0, 0, 0, 2), expand=False))


def _print_names(repositories: Sequence[str], console: Console) -> None:
    more = f", … and {len(repositories) - _MAX_NAMES:,} more" if len(repositories) > _MAX_NAMES else ""
    console.print(Padding(Text(", ".join(repositories[:_MAX_NAMES]) + more), (0, 0, 0, 4), expand=False))


def _summary(plan: Plan) -> str:
    if not plan.complete:
        return f"[yellow]Stopped after {len(plan.results):,} of {plan.in_scope:,} repositories.[/]"
    if plan.failed:
        return f"[red]✗ {_repositories(len(plan.failed))} failed.[/] Nothing was written."
    if plan.to_change:
        return f"[yellow]{_repositories(len(plan.to_change))} would change.[/] Nothing was written."
    if not plan.listed:
        return "[yellow]! No repositories. Check the account and the region (AWS_PROFILE, AWS_REGION).[/]"
    return "[green]✓ Nothing to do.[/]"


def _repositories(count: int) -> str:
    return f"{count:,} {'repository' if count == 1 else 'repositories'}"
