"""The demo, `make run`: deploys the stack to an embedded AWS and shows how new repositories become pullable.

With a path as argument (`make docs`), the demo also saves the first half of its output there as an SVG.
"""

from __future__ import annotations

import difflib
import json
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from devstack import data_plane
from devstack.aws import ACCOUNT, CLOUDTRAIL_DELAY, LocalAwsError, local_aws
from devstack.picture import WIDTH, save_svg
from devstack.target import SamError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_ecr import ECRClient

    from devstack.target import Aws

TIMEOUT = 60  # seconds
FOREIGN_STATEMENT: dict[str, object] = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": ["ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage"],
}

SVG_PATHS = sys.argv[1:2]
console = Console(highlight=False, soft_wrap=True, record=bool(SVG_PATHS), width=WIDTH if SVG_PATHS else None)


class DemoFailed(Exception):
    """The stack did not behave as expected."""


def main() -> int:
    """Run the demo, and return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        console.print("\nStopped. All processes have exited.")
        return 128 + signal.SIGINT
    except (DemoFailed, LocalAwsError, SamError) as error:
        console.print("\n[bold red]✗[/]", Text(str(error)))
        return 1
    return 0


def run() -> None:
    """Deploy the stack, then create one repository without a policy and one with a foreign statement.

    Raises:
        DemoFailed: a pull was allowed too early or never, or a foreign statement was lost.
        LocalAwsError: the embedded AWS did not start.
        SamError: the deployment failed.
    """
    console.print(
        "\n[bold]New ECR repositories become pullable from another account automatically[/]\n"
        "The demo runs on this machine, on an embedded AWS: no AWS account, no Docker.\n"
    )
    with ExitStack() as stack:
        with step("Start the embedded AWS (ministack, IAM enforced)"):
            aws = stack.enter_context(local_aws())
        with step("sam build"):
            aws.build()
        with step("sam deploy"):
            aws.deploy(
                {
                    "WorkerRoleArns": data_plane.ROLE_ARN,
                    "DescribeRoleArns": data_plane.OPERATOR_PROXY_ROLE_ARN,
                }
            )
        roles = data_plane.create_roles(aws)
        console.print(
            f"\nRegistry account: [bold]{ACCOUNT}[/]\n"
            f"Worker role, in another account: [bold]{data_plane.ROLE_ARN}[/]\n"
        )
        show(aws, roles, "team/app", "A new repository")
        for path in SVG_PATHS:
            save_svg(console, Path(path), "make run")
        show(aws, roles, "ml/train", "A new repository with a foreign statement", FOREIGN_STATEMENT)
    console.print(
        "\n[bold green]✓[/] Both repositories are pullable, with no manual step. All processes have exited.\n"
    )


def show(
    aws: Aws, roles: data_plane.Roles, repository: str, title: str, *statements: dict[str, object]
) -> None:
    """Create a repository, and show its policy and pulls before and after the grant.

    Raises:
        DemoFailed: a pull was allowed too early or never, or a foreign statement was lost.
    """
    console.rule(f"[bold]{title}: {repository}", align="left")
    registry = aws.ecr()
    created = time.monotonic()
    registry.create_repository(repositoryName=repository)
    if statements:
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        registry.set_repository_policy(repositoryName=repository, policyText=policy)

    before = policy_of(registry, repository)
    if data_plane.pull_error(roles.worker, repository) is None:
        raise DemoFailed(f"pulls from {repository} were allowed before the grant")
    console.print("[red]✗[/] a pull by the worker role is [red]denied[/] (AccessDenied)")

    while data_plane.pull_error(roles.worker, repository) is not None:
        if time.monotonic() - created > TIMEOUT:
            raise DemoFailed(
                f"pulls from {repository} are denied even after {TIMEOUT} s. The function's log:\n{aws.log()}"
            )
        time.sleep(0.05)
    seconds = time.monotonic() - created
    # Push only now: a push event would make the function reconcile the repository at once.
    data_plane.push(registry, repository)
    if data_plane.pull_error(roles.worker, repository) is not None:
        raise DemoFailed(f"pulls from {repository} are denied after the push")

    after = policy_of(registry, repository)
    console.print("[dim]… CreateRepository → CloudTrail → EventBridge → Lambda function[/]")
    console.print(diff(before, after))
    console.print("[green]✓[/] a pull by the worker role is [green]allowed[/]")
    if data_plane.describe_error(roles.operator_proxy, repository) is not None:
        raise DemoFailed(f"{repository} cannot be described by the operator-proxy role")
    console.print("[green]✓[/] the image builder [green]finds[/] existing images (DescribeImages)")
    if statements:
        if after is None or after["Statement"][: len(statements)] != list(statements):
            raise DemoFailed(f"{repository} lost its foreign statement")
        console.print("[green]✓[/] the foreign statement is [green]unchanged[/]")
    console.print(
        f"[green]✓[/] pullable [bold]{seconds:.1f} s[/] after creation, with {CLOUDTRAIL_DELAY:.0f} s of "
        "simulated CloudTrail delay\n  (on AWS: seconds to minutes)\n"
    )


def policy_of(registry: ECRClient, repository: str) -> dict[str, Any] | None:
    """Return a repository's policy, or None if the repository has none."""
    try:
        text = registry.get_repository_policy(repositoryName=repository)["policyText"]
    except registry.exceptions.RepositoryPolicyNotFoundException:
        return None
    document: dict[str, Any] = json.loads(text)
    return document


def diff(before: object, after: object) -> Syntax:
    """Return a diff of two policies."""
    old, new = (json.dumps(policy, indent=2).splitlines() if policy else [] for policy in (before, after))
    lines = difflib.unified_diff(old, new, "policy before", "policy after", n=len(new), lineterm="")
    text = "\n".join(line for line in lines if not line.startswith("@@"))
    return Syntax(text, "diff", theme="ansi_dark", background_color="default")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a step's progress and duration."""
    began = time.monotonic()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - began:.1f} s[/]")


if __name__ == "__main__":
    sys.exit(main())
