"""The metrics that the dashboard and the alarms read, against those that AWS and the function write."""

import json
import re
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from devstack.host import PROJECT
from tests.unit.cloudformation import REGION, STACK, Evaluator, Resources
from tests.unit.scenarios import log

COUNTER = {"Sum"}
LEVEL = {"Average", "Maximum", "Minimum"}
DURATION = LEVEL | {"p50", "p90", "p99"}
# The metrics of AWS that are read here: their dimension, and the statistics that make sense.
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html
OF_AWS = {
    ("AWS/Lambda", "AsyncEventsDropped"): ("FunctionName", COUNTER),
    ("AWS/Lambda", "DestinationDeliveryFailures"): ("FunctionName", COUNTER),
    ("AWS/Lambda", "Errors"): ("FunctionName", COUNTER),
    ("AWS/Lambda", "Invocations"): ("FunctionName", COUNTER),
    ("AWS/Lambda", "Throttles"): ("FunctionName", COUNTER),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): ("QueueName", LEVEL),
    ("AWS/SQS", "NumberOfMessagesSent"): ("QueueName", COUNTER),
    ("AWS/Events", "InvocationsFailedToBeSentToDlq"): ("RuleName", COUNTER),
}
STATISTICS_OF_UNITS = {"Count": COUNTER, "Seconds": DURATION}
# Neither on the dashboard nor in an alarm: a condition decides whether pulls are denied.
UNUSED = {"PullsDeniedConditionally"}


class Read(NamedTuple):
    """A metric as a widget or an alarm reads it."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    statistic: str


class Written(NamedTuple):
    """A metric as the function writes it."""

    namespace: str
    dimensions: dict[str, str]
    unit: str


@pytest.fixture(scope="module")
def resources(processed_template: dict[str, Any]) -> Resources:
    return Evaluator(processed_template, Mode="plan").resources()


@pytest.fixture(scope="module")
def widgets(resources: Resources) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(resources["Dashboard"]["DashboardBody"])["widgets"]
    return found


@pytest.fixture(scope="module")
def on_the_dashboard(widgets: list[dict[str, Any]]) -> list[Read]:
    read = []
    for properties in (widget["properties"] for widget in widgets):
        for namespace, name, dimension, value, *options in properties.get("metrics", []):
            statistic = {"stat": properties["stat"], **(options[0] if options else {})}["stat"]
            read.append(Read(namespace, name, {dimension: value}, statistic))
    return read


@pytest.fixture(scope="module")
def in_alarms(resources: Resources) -> list[Read]:
    alarms = [each for each in resources.values() if "AlarmDescription" in each]
    simple = [(each, each["Statistic"]) for each in alarms if "MetricName" in each]
    math = [one["MetricStat"] for each in alarms for one in each.get("Metrics", []) if "MetricStat" in one]
    return [
        Read(
            metric["Namespace"],
            metric["MetricName"],
            {each["Name"]: each["Value"] for each in metric["Dimensions"]},
            statistic,
        )
        for metric, statistic in (*simple, *((one["Metric"], one["Stat"]) for one in math))
    ]


@pytest.fixture(scope="module")
def read(on_the_dashboard: list[Read], in_alarms: list[Read]) -> list[Read]:
    return on_the_dashboard + in_alarms


@pytest.fixture(scope="module")
def written() -> dict[str, Written]:
    """The metrics of the function in all its scenarios, by name, in CloudWatch's embedded metric format."""
    found: dict[str, Written] = {}
    for line in (json.loads(line) for line in log() if '"_aws"' in line):
        for directive in line["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = {name: line[name] for name in names}
                for metric in directive["Metrics"]:
                    assert line[metric["Name"]]
                    one = Written(directive["Namespace"], dimensions, metric["Unit"])
                    assert found.setdefault(metric["Name"], one) == one
    return found


def test_every_metric_of_aws_has_its_name_its_dimension_and_a_resource_of_the_stack(
    resources: Resources, read: list[Read]
) -> None:
    rules = {f"<{name}>" for name, each in resources.items() if "EventPattern" in each}
    of_aws = [each for each in read if each.namespace.startswith("AWS/")]

    assert {(each.namespace, each.name) for each in of_aws} == OF_AWS.keys()
    for each in of_aws:
        dimension, _ = OF_AWS[each.namespace, each.name]
        assert each.dimensions.keys() == {dimension}, each
        values = {
            "FunctionName": {"<Function>"},
            "QueueName": {"<DeadLetterQueue.QueueName>"},
            "RuleName": rules,
        }
        assert {*each.dimensions.values()} <= values[dimension], each


def test_every_other_metric_is_one_that_the_function_writes(
    read: list[Read], written: dict[str, Written]
) -> None:
    for each in read:
        if not each.namespace.startswith("AWS/"):
            assert each.name in written, each
            assert (each.namespace, each.dimensions) == written[each.name][:2]


def test_every_metric_that_the_function_writes_is_read_or_unused_on_purpose(
    read: list[Read], written: dict[str, Written]
) -> None:
    assert written.keys() - {each.name for each in read} == UNUSED


def test_the_function_writes_the_metrics_of_the_runbook_for_its_stack(
    written: dict[str, Written],
) -> None:
    page = (PROJECT / "docs/operations.md").read_text()
    _, _, table = page.partition("## Metrics")

    assert written.keys() == {*re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)}
    assert {one.namespace for one in written.values()} == {"EcrAllowPull"}
    assert [one.dimensions for one in written.values()] == [{"service": STACK}] * len(written)


