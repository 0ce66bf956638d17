"""The command: a run, the cleanup alone, or the comparison of a report with the claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acceptance import compare as comparison
from acceptance.aws import connect
from acceptance.claims import load
from acceptance.prefix import InvalidPrefix, checked
from acceptance.run import KEPT, NOT_KEPT, clean_up, run
from cli.console import print_error
from cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Sequence

WRONG_INPUT = 2
PROGRAM = "python -m acceptance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. An error is one sentence."""
    try:
        return int(acceptance.main(arguments, PROGRAM, standalone_mode=False) or 0)
    except click.Abort:
        print_error("Stopped. Nothing was created.")
        return NOT_KEPT
    except click.ClickException as error:
        print_error(error.format_message())
        return WRONG_INPUT
    except (InvalidPrefix, comparison.InvalidReport) as error:
        print_error(f"{error}.")
        return WRONG_INPUT
    except CliError as error:
        print_error(f"{str(error).rstrip('.')}.")
        return NOT_KEPT


@click.group(invoke_without_command=True)
@click.option("--yes", is_flag=True, help="Don't ask before the resources are created.")
@click.option("--large-registry", is_flag=True, help="Run in a region with many repositories.")
@click.option("--skip-permission-check", is_flag=True, help="Run without a check of the permissions.")
@click.option("--cleanup", metavar="PREFIX", help="Only delete what a run with this prefix created.")
@click.pass_context
def acceptance(
    context: click.Context,
    cleanup: str | None,
    *,
    yes: bool,
    large_registry: bool,
    skip_permission_check: bool,
) -> int:
    """Prove every promise of the project in an AWS account, and delete everything afterwards.

    Uses the credentials of AWS_PROFILE and the region AWS_REGION.

    \b
    Exit codes:
      0  all promises were kept, and everything was deleted
      1  a promise was not kept, something was not deleted, or the account can't be used
      2  an invalid option
    """  # noqa: D301 - \b is for click
    if context.invoked_subcommand:
        return KEPT
    if cleanup is not None:
        prefix = checked(cleanup)
        return NOT_KEPT if clean_up(connect(), prefix) else KEPT
    return run(yes=yes, large_registry=large_registry, skip_permission_check=skip_permission_check)


@acceptance.command()
@click.argument("report", type=click.Path(path_type=Path))
def compare(report: Path) -> int:
    """Compare the facts of REPORT, an acceptance-report.json, with what the code relies on.

    \b
    Exit codes:
      0  no fact contradicts a claim
      1  a fact contradicts a claim
      2  the file is not a report
    """  # noqa: D301 - \b is for click
    found = comparison.compare(load(), comparison.read(report))
    comparison.show(found)
    return NOT_KEPT if found.contradicted else KEPT
