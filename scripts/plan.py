"""The plan, `make plan`: shows what the function would do to a real registry, and writes nothing.

Needs AWS credentials with three read-only permissions, and nothing deployed. The settings are the function's
own environment variables: WORKER_ROLE_ARNS, REPOSITORIES and so on.

Exit codes: 0 nothing to do, 2 something would change, 1 an error, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from rich.text import Text

from handler.ecr.errors import RegistryError
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.ecr.retry import Deadline, DeadlineExceeded, retry_with_backoff
from handler.events.request import Request
from handler.policy.scope import ROLE_CHECK_PREFIX, matches_any
from handler.reconcile.result import Outcome
from handler.reconcile.sweep import OutOfTime, Sweep, read_registry_policy
from handler.settings import InvalidSetting, Settings
from handler.telemetry import logger
from scripts.plan_client import connect
from scripts.plan_errors import PlanError, explain, explain_reason, is_denied
from scripts.plan_result import Plan
from scripts.plan_view import PlanProgress, console, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_ecr import ECRClient

    from handler.reconcile.result import Result

NOTHING_TO_DO, ERROR, CHANGES, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT
_UNSUCCESSFUL = (Outcome.FAILED, Outcome.INTERRUPTED)
# A plan writes nothing: it has no writes of its own to recognize, and checks no role.
WITHOUT_STACK = {
    "MODE": "plan",
    "ROLE_NAME": "plan",
    "POWERTOOLS_SERVICE_NAME": "plan",
    "ROLE_CHECK_REPOSITORY": f"{ROLE_CHECK_PREFIX}plan",
}
_SETTINGS = (
    "WORKER_ROLE_ARNS",
    "REPOSITORIES",
    "DESCRIBE_ROLE_ARNS",
    "PULL_THROUGH_CACHE_REPOSITORIES",
    "REMOVE_UNLISTED_ROLES",
)


class Stop:
    """Ends the sweep early: on Ctrl-C, or if the rest would fail too."""

    def __init__(self) -> None:
        """Start with no end in sight."""
        self.requested = False
        self.interrupted = False
        self.error = ""

    def time_left(self) -> float:
        """Return the seconds that the sweep has."""
        return 0.0 if self.requested else inf

    def on_interrupt(self, *_: object) -> None:
        """Stop the sweep on the first Ctrl-C, and exit at once on the second."""
        if self.interrupted:
            console(stderr=True).show_cursor()
            os._exit(INTERRUPTED)
        self.requested = self.interrupted = True

    def on_error(self, error: str) -> None:
        """Stop the sweep for an error that every other call would have too."""
        self.requested, self.error = True, error


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the plan and print it; return the exit code."""
    options = _parser().parse_args(arguments)
    stop = Stop()
    before = signal.signal(signal.SIGINT, stop.on_interrupt)
    try:
        plan = make_plan(_settings(os.environ), _connect(options), stop)
    except (PlanError, InvalidSetting) as error:
        return _fail(str(error))
    finally:
        signal.signal(signal.SIGINT, before)
    if options.json:
        print(json.dumps(plan.to_json(), indent=2))  # noqa: T201 - the output
    else:
        show(plan, console())
    return _fail(stop.error) if stop.error else _exit_code(plan, stop)