def test_counters_are_summed_and_levels_and_durations_are_not(
    read: list[Read], written: dict[str, Written]
) -> None:
    for each in read:
        if each.namespace.startswith("AWS/"):
            _, statistics = OF_AWS[each.namespace, each.name]
        else:
            statistics = STATISTICS_OF_UNITS[written[each.name].unit]
        assert each.statistic in statistics, each


def test_what_raises_an_alarm_is_on_the_dashboard(
    on_the_dashboard: list[Read], in_alarms: list[Read]
) -> None:
    """Except the metrics of EventsLost, which are always zero."""
    lost = {"AsyncEventsDropped", "DestinationDeliveryFailures", "InvocationsFailedToBeSentToDlq"}

    assert {each.name for each in in_alarms} - {each.name for each in on_the_dashboard} == lost


def test_the_runbook_names_the_metric_of_each_alarm(resources: Resources) -> None:
    page = (PROJECT / "docs/operations.md").read_text()
    metrics = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| `(\w+)`", page, re.MULTILINE))
    alarms = {
        name: {*re.findall(r"'MetricName': '(\w+)'", str(each))}
        for name, each in resources.items()
        if "AlarmDescription" in each
    }

    assert len(alarms.pop("EventsLost")) == 3
    assert {name: {metric} for name, metric in metrics.items()} == alarms


class TestTheDashboard:
    def test_is_named_after_the_stack_and_the_region_because_dashboards_are_global(
        self, resources: Resources
    ) -> None:
        assert resources["Dashboard"]["DashboardName"] == f"{STACK}-{REGION}"

    def test_has_widgets_of_the_region_with_different_titles(self, widgets: list[dict[str, Any]]) -> None:
        properties = [widget["properties"] for widget in widgets]

        assert [each["region"] for each in properties] == [REGION] * len(widgets)
        assert len({each["title"] for each in properties}) == len(widgets)
        assert "Mode: plan" in properties[0]["title"]

    def test_has_only_properties_that_cloudwatch_knows(self, widgets: list[dict[str, Any]]) -> None:
        """Dashboard Body Structure and Syntax, in the CloudWatch API reference."""
        known = {
            "metric": {"title", "region", "stat", "period", "metrics"},
            "log": {"title", "region", "view", "query"},
        }

        assert {widget["type"] for widget in widgets} == known.keys()
        for widget in widgets:
            assert widget.keys() == {"type", "x", "y", "width", "height", "properties"}
            assert widget["properties"].keys() == known[widget["type"]]
            assert widget["properties"].get("period", 60) % 60 == 0

    def test_has_widgets_within_the_grid_that_do_not_overlap(self, widgets: list[dict[str, Any]]) -> None:
        cells = [
            {(x, y) for x in range(w["x"], w["x"] + w["width"]) for y in range(w["y"], w["y"] + w["height"])}
            for w in widgets
        ]

        assert all(0 <= x < 24 for each in cells for x, _ in each)
        assert not any(first & second for first, second in combinations(cells, 2))

    def test_shows_each_metric_once_with_each_statistic(self, on_the_dashboard: list[Read]) -> None:
        lines = [(each.name, each.statistic) for each in on_the_dashboard]

        assert len(set(lines)) == len(lines)
