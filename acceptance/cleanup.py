"""Deletes everything that an acceptance run created: resources with its prefix, and nothing else."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from acceptance.aws import Aws

STACK_TIMEOUT = 900  # seconds
_GONE = re.compile(r"(?:.*NotFound(?:Exception)?|NoSuch(?:Entity|Bucket)|.*NonExistentQueue)")
_POLL = {"AWS": 5.0, "emulator": 0.2}  # seconds
_ATTEMPTS = 2  # a resource can fail to be deleted while another still uses it


class Leftover(NamedTuple):
    """A resource that was not deleted, or a kind of resources that could not be listed."""

    kind: str
    name: str
    reason: str


type Find = Callable[[Aws, str], Iterable[str]]


class Kind(NamedTuple):
    """How resources of one kind are found and deleted."""

    name: str
    find: Find
    delete: Callable[[Aws, str], object]


@dataclass
class Cleanup:
    """The state of a cleanup, which a user can interrupt.

    Attributes:
        aws: the account.
        prefix: the checked prefix of the run.
        report: shows the progress.
        leftovers: what was not deleted, so far.
        unfinished: the kinds of which some may not be deleted yet.
    """

    aws: Aws
    prefix: str
    report: Callable[[str], None]
    leftovers: list[Leftover] = field(default_factory=list)
    unfinished: list[str] = field(
        default_factory=lambda: ["CloudFormation stacks", *(each.name for each in KINDS)]
    )

    def run(self) -> list[Leftover]:
        """Delete everything with the prefix, and return what could not be deleted."""
        self._stacks()
        for kind in KINDS:
            self._kind(kind)
        return self.leftovers

    def _kind(self, kind: Kind) -> None:
        for name in self._found(kind.name, lambda: kind.find(self.aws, self.prefix)):
            self.report(f"Deleting {kind.name}: {name}")
            try:
                kind.delete(self.aws, name)
            except (BotoCoreError, ClientError) as error:
                if not _is_gone(error):
                    self.leftovers.append(Leftover(kind.name, name, sentence_of(error)))
        self.unfinished.remove(kind.name)

    def _found(self, kind: str, find: Callable[[], Iterable[str]]) -> list[str]:
        try:
            return [*find()]
        except (BotoCoreError, ClientError) as error:
            self.leftovers.append(Leftover(kind, self.prefix, f"could not list {kind}: {sentence_of(error)}"))
            return []

    def _stacks(self) -> None:
        """Delete the stacks concurrently, and wait: their deletion also deletes what they created."""
        kind = self.unfinished[0]
        deadline = time.monotonic() + STACK_TIMEOUT
        attempts = dict.fromkeys(self._found(kind, lambda: _find_stacks(self.aws, self.prefix)), 0)
        while attempts:
            for name in [*attempts]:
                try:
                    status, reason = self._advance(name, attempts)
                except (BotoCoreError, ClientError) as error:
                    status, reason = "", sentence_of(error)
                if status == "" or time.monotonic() > deadline:
                    del attempts[name]
                    if reason or status:
                        self.leftovers.append(Leftover(kind, name, reason or f"still {status}"))
            if attempts:
                self.report(f"Deleting {kind}: {', '.join(attempts)}")
                time.sleep(_POLL[self.aws.target])
        self.unfinished.remove(kind)

    def _advance(self, name: str, attempts: dict[str, int]) -> tuple[str, str]:
        """Delete a stack if that is possible now; return its status, empty at the end, and why it failed."""
        client = self.aws.client("cloudformation")
        try:
            (stack,) = client.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return "", ""
            raise
        status, reason = stack["StackStatus"], stack.get("StackStatusReason", "")
        if status == "DELETE_COMPLETE":
            return "", ""
        # CloudFormation cannot delete a stack that it updates or rolls back. It finishes that first.
        busy = status.endswith("_IN_PROGRESS") and status not in {"CREATE_IN_PROGRESS", "REVIEW_IN_PROGRESS"}
        if not busy:
            if attempts[name] == _ATTEMPTS:
                return "", reason or f"still {status} after {_ATTEMPTS} attempts"
            attempts[name] += 1
            client.delete_stack(StackName=name)
        return status, ""


def _is_gone(error: Exception) -> bool:
    return isinstance(error, ClientError) and bool(_GONE.fullmatch(error.response["Error"]["Code"]))


def _starting(service: str, operation: str, query: str) -> Find:
    """Return a function that finds resources by the start of their whole name."""

    def find(aws: Aws, prefix: str) -> Iterable[str]:
        return [name for name in aws.listed(service, operation, query) if name.startswith(prefix)]

    return find


def _finder(service: str, operation: str, query: str, **parameters: str) -> Find:
    """Return a function that finds resources by the start of their name, also at the end of an ARN or a URL.

    A parameter narrows the listing on the side of AWS; `{}` in it is the prefix.
    """

    def find(aws: Aws, prefix: str) -> Iterable[str]:
        narrowed = {name: value.format(prefix) for name, value in parameters.items()}
        found = aws.listed(service, operation, query, **narrowed)
        return [name for name in found if re.search(rf"(?:^|[:/]){re.escape(prefix)}[^:]*$", name)]

    return find


def _delete_rule(aws: Aws, name: str) -> None:
    targets = [*aws.listed("events", "list_targets_by_rule", "Targets[].Id", Rule=name)]
    if targets:
        aws.client("events").remove_targets(Rule=name, Ids=targets)
    aws.client("events").delete_rule(Name=name)


def _delete_role(aws: Aws, name: str) -> None:
    iam = aws.client("iam")
    for policy in aws.listed("iam", "list_role_policies", "PolicyNames[]", RoleName=name):
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    for arn in aws.listed(
        "iam", "list_attached_role_policies", "AttachedPolicies[].PolicyArn", RoleName=name
    ):
        iam.detach_role_policy(RoleName=name, PolicyArn=arn)
    iam.delete_role(RoleName=name)


def _delete_bucket(aws: Aws, name: str) -> None:
    s3 = aws.client("s3")
    query = "[Versions, DeleteMarkers][].{Key: Key, VersionId: VersionId}"
    versions: list[dict[str, Any]] = [*aws.listed("s3", "list_object_versions", query, Bucket=name)]
    while batch := versions[:1000]:
        del versions[:1000]
        s3.delete_objects(Bucket=name, Delete={"Objects": batch, "Quiet": True})
    s3.delete_bucket(Bucket=name)


_find_stacks = _starting("cloudformation", "describe_stacks", "Stacks[].StackName")
# Rules before functions: nothing is invoked any more. Log groups after the functions that write to them.
KINDS: tuple[Kind, ...] = (
    Kind("EventBridge rules", _finder("events", "list_rules", "Rules[].Name", NamePrefix="{}"), _delete_rule),
    Kind(
        "schedules",
        _finder("scheduler", "list_schedules", "Schedules[].Name", GroupName="default", NamePrefix="{}"),
        lambda aws, name: aws.client("scheduler").delete_schedule(GroupName="default", Name=name),
    ),
    Kind(
        "Lambda functions",
        _finder("lambda", "list_functions", "Functions[].FunctionName"),
        lambda aws, name: aws.client("lambda").delete_function(FunctionName=name),
    ),
    Kind(
        "ECR repositories",
        # A repository's name can hold slashes: another one could have the prefix after a slash.
        _starting("ecr", "describe_repositories", "repositories[].repositoryName"),
        lambda aws, name: aws.client("ecr").delete_repository(repositoryName=name, force=True),
    ),
    Kind(
        "SQS queues",
        _finder("sqs", "list_queues", "QueueUrls[]", QueueNamePrefix="{}"),
        lambda aws, url: aws.client("sqs").delete_queue(QueueUrl=url),
    ),
    Kind(
        "SNS topics",
        _finder("sns", "list_topics", "Topics[].TopicArn"),
        lambda aws, arn: aws.client("sns").delete_topic(TopicArn=arn),
    ),
    Kind("IAM roles", _finder("iam", "list_roles", "Roles[].RoleName"), _delete_role),
    Kind(
        "log groups",
        _finder(
            "logs", "describe_log_groups", "logGroups[].logGroupName", logGroupNamePrefix="/aws/lambda/{}"
        ),
        lambda aws, name: aws.client("logs").delete_log_group(logGroupName=name),
    ),
    Kind("S3 buckets", _finder("s3", "list_buckets", "Buckets[].Name"), _delete_bucket),
)