def make_plan(settings: Settings, client: ECRClient, stop: Stop) -> Plan:
    """List the repositories, and reconcile each in a dry run.

    Raises:
        PlanError: the registry cannot be read.
    """
    plan = Plan(region=client.meta.region_name)
    registry = Registry(client)
    arn = _first_repository_arn(client)
    with PlanProgress() as progress:
        if arn:
            prefix = arn.partition("/")[0] + "/"
            plan.account = arn.split(":")[4]
            plan.registry_policy = read_registry_policy(registry, settings, prefix)
        names = _list(registry, progress, stop)
        in_scope = tuple(name for name in names if name in settings.scope)
        plan.listed, plan.in_scope = len(names), len(in_scope)
        plan.unmatched = _unmatched(settings, names)
        progress.start_reading(len(in_scope))
        # Without a stack there is no repository in which to check whether the roles exist.
        sweep = Sweep(Request(in_scope, dry_run=True), settings, registry, None, stop.time_left)
        try:
            for result in sweep.run():
                # What fails after the stop was not given the time to succeed.
                if stop.requested and result.outcome in _UNSUCCESSFUL:
                    continue
                plan.add(result)
                progress.advance()
                _stop_if_all_would_fail(plan, result, stop)
        except OutOfTime:
            pass  # stopped before the first result
    plan.complete = not stop.requested
    return plan


def _unmatched(settings: Settings, names: Sequence[str]) -> list[str]:
    globs = {*settings.scope.included, *settings.pull_through_cache.included} - {"*"}
    return sorted(glob for glob in globs if not any(matches_any(name, [glob]) for name in names))


def _first_repository_arn(client: ECRClient) -> str:
    """Return the ARN of a repository, which names the account; an empty string if the registry is empty.

    Raises:
        PlanError: the call fails for a reason that every other call would have too.
    """
    try:
        page = client.describe_repositories(maxResults=1)
    except (BotoCoreError, ClientError) as error:
        if sentence := explain(error):
            raise PlanError(sentence) from None
        return ""  # a throttled call, for example: the sweep tries again
    return page["repositories"][0]["repositoryArn"] if page["repositories"] else ""


def _list(registry: Registry, progress: PlanProgress, stop: Stop) -> list[str]:
    names: list[str] = []
    deadline = Deadline(stop.time_left, reserve=0)
    token: str | None = None
    try:
        while not stop.requested:
            page = partial(registry.list_repositories, token)
            listed, token = retry_with_backoff(page, deadline)
            names += (each.name for each in listed)
            progress.listed(len(names))
            if token is None:
                break
    except DeadlineExceeded:
        pass  # stopped
    except RegistryError as error:
        raise PlanError(explain_reason(str(error)) or f"{error}.") from None
    return names


def _stop_if_all_would_fail(plan: Plan, result: Result, stop: Stop) -> None:
    if result.outcome is not Outcome.FAILED:
        return
    sentence = explain_reason(result.reason)
    enough = len(plan.results) >= min(plan.in_scope, MAX_CONCURRENCY)
    # One repository's own policy may deny the read. The caller lacks the permission if all reads are denied.
    if sentence and (not is_denied(result.reason) or (enough and plan.all_failed)):
        stop.on_error(sentence)


def _exit_code(plan: Plan, stop: Stop) -> int:
    if stop.interrupted:
        return INTERRUPTED
    if plan.failed:
        return ERROR
    return CHANGES if plan.to_change else NOTHING_TO_DO


def _settings(environment: Mapping[str, str]) -> Settings:
    given = {name: value for name in _SETTINGS if (value := environment.get(name))}
    return Settings.from_environment({"WORKER_ROLE_ARNS": "", "REPOSITORIES": "*"} | given | WITHOUT_STACK)


def _connect(options: argparse.Namespace) -> ECRClient:
    region = options.region or os.environ.get("AWS_REGION")
    try:
        return connect(options.profile, region or None)
    except BotoCoreError as error:
        raise PlanError(explain(error) or str(error)) from None


def _fail(sentence: str) -> int:
    console(stderr=True).print("[bold red]✗[/]", Text(sentence), soft_wrap=True)
    return ERROR


def _log_to_stderr() -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plan", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with all repositories that would change"
    )
    parser.add_argument("--profile", help="the profile of the AWS configuration (default: AWS_PROFILE)")
    parser.add_argument("--region", help="the AWS region (default: AWS_REGION, or that of the profile)")
    return parser


if __name__ == "__main__":
    _log_to_stderr()
    sys.exit(main())
