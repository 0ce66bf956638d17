"""Checks before anything is created: permissions, quotas, the size of the registry, and the trail."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from acceptance.cost import STACKS
from acceptance.permissions import denied
from cli.errors import CliError, sentence_of
from cli.plan.trail import Status
from cli.plan.trails import check_trails

if TYPE_CHECKING:
    from acceptance.aws import Aws
    from cli.plan.trail import TrailCheck

# Sweeps read every repository in scope, and list all others.
MAX_REPOSITORIES = 300
_ROLES = 30
WITHOUT_TRAIL = (
    "Skipped without a trail: the promises on new repositories and policy changes, and the facts on their "
    "events."
)


@dataclass(frozen=True)
class Preflight:
    """What the checks found.

    Attributes:
        problems: why the run can't start; each is a sentence.
        trail: whether a trail logs write management events in the region.
        notes: what the user should know.
    """

    problems: tuple[str, ...]
    trail: TrailCheck
    notes: tuple[str, ...]


def check(aws: Aws, prefix: str, *, large_registry: bool, skip_permissions: bool) -> Preflight:
    """Check the account. This only reads.

    Args:
        aws: the account.
        prefix: the prefix of the run.
        large_registry: whether the registry may hold more than `MAX_REPOSITORIES`.
        skip_permissions: whether the permissions are not checked.

    Raises:
        CliError: a check cannot be made.
    """
    problems: list[str] = []
    notes: list[str] = []
    trail = check_trails(aws.client("cloudtrail"))
    if skip_permissions:
        notes.append("The permissions were not checked.")
    else:
        if missing := list(denied(aws, prefix)):
            return Preflight(tuple(f"Not allowed: {each}." for each in missing), trail, ())
        notes.append(
            "IAM allows every call. A service control policy or a session policy can still deny one."
        )
    try:
        names = aws.listed("ecr", "describe_repositories", "repositories[].repositoryName")
        if len(list(islice(names, MAX_REPOSITORIES + 1))) > MAX_REPOSITORIES and not large_registry:
            problems.append(
                f"The region has more than {MAX_REPOSITORIES} repositories: use a sandbox account, or add "
                "LARGE_REGISTRY=1."
            )
    except (BotoCoreError, ClientError) as error:
        raise CliError(sentence_of(error)) from None
    problems += _full_quotas(aws, notes)
    notes.append(trail.note)
    if trail.status is Status.NONE:
        notes.append(WITHOUT_TRAIL)
    return Preflight(tuple(problems), trail, tuple(notes))


def _full_quotas(aws: Aws, notes: list[str]) -> list[str]:
    """Return the quotas that have no space for a run. A quota that cannot be read is a note."""
    problems = []
    for name, needed, read in (
        ("CloudFormation stacks", STACKS, _free_stacks),
        ("IAM roles", _ROLES, _free_roles),
    ):
        try:
            free = read(aws)
        except (BotoCoreError, ClientError, KeyError) as error:
            notes.append(f"The quota of {name} was not checked: {type(error).__name__}.")
            continue
        if free < needed:
            problems.append(f"The quota of {name} has space for {free}: the run needs {needed}.")
    return problems


def _free_stacks(aws: Aws) -> int:
    limits = aws.listed("cloudformation", "describe_account_limits", "AccountLimits[]")
    limit: int = {each["Name"]: each["Value"] for each in limits}["StackLimit"]
    return limit - len(list(aws.listed("cloudformation", "describe_stacks", "Stacks[].StackName")))


def _free_roles(aws: Aws) -> int:
    summary: dict[str, int] = aws.client("iam").get_account_summary()["SummaryMap"]
    return summary["RolesQuota"] - summary["Roles"]
