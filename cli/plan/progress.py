"""The progress of a plan: a bar on standard error, only in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.console import console

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


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


class NoProgress:
    """Shows nothing."""

    def listed(self, count: int) -> None:
        """Ignore the repositories that are listed so far."""

    def start_reading(self, total: int) -> None:
        """Ignore that policies are read."""

    def advance(self) -> None:
        """Ignore a policy that was read."""
