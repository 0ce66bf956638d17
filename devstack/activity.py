"""Follows a deployed stack: a line for each event on the bus, and for each result in the function's log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from devstack.aws import ACCOUNT, REGION, STACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_events.type_defs import TargetTypeDef

    from devstack.aws import LocalAws

_NAME = "playground"
_WAIT = 1  # seconds that a poll waits for an event
_LATE = 60_000  # milliseconds by which a line of the log may appear late
_STYLES = {"INFO": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
_FIELDS_OF_EACH_LINE = (
    *("level", "message", "timestamp", "service", "cold_start", "function_name", "function_memory_size"),
    *("function_arn", "function_request_id", "correlation_id", "xray_trace_id", "location"),
)


class Activity:
    """The events on the default event bus, through a queue of its own, and the function's log."""

    def __init__(self, aws: LocalAws, function: str) -> None:
        """Start to collect events; `function` is the name of the function."""
        self._function = function
        self._log_client = aws.logs()
        self._sqs = aws.sqs()
        self._queue = self._sqs.create_queue(QueueName=_NAME)["QueueUrl"]
        pattern = {"source": ["aws.ecr", "aws.cloudformation"]}
        aws.events().put_rule(Name=_NAME, EventPattern=json.dumps(pattern))
        target: TargetTypeDef = {"Id": _NAME, "Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{_NAME}"}
        aws.events().put_targets(Rule=_NAME, Targets=[target])
        self._seen: set[tuple[int, str]] = set()
        self._log_start = 0

    def poll(self) -> Iterator[Text]:
        """Yield a line for each event and each result since the last poll. Wait a second for an event."""
        for event in self._events():
            line = event_line(event, self._function)
            if line:
                yield line
        for record in self._log_records():
            line = log_line(record)
            if line:
                yield line

    def _events(self) -> Iterator[dict[str, Any]]:
        received = self._sqs.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=_WAIT
        )
        for message in received.get("Messages", []):
            self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
            yield json.loads(message["Body"])

    def _log_records(self) -> Iterator[dict[str, Any]]:
        page = self._log_client.filter_log_events(
            logGroupName=f"/aws/lambda/{STACK}", startTime=max(0, self._log_start - _LATE)
        )
        for event in page["events"]:
            key = event["timestamp"], event["message"]
            self._log_start = max(self._log_start, event["timestamp"])
            if key not in self._seen and event["message"].startswith("{"):
                self._seen.add(key)
                yield json.loads(event["message"])


def event_line(event: Mapping[str, Any], function: str) -> Text | None:
    """Return the line of an event, or None for an event of another stack."""
    detail, note = event["detail"], ""
    match event["detail-type"]:
        case "AWS API Call via CloudTrail":
            what, repository = detail["eventName"], detail["requestParameters"].get("repositoryName", "")
            caller = detail["userIdentity"]["arn"]
            if "errorCode" in detail:
                note = f"failed: {detail['errorCode']}"
            elif caller.endswith(f"/{function}"):
                note = "by the function itself: not delivered to it"
        case "AWS Service Event via CloudTrail":
            what, repository = detail["eventName"], detail["serviceEventDetails"]["repositoryName"]
            note = "by ECR itself"
        case "CloudFormation Stack Status Change":
            if f":stack/{STACK}/" not in detail["stack-id"]:
                return None
            what, repository = "Stack", STACK
            note = detail["status-details"]["status"]
        case kind:
            what, repository = kind, detail.get("repository-name", "")
    return _line("event", what, repository, note, "cyan" if not note.startswith("by the") else "dim")


def log_line(record: Mapping[str, Any]) -> Text | None:
    """Return the line of a record in the function's log, or None for metrics."""
    match record.get("message"):
        case None:
            return None
        case "report":
            outcomes = ", ".join(f"{count} {name}" for name, count in record["outcomes"].items())
            ignored = f"ignored: {record['ignored']}" if "ignored" in record else ""
            return _line("report", f"{record['checked']} checked", "", outcomes or ignored, "dim")
        case _ if "outcome" in record:
            return _line(
                "result", record["outcome"], record["repository"], _details(record), _STYLES[record["level"]]
            )
        case message:
            fields = {key: value for key, value in record.items() if key not in _FIELDS_OF_EACH_LINE}
            return _line("log", message, "", json.dumps(fields), _STYLES.get(record["level"], "dim"))


def _details(record: Mapping[str, Any]) -> str:
    """Return what was added and removed, the reason of a failure, and what denies the grant."""
    changes = [
        f"{sign} {sid} {principal}"
        for sign, field in (("+", "added"), ("-", "removed"))
        for sid, principals in record.get(field, {}).items()
        for principal in principals
    ]
    denials = [f"denied by {denial['statement']}" for denial in record.get("denied_by", [])]
    return ", ".join([*changes, *denials, *filter(None, [record.get("reason")])])


def _line(kind: str, what: str, repository: str, note: str, style: str) -> Text:
    now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
    return Text.assemble(
        (now, "dim"), "  ", (f"{kind:<7} {what:<22} {repository:<24} {note}".rstrip(), style)
    )
