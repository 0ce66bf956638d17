"""Runs `plan`: from the settings to the output and the exit code."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from cli.aws import Aws
from cli.console import console, print_error
from cli.errors import NO_REGION, CliError
from cli.plan.progress import PlanProgress
from cli.plan.run import Stop, make_plan
from cli.plan.view import show
from handler.settings import Mode

if TYPE_CHECKING:
    from cli.plan.result import Plan
    from handler.settings import Settings

NOTHING_TO_DO, ERROR, CHANGES, PULLS_DENIED, INTERRUPTED = 0, 1, 2, 3, 128 + signal.SIGINT


def run(settings: Settings, profile: str | None, region: str | None, *, as_json: bool) -> int:
    """Make the plan and print it; return the exit code.

    Raises:
        CliError: the plan cannot be made.
    """
    stop = Stop()
    aws = Aws(profile, region)
    if not aws.region:
        raise CliError(NO_REGION)
    _check_partition(settings, aws, aws.region)
    progress = PlanProgress()
    before = signal.signal(signal.SIGINT, partial(on_interrupt, stop))
    try:
        with progress:
            plan = make_plan(settings, aws.ecr_of_the_function(), aws.cloudtrail(), stop, progress)
    finally:
        signal.signal(signal.SIGINT, before)
    if as_json:
        print(json.dumps(plan.to_json(), indent=2))  # noqa: T201 - the output
    else:
        show(plan, console())
    if stop.error:
        print_error(stop.error)
        return ERROR
    return exit_code(plan, stop)


def on_interrupt(stop: Stop, *_: object) -> None:
    """Stop the sweep on the first Ctrl-C, and exit at once on the second."""
    if stop.interrupted:
        console(stderr=True).show_cursor()
        os._exit(INTERRUPTED)
    stop.on_interrupt()


def exit_code(plan: Plan, stop: Stop) -> int:
    """Return the exit code: what went wrong first, then what would change, then what stays denied."""
    if stop.interrupted:
        return INTERRUPTED
    if plan.failed or not plan.in_scope:
        return ERROR
    if plan.to_change:
        return CHANGES
    if plan.pulls_stay_denied and plan.mode is not Mode.REMOVE:
        return PULLS_DENIED
    return ERROR if plan.mistyped else NOTHING_TO_DO


def _check_partition(settings: Settings, aws: Aws, region: str) -> None:
    partition = aws.partition(region)
    for role in sorted(settings.roles()):
        if partition and role.split(":")[1] != partition:
            raise CliError(
                f"{role} is a role of the partition {role.split(':')[1]}, and {region} is in {partition}: "
                "a role of another partition can never pull."
            )
