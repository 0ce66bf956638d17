"""Makes the plan: lists the repositories, and reconciles each in a dry run."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import CliError, explain, explain_reason, is_denied, not_from_aws
from cli.plan.observed import ObservedRegistry
from cli.plan.result import Plan
from cli.plan.today import pull_today
from cli.plan.trails import check_trails
from handler.ecr.errors import RegistryError, Unavailable, translate
from handler.ecr.registry import MAX_CONCURRENCY
from handler.ecr.retry import Deadline, DeadlineExceeded, retry_with_backoff
from handler.events.request import Request
from handler.policy.scope import matches_any
from handler.reconcile.result import Outcome
from handler.reconcile.sweep import OutOfTime, Sweep, read_registry_policy
from handler.settings import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from mypy_boto3_cloudtrail import CloudTrailClient
    from mypy_boto3_ecr import ECRClient

    from handler.ecr.registry import Registry
    from handler.reconcile.result import Result
    from handler.settings import Settings

    class Progress(Protocol):
        """What shows the progress."""

        def listed(self, count: int) -> None:
            """Show how many repositories are listed so far."""

        def start_reading(self, total: int) -> None:
            """Show that policies are read."""

        def advance(self) -> None:
            """Count a policy that was read."""


_UNSUCCESSFUL = (Outcome.FAILED, Outcome.INTERRUPTED)


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

    def on_interrupt(self) -> None:
        """Stop the sweep for the user."""
        self.requested = self.interrupted = True

    def on_error(self, error: str) -> None:
        """Stop the sweep for an error that every other call would have too."""
        self.requested, self.error = True, error


def make_plan(
    settings: Settings, ecr: ECRClient, cloudtrail: CloudTrailClient, stop: Stop, progress: Progress
) -> Plan:
    """List the repositories, and reconcile each in a dry run.

    Raises:
        CliError: the registry cannot be read.
    """
    plan = Plan(region=ecr.meta.region_name, mode=settings.mode)
    registry = ObservedRegistry(ecr)
    arn = _first_repository_arn(ecr)
    if arn:
        prefix = arn.partition("/")[0] + "/"
        plan.account = arn.split(":")[4]
        plan.registry_policy = read_registry_policy(registry, settings, prefix)
        registry.observe_registry_side(prefix, _scope(ecr) if registry.has_registry_policy else "")
    names = _list(registry, progress, stop)
    in_scope = tuple(name for name in names if name in settings.scope)
    plan.listed, plan.in_scope = len(names), len(in_scope)
    plan.mistyped = _unmatched(settings.scope.included, names)
    plan.unmatched = sorted({*plan.mistyped, *_unmatched(settings.pull_through_cache.included, names)})
    if in_scope and not stop.requested:
        plan.trail = check_trails(cloudtrail)
    progress.start_reading(len(in_scope))
    # Without a stack there is no repository in which to check whether the roles exist.
    sweep = Sweep(Request(in_scope, dry_run=True), settings, registry, None, stop.time_left)
    try:
        for result in sweep.run():
            policy = registry.forget(result.repository)
            # What fails after the stop was not given the time to succeed.
            if stop.requested and result.outcome in _UNSUCCESSFUL:
                continue
            plan.add(result)
            if result.added and settings.mode is not Mode.REMOVE:
                roles = settings.worker_role_arns
                plan.today.add(
                    result.repository, *pull_today(result.repository, policy, registry.side, roles)
                )
            progress.advance()
            _stop_if_all_would_fail(plan, result, stop)
    except OutOfTime:
        pass  # stopped before the first result
    plan.complete = not stop.requested
    return plan


def _unmatched(globs: Sequence[str], names: Sequence[str]) -> list[str]:
    return sorted(glob for glob in {*globs} - {"*"} if not any(matches_any(name, [glob]) for name in names))


def _scope(ecr: ECRClient) -> str:
    """Return the scope of the registry policy; an empty string if it cannot be read."""
    try:
        return ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"]
    except (BotoCoreError, ClientError, KeyError):
        return ""


def _first_repository_arn(client: ECRClient) -> str:
    """Return the ARN of a repository, which names the account; an empty string if the registry is empty.

    Raises:
        CliError: the call fails for a reason that every other call would have too.
    """
    try:
        page = client.describe_repositories(maxResults=1)
        return page["repositories"][0]["repositoryArn"] if page["repositories"] else ""
    except (BotoCoreError, ClientError) as error:
        # A throttled call or a fault of a server may succeed later: the listing tries again.
        passing = isinstance(error, ClientError) and isinstance(translate(error), Unavailable)
        if (sentence := explain(error)) and not passing:
            raise CliError(sentence) from None
        return ""
    except (KeyError, TypeError):
        raise not_from_aws("DescribeRepositories") from None


def _list(registry: Registry, progress: Progress, stop: Stop) -> list[str]:
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
        raise CliError(explain_reason(str(error)) or f"{error}.") from None
    return names


def _stop_if_all_would_fail(plan: Plan, result: Result, stop: Stop) -> None:
    if result.outcome is not Outcome.FAILED:
        return
    sentence = explain_reason(result.reason)
    enough = len(plan.results) >= min(plan.in_scope, MAX_CONCURRENCY)
    # One repository's own policy may deny the read. The caller lacks the permission if all reads are denied.
    if sentence and (not is_denied(result.reason) or (enough and plan.all_failed)):
        stop.on_error(sentence)
