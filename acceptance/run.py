"""Runs the acceptance tests: checks, asks, creates, tests, deletes, and writes the report."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from botocore.exceptions import BotoCoreError, ClientError

from acceptance import cost, interrupts, preflight, promises
from acceptance.aws import Aws, connect
from acceptance.cleanup import Cleanup, Leftover
from acceptance.prefix import cleanup_command, new_prefix
from acceptance.report import JSON, MARKDOWN, Run, document, write
from cli.console import console, count, print_error, print_line, print_warning
from cli.errors import sentence_of
from cli.plan.trail import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT, NOT_KEPT, INTERRUPTED = 0, 1, 128 + signal.SIGINT
_TAG = {"Key": "project", "Value": "ecr-allow-pull-acceptance"}


def run(*, yes: bool, large_registry: bool, skip_permission_check: bool) -> int:
    """Prove the promises, and return the exit code: 0 if all were kept and everything was deleted.

    Raises:
        CliError: the account can't be checked; nothing was created.
    """
    out = console()
    aws, prefix = connect(), new_prefix()
    print_line(
        out, f"Checking the account in {aws.region}: permissions, quotas, repositories, trail", indent=0
    )
    found = preflight.check(
        aws, prefix, large_registry=large_registry, skip_permissions=skip_permission_check
    )
    for note in found.notes:
        print_line(out, note)
    if found.problems:
        for problem in found.problems:
            print_error(problem)
        print_line(out, "Nothing was created.", indent=0)
        return NOT_KEPT
    _announce(aws, prefix)
    if not yes:
        click.confirm("Create these resources, run the tests, and delete everything?", abort=True)

    started, clock = datetime.now(UTC), time.monotonic()
    results, interrupted, code = promises.Results(), False, NOT_KEPT
    with (
        tempfile.TemporaryDirectory(prefix="ecr-allow-pull-") as folder,
        interrupts.handled_by(signal.default_int_handler),
    ):
        junit = Path(folder) / "junit.xml"
        try:
            _create_bucket(aws, prefix)
            trail = found.trail.status in {Status.LOGS, Status.FILTERED}
            code = promises.run(promises.command(junit), prefix, aws.region, os.environ, trail=trail)
        except KeyboardInterrupt:
            interrupted = True
            print_warning("Stopped. Everything that was created is deleted now: wait until this ends.")
        except (BotoCoreError, ClientError) as error:
            print_error(sentence_of(error))
        leftovers = clean_up(aws, prefix)
        results = promises.read(junit)
    seconds = time.monotonic() - clock
    content = document(
        aws, Run(prefix, started, seconds, found.trail.status.value, interrupted), results, leftovers
    )
    write(content, Path.cwd())
    counts = content["counts"]
    print_line(
        out,
        f"{counts['passed']} promises kept, {counts['failed']} not kept, {counts['skipped']} skipped, in "
        f"{round(seconds)} seconds. Report, without account ids and names: {MARKDOWN} and {JSON}",
        indent=0,
    )
    if interrupted:
        return INTERRUPTED
    return exit_code(code, counts["passed"], leftovers)


def exit_code(tests: int, passed: int, leftovers: Sequence[Leftover]) -> int:
    """Return the exit code, from that of the tests. A run that skipped every promise has kept none."""
    return KEPT if tests == 0 and passed and not leftovers else NOT_KEPT


def clean_up(aws: Aws, prefix: str) -> list[Leftover]:
    """Delete everything with the prefix, print and return what could not be deleted.

    An interrupt ends this with a message that says what may remain.
    """
    cleanup = Cleanup(aws, prefix, lambda text: print_line(console(), text))
    print_line(console(), f"Deleting everything with the prefix {prefix}", indent=0)
    try:
        with interrupts.handled_by(signal.default_int_handler):
            leftovers = cleanup.run()
    except KeyboardInterrupt:
        reason = "the cleanup was stopped"
        leftovers = [*cleanup.leftovers, *(Leftover(kind, prefix, reason) for kind in cleanup.unfinished)]
    for each in leftovers:
        print_error(f"Not deleted: {each.kind}: {each.name}: {each.reason}")
    if leftovers:
        print_error(f"{count(len(leftovers), 'item remains', 'items remain')}: run {cleanup_command(prefix)}")
    else:
        print_line(console(), "Everything was deleted.", indent=0)
    return leftovers


def _announce(aws: Aws, prefix: str) -> None:
    out = console()
    print_line(
        out,
        f"The run creates, in {aws.region}, only resources whose names start with {prefix}, and those of its "
        f"stacks: about {cost.STACKS} stacks of this project, roles, repositories, queues and a bucket. It "
        "takes 10 to 15 minutes.",
        indent=0,
    )
    for item in cost.items():
        print_line(out, f"${item.dollars:.3f}  {item.name}")
    print_line(out, f"${cost.total():.2f}   in all: {cost.ASSUMPTIONS}")
    print_line(
        out, f"The run deletes everything at its end. If it can't: {cleanup_command(prefix)}", indent=0
    )


def _create_bucket(aws: Aws, prefix: str) -> None:
    """Create the bucket of the packages, so that SAM doesn't create its shared one, which would remain."""
    s3 = aws.client("s3")
    where = (
        {"CreateBucketConfiguration": {"LocationConstraint": aws.region}} if aws.region != "us-east-1" else {}
    )
    s3.create_bucket(Bucket=prefix, **where)
    s3.put_bucket_tagging(Bucket=prefix, Tagging={"TagSet": [_TAG]})
