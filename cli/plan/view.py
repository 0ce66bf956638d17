"""Shows a plan to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table

from cli.console import count, print_line, shortened
from cli.plan.result import by_change, by_denial, by_reason, by_unlisted
from cli.plan.today import Today
from cli.plan.trail import Status as TrailStatus
from handler.policy.registry_policy import Status
from handler.reconcile.result import Outcome
from handler.settings import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from cli.plan.result import Change, Plan
    from handler.policy.denials import Denial
    from handler.policy.grants import Grantee
    from handler.policy.registry_policy import RegistryPolicy

_MAX_GROUPS = 10
_REGISTRY_POLICY = {
    Status.ALLOWS: "allows the pull by the worker roles",
    Status.ALLOWS_SOME_ROLES: "allows the pull by some of the worker roles",
    Status.CONDITIONAL: "allows or denies the pull by the worker roles under a condition",
    Status.DENIES: "denies the pull by the worker roles",
    Status.UNKNOWN: "is unknown",
}
_COLORS = {"+": "green", "-": "red"}


def show(plan: Plan, console: Console) -> None:
    """Print the counts, then the repositories that would change, are denied, or cannot be read."""
    registry = f"account {plan.account}, {plan.region}" if plan.account else plan.region
    title = "Removal plan" if plan.mode is Mode.REMOVE else "Plan"
    console.print()
    print_line(console, f"{title} for the registry of {registry}", "bold", indent=0)
    console.print()
    console.print(Padding(_counts(plan), (0, 0, 0, 2), expand=False))
    if plan.registry_policy and plan.mode is not Mode.REMOVE:
        _show_registry_policy(plan.registry_policy, console)
    _show_changes(plan, console)
    _show_denied(plan, console)
    _show_unlisted(plan, console)
    _show_failed(plan, console)
    if plan.unmatched and plan.listed:
        console.print()
        print_line(console, f"! No repository matches: {', '.join(plan.unmatched)}", "yellow", indent=0)
    _show_notes(plan, console)
    console.print()
    print_line(console, *_summary(plan), indent=0)
    console.print()


def _counts(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    for number, style, text in _rows(plan):
        table.add_row(f"{number:,}", text, style=style if number else "dim")
    return table


def _rows(plan: Plan) -> Iterator[tuple[int, str, str]]:
    """Yield the counts. Those that are not indented add up to the first."""
    removes = plan.mode is Mode.REMOVE
    changed = plan.of(Outcome.WOULD_ATTACH, Outcome.WOULD_REMOVE)
    yield plan.listed, "bold", "repository" if plan.listed == 1 else "repositories"
    of_all = (
        (len(plan.denied), "magenta", "  of these: with a foreign statement that denies a grant"),
        (len(plan.unlisted), "yellow", "  of these: with principals that are not configured"),
    )
    yield from ((number, style, text) for number, style, text in of_all if number)
    unchanged = "nothing to remove" if removes else "with every grant"
    yield len(plan.of(Outcome.UNCHANGED)), "", unchanged
    yield len(changed), "yellow", "would change"
    if changed and not removes:
        yield from _today_rows(plan)
    optional = (
        (len(plan.failed), "red", "failed, for the reasons below"),
        (len(plan.of(Outcome.GONE)), "dim", "deleted meanwhile"),
        (plan.in_scope - len(plan.results), "red", "not read"),
        (plan.listed - plan.in_scope, "dim", "out of scope"),
    )
    yield from ((number, style, text) for number, style, text in optional if number)


def _today_rows(plan: Plan) -> Iterator[tuple[int, str, str]]:
    by_kind = ", ".join(f"{kind} ({number:,})" for kind, number in plan.today.allowed_by.most_common())
    texts = {
        Today.ALLOWED: ("green", f"  of these: already allow the pull, by {by_kind}"),
        Today.CONDITIONAL: ("yellow", "  of these: allow the pull under a condition"),
        Today.DENIED: ("red", "  of these: deny the pull now"),
    }
    for today, (style, text) in texts.items():
        if names := plan.today.repositories[today]:
            yield len(names), style, text


def _show_registry_policy(policy: RegistryPolicy, console: Console) -> None:
    meaning = _REGISTRY_POLICY.get(policy.status, "denies a grant" if policy.denied_by else "")
    if not meaning:
        return
    note = f": {policy.note}" if policy.note else ""
    console.print()
    print_line(console, f"The registry's policy {meaning}{note}", "bold", indent=0)
    for denial in policy.denied_by:
        print_line(console, _denial(denial), "magenta")


def _denial(denial: Denial) -> str:
    condition = " under a condition" if denial.conditional else ""
    return f"{denial.statement} denies {denial.grant}{condition} to {', '.join(denial.roles)}"


def _show_groups[K](
    groups: Mapping[K, Sequence[str]],
    heading: tuple[str, str],
    lines: Callable[[K], Iterable[tuple[str, str]]],
    kind: str,
    console: Console,
) -> None:
    """Print the largest groups, each with its lines, which are texts with a style, and its repositories."""
    text, style = heading
    for group, repositories in list(groups.items())[:_MAX_GROUPS]:
        console.print()
        print_line(console, text.format(_repositories(len(repositories))), style, indent=0)
        for line in lines(group):
            print_line(console, *line)
        print_line(console, shortened(repositories), indent=4)
    if len(groups) > _MAX_GROUPS:
        console.print()
        print_line(console, f"… and {len(groups) - _MAX_GROUPS:,} more {kind}: see --json", "dim", indent=0)


def _change_lines(changes: Iterable[Change]) -> list[tuple[str, str]]:
    return [(f"{one.sign} {one.sid}  {one.principal}", _COLORS[one.sign]) for one in changes]


def _unlisted_lines(grantee: Grantee) -> list[tuple[str, str]]:
    return [(f"{grantee.sid}  {grantee.principal}", "yellow")]


def _show_changes(plan: Plan, console: Console) -> None:
    heading = "{} would change", "bold"
    _show_groups(by_change(plan.to_change), heading, _change_lines, "kinds of change", console)


def _show_denied(plan: Plan, console: Console) -> None:
    heading = "{} with a foreign statement that denies a grant", "bold magenta"
    kind = "statements that deny a grant"
    _show_groups(by_denial(plan.denied), heading, lambda one: [(_denial(one), "magenta")], kind, console)


def _show_unlisted(plan: Plan, console: Console) -> None:
    heading = "{} with a principal in the grants that is not configured", "bold yellow"
    _show_groups(by_unlisted(plan.unlisted), heading, _unlisted_lines, "principals", console)


def _show_failed(plan: Plan, console: Console) -> None:
    heading = "{} failed", "bold red"
    _show_groups(by_reason(plan.failed), heading, lambda reason: [(reason, "red")], "reasons", console)


def _show_notes(plan: Plan, console: Console) -> None:
    if plan.mode is Mode.REMOVE or not plan.in_scope:
        return
    console.print()
    if plan.trail:
        style = {TrailStatus.LOGS: "green", TrailStatus.UNKNOWN: "dim"}.get(plan.trail.status, "yellow")
        print_line(console, plan.trail.note, style, indent=0)
    missing = "Not checked: whether the roles exist. A dry run of a deployed function names missing roles."
    print_line(console, missing, "dim", indent=0)


def _summary(plan: Plan) -> tuple[str, str]:
    stays_denied = plan.pulls_stay_denied and plan.mode is not Mode.REMOVE
    changed, failed = _repositories(len(plan.to_change)), _repositories(len(plan.failed))
    summaries = (
        (
            not plan.complete,
            f"Stopped after {len(plan.results):,} of {_repositories(plan.in_scope)}.",
            "yellow",
        ),
        (plan.failed, f"✗ {failed} failed. Nothing was written.", "red"),
        (
            not plan.listed,
            "✗ No repositories. Check the account and the region (--profile, --region).",
            "red",
        ),
        (not plan.in_scope, "✗ No repository is in scope. Check --repositories.", "red"),
        (plan.to_change, f"{changed} would change. Nothing was written.", "yellow"),
        (stays_denied, "! Nothing to write, but pulls stay denied by the statements above.", "yellow"),
        (
            plan.mistyped,
            f"✗ No repository matches {', '.join(plan.mistyped)}. Check --repositories.",
            "red",
        ),
    )
    return next(
        ((text, style) for applies, text, style in summaries if applies), ("✓ Nothing to do.", "green")
    )


def _repositories(number: int) -> str:
    return count(number, "repository", "repositories")
