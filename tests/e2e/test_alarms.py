"""Tests that the alarms of the deployed stack fire, clear, and reach their receivers."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devstack.aws import ACCOUNT
from tests.e2e.conftest import Stack

# Two periods of an alarm, and the delays of CloudWatch.
EVALUATION = 900  # seconds


class TestAlarm:
    def test_fires_if_a_reconcile_failed(self, stack: Stack) -> None:
        too_long = stack.foreign | {"Sid": "x" * 9_900}
        self.reconcile(stack, "alarms/too-long", too_long)

        wait_for_state(stack, "ReconcileFailed", "ALARM")

    def test_fires_if_a_foreign_statement_denies_the_pull(self, stack: Stack) -> None:
        denies = {"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}
        self.reconcile(stack, "alarms/denied", denies)

        wait_for_state(stack, "PullDenied", "ALARM")

    # What leads to these metrics takes longer than the tests may: half an hour, three hours.
    @pytest.mark.parametrize(
        ("alarm", "metric", "minutes_ago"),
        [
            ("CreationEventsMissed", "MissedCreations", [0]),
            ("RecurringDrift", "DriftCorrected", [0, 60, 120]),
            pytest.param(
                *("ContinuousDrift", "DriftCorrected", range(6)),
                marks=pytest.mark.aws_only("the embedded AWS evaluates no metric math"),
            ),
        ],
    )
    def test_fires_if_its_metric_has_the_values(
        self, stack: Stack, alarm: str, metric: str, minutes_ago: Iterable[int]
    ) -> None:
        now = datetime.now(UTC)
        data = [
            {
                "MetricName": metric,
                "Dimensions": [{"Name": "service", "Value": stack.aws.stack}],
                "Timestamp": now - timedelta(minutes=minutes),
                "Value": 1,
            }
            for minutes in minutes_ago
        ]
        stack.aws.client("cloudwatch").put_metric_data(Namespace="EcrAllowPull", MetricData=data)

        wait_for_state(stack, alarm, "ALARM")

    @pytest.mark.aws_only("takes ten minutes")
    @pytest.mark.parametrize("alarm", ["ReconcileFailed", "PullDenied", "CreationEventsMissed"])
    def test_clears_without_new_failures(self, stack: Stack, alarm: str) -> None:
        wait_for_state(stack, alarm, "OK")

    @pytest.mark.aws_only("the embedded AWS evaluates no metric math")
    def test_of_missing_sweeps_is_clear_after_a_sweep(self, stack: Stack) -> None:
        stack.invoke({"repositories": ["*"]})

        wait_for_state(stack, "SweepMissing", "OK")

    @staticmethod
    def reconcile(stack: Stack, name: str, statement: object) -> None:
        repository = stack.named(name)
        with stack.only_rules():
            stack.create_repository(repository, statement)
            stack.invoke({"repositories": [repository]})
            stack.registry.delete_repository(repositoryName=repository)


class TestReceivers:
    TEXT = "Runbook of ecr-allow-pull: https://wiki.example.com/ecr#reconcilefailed"

    @pytest.mark.embedded("an address would have to confirm its subscription")
    def test_notify_an_existing_topic_when_they_fire_and_clear(self, stack: Stack) -> None:
        cloudwatch, queue = stack.aws.client("cloudwatch"), Queue(stack)
        parameters = {
            "WorkerRoleArns": stack.role,
            "AlarmEmail": "rota@example.com",
            "AlarmTopicArn": queue.topic,
            "RunbookUrl": "https://wiki.example.com/ecr",
        }
        with deployed(stack, parameters, "alarms") as outputs:
            alarms = {
                each["AlarmName"].removeprefix("alarms-").partition("-")[0]: each
                for each in cloudwatch.describe_alarms(AlarmNamePrefix="alarms-")["MetricAlarms"]
            }
            assert alarms.keys() == ALARMS
            receivers = [outputs["AlarmTopicArn"], queue.topic]
            assert all(each["AlarmActions"] == receivers for each in alarms.values())

            dimensions = alarms["ReconcileFailed"]["Dimensions"]
            assert dimensions == [{"Name": "service", "Value": "alarms"}]
            datum = {"MetricName": "Failed", "Dimensions": dimensions, "Value": 1}
            cloudwatch.put_metric_data(Namespace="EcrAllowPull", MetricData=[datum])
            fired = queue.wait_for("ReconcileFailed")
            # What the runbook does to test the chain.
            for state in ("ALARM", "OK"):
                cloudwatch.set_alarm_state(
                    AlarmName=alarms["SweepMissing"]["AlarmName"], StateValue=state, StateReason="a test"
                )
            states = [queue.wait_for("SweepMissing")["NewStateValue"] for _ in range(2)]

        assert fired["NewStateValue"] == "ALARM"
        assert fired["AlarmDescription"].startswith("Pods with a worker role can't pull")
        assert fired["AlarmDescription"].endswith(self.TEXT)
        assert sorted(states) == ["ALARM", "OK"]

    def test_are_without_receivers_by_default(self, stack: Stack) -> None:
        alarms = stack.aws.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{stack.aws.stack}-")[
            "MetricAlarms"
        ]

        assert len(alarms) == len(ALARMS)
        assert all(not each["AlarmActions"] and not each["OKActions"] for each in alarms)

    @pytest.mark.embedded("a second stack costs minutes and shows no more")
    def test_except_that_for_missing_sweeps_exist_with_a_weekly_schedule(self, stack: Stack) -> None:
        parameters = {"WorkerRoleArns": stack.role, "SweepSchedule": "cron(0 3 ? * MON *)"}
        with deployed(stack, parameters, "weekly"):
            cloudwatch = stack.aws.client("cloudwatch")
            alarms = cloudwatch.describe_alarms(AlarmNamePrefix="weekly-")["MetricAlarms"]

        assert len(alarms) == len(ALARMS) - 1
        assert not any("SweepMissing" in each["AlarmName"] for each in alarms)


ALARMS = {
    *("ReconcileFailed", "PullDenied", "CreationEventsMissed", "SweepMissing", "ContinuousDrift"),
    *("RecurringDrift", "DeadLetterQueueMessageSent", "EventsLost", "FunctionThrottled"),
}


@contextmanager
def deployed(stack: Stack, parameters: dict[str, str], name: str) -> Iterator[dict[str, str]]:
    """Deploy another stack until the block ends, which gets no events."""
    with stack.only_rules():
        yield stack.deploy(parameters | {"SweepOnDeploy": "false"}, name)
    stack.aws.delete(name)


class Queue:
    """A queue that gets the messages of a topic of its own, as a chat or a pager would."""

    def __init__(self, stack: Stack) -> None:
        self._stack, sns = stack, stack.aws.client("sns")
        self.topic: str = sns.create_topic(Name="on-call")["TopicArn"]
        arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:on-call"
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        sqs = stack.aws.sqs()
        self._url = sqs.create_queue(QueueName="on-call", Attributes={"Policy": policy})["QueueUrl"]
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)

    def wait_for(self, alarm: str) -> dict[str, Any]:
        """Return the next notification of an alarm, and drop those of others."""
        found: list[dict[str, Any]] = []

        def receive() -> bool:
            for message in self._stack.aws.sqs().receive_message(QueueUrl=self._url).get("Messages", []):
                self._stack.aws.sqs().delete_message(
                    QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"]
                )
                notification = json.loads(json.loads(message["Body"])["Message"])
                if alarm in notification["AlarmName"]:
                    found.append(notification)
            return bool(found)

        self._stack.wait_until(receive)
        return found[0]


def wait_for_state(stack: Stack, alarm: str, state: str) -> None:
    stack.wait_until(lambda: states(stack)[alarm] == state, EVALUATION)


def states(stack: Stack) -> dict[str, str]:
    """Return the state of each alarm by its logical id."""
    names = {name: logical for logical, name in stack.resources("AWS::CloudWatch::Alarm").items()}
    alarms = stack.aws.client("cloudwatch").describe_alarms(AlarmNames=[*names])["MetricAlarms"]
    return {names[each["AlarmName"]]: each["StateValue"] for each in alarms}
