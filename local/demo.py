"""`make run`: deploy the stack to an embedded AWS and watch new repositories become pullable.

With a path as its argument, it also draws its first half there, as an SVG: `make docs`.
"""

from __future__ import annotations

import difflib
import json
import re
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from local import worker
from local.aws import ACCOUNT, CLOUDTRAIL_DELAY, LocalAwsError, local_aws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_ecr import ECRClient

    from local.aws import LocalAws

PATIENCE = 60  # seconds
SOMEBODY_ELSES: dict[str, object] = {
    "Sid": "CiMayPush",
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
    "Action": ["ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage"],
}

DRAWN = sys.argv[1:2]
DRAWN_WIDTH = 104  # characters
console = Console(highlight=False, soft_wrap=True, record=bool(DRAWN), width=DRAWN_WIDTH if DRAWN else None)


class DemoFailed(Exception):
    """The stack did not do what it is there for."""


def main() -> int:
    """Run the demo; give the exit code, 0 if all went as it should."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 128 + signal.SIGINT
    except (DemoFailed, LocalAwsError) as error:
        console.print("\n[bold red]✗[/]", Text(str(error)))
        return 1
    return 0


def run() -> None:
    """Deploy the stack, then create a repository without a policy and one with somebody else's.

    Raises:
        DemoFailed: a worker could pull too early or not at all, or a statement was lost.
        LocalAwsError: the embedded AWS did not start, or the stack did not deploy.
    """
    console.print(
        "\n[bold]New ECR repositories become pullable from another account, by themselves[/]\n"
        "Everything runs on this machine, on an embedded AWS: no AWS account, no Docker.\n"
    )
    with ExitStack() as until_the_end:
        with step("start the embedded AWS (ministack, IAM enforced)"):
            aws = until_the_end.enter_context(local_aws())
        with step("sam build"):
            aws.build()
        with step("sam deploy"):
            aws.deploy({"WorkerRoleArns": worker.ROLE_ARN})
        node = worker.hire(aws)
        console.print(
            f"\nThe registry is in account [bold]{ACCOUNT}[/]. The worker role is in another:\n"
            f"[bold]{worker.ROLE_ARN}[/]\n"
        )
        show(aws, node, "team/app", "A new repository")
        for path in DRAWN:
            draw(Path(path))
        show(aws, node, "ml/train", "A new repository that carries somebody else's policy", SOMEBODY_ELSES)
    console.print(
        "\n[bold green]✓[/] Both are pullable, nobody clicked anything, and nothing is left running.\n"
    )


def show(aws: LocalAws, node: ECRClient, repository: str, title: str, *statements: dict[str, object]) -> None:
    """Create a repository, and show how the worker role comes to pull from it.

    Raises:
        DemoFailed: it could pull too early or not at all, or a statement was lost.
    """
    console.rule(f"[bold]{title}: {repository}", align="left")
    registry = aws.ecr()
    created = time.monotonic()
    registry.create_repository(repositoryName=repository)
    if statements:
        theirs = json.dumps({"Version": "2012-10-17", "Statement": statements})
        registry.set_repository_policy(repositoryName=repository, policyText=theirs)

    before = policy_of(registry, repository)
    if worker.refusal(node, repository) is None:
        raise DemoFailed(f"{repository} could be pulled before it was granted")
    console.print("[red]✗[/] a pull by the worker role is [red]refused[/] (AccessDenied)")

    while worker.refusal(node, repository) is not None:
        if time.monotonic() - created > PATIENCE:
            raise DemoFailed(
                f"{repository} cannot be pulled after {PATIENCE} s; the function logged:\n{aws.log()}"
            )
        time.sleep(0.05)
    seconds = time.monotonic() - created
    # Not before: an image that arrives would make the function check the repository at once.
    worker.push(registry, repository)
    if worker.refusal(node, repository) is not None:
        raise DemoFailed(f"{repository} is not pullable any more")

    after = policy_of(registry, repository)
    console.print("[dim]… CreateRepository → CloudTrail → EventBridge → the function[/]")
    console.print(diff(before, after))
    console.print("[green]✓[/] a pull by the worker role is [green]allowed[/]")
    if statements:
        if after is None or after["Statement"][: len(statements)] != list(statements):
            raise DemoFailed(f"{repository} lost somebody else's statement")
        console.print("[green]✓[/] the other statement is [green]untouched[/]")
    console.print(
        f"[green]✓[/] pullable [bold]{seconds:.1f} s[/] after its creation; "
        f"{CLOUDTRAIL_DELAY:.0f} s of that stand for CloudTrail, which takes seconds to minutes\n"
    )


def draw(path: Path) -> None:
    """Draw what was printed so far."""
    drawn = console.export_svg(title="make run", unique_id="run")
    # The reader's own fonts: a picture fetches nothing.
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def policy_of(registry: ECRClient, repository: str) -> dict[str, Any] | None:
    """Read a repository's policy, or None if it has none."""
    try:
        text = registry.get_repository_policy(repositoryName=repository)["policyText"]
    except registry.exceptions.RepositoryPolicyNotFoundException:
        return None
    document: dict[str, Any] = json.loads(text)
    return document


def diff(before: object, after: object) -> Syntax:
    """Show what came to a policy and what went."""
    old, new = (json.dumps(policy, indent=2).splitlines() if policy else [] for policy in (before, after))
    lines = difflib.unified_diff(old, new, "policy before", "policy after", n=len(new), lineterm="")
    shown = "\n".join(line for line in lines if not line.startswith("@@"))
    return Syntax(shown, "diff", theme="ansi_dark", background_color="default")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that something is being done, and how long it took."""
    began = time.monotonic()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - began:.1f} s[/]")


if __name__ == "__main__":
    sys.exit(main())
