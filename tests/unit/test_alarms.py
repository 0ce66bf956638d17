"""When each alarm of the processed template fires and clears: a simulation of CloudWatch's evaluation.

AWS documents that an alarm is evaluated every minute, on the last `EvaluationPeriods` periods until then
("sliding window"), or once an hour if the periods add up to more than a day. CloudWatch retrieves some more
data points, and takes older ones in place of the missing: `TreatMissingData` counts only for what is missing
even then. How many more, and how late a metric is, is not documented. So the table has the exact minutes for
one behavior. Every scenario is repeated with others, such as periods that end with the clock's hour or day.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation-window.html
"""

import operator
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloudformation import STACK, Evaluator, Resources, deployed

type Series = Mapping[str, Mapping[int, float]]
"""The sum of a metric in each minute that has data, by the metric's name and dimension."""

RUNBOOK = Path(__file__).parent.parent.parent / "docs/operations.md"
HOUR, DAY = 60, 24 * 60  # minutes
COMPARISONS = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
}

FAILED = f"EcrAllowPull/Failed/{STACK}"
DENIED = f"EcrAllowPull/PullsDenied/{STACK}"
MISSED = f"EcrAllowPull/MissedCreations/{STACK}"
COMPLETED = f"EcrAllowPull/SweepsCompleted/{STACK}"
DRIFT = f"EcrAllowPull/DriftCorrected/{STACK}"
THROTTLES = "AWS/Lambda/Throttles/<Function>"
DROPPED = "AWS/Lambda/AsyncEventsDropped/<Function>"
UNDELIVERED = "AWS/Lambda/DestinationDeliveryFailures/<Function>"
SENT = "AWS/SQS/NumberOfMessagesSent/<DeadLetterQueue.QueueName>"
RULES = ("<RepositoryCreated>", "<PolicyChanged>", "<ImagePushed>", "<StackDeployed>")
LOST_BY_RULES = [f"AWS/Events/InvocationsFailedToBeSentToDlq/{rule}" for rule in RULES]


@dataclass(frozen=True)
class Behavior:
    """What AWS leaves open, or may change.

    Attributes:
        extra: how many more data points than the evaluation periods CloudWatch retrieves.
        aligned: whether the periods end with the clock's minute, hour or day ("wall clock window").
        delay: how many minutes late a data point is.
    """

    extra: int = 2
    aligned: bool = False
    delay: int = 1


DOCUMENTED = Behavior()
BEHAVIORS = [Behavior(*each) for each in product((1, 5), (False, True), (0, 3))]


@dataclass(frozen=True)
class Alarm:
    """An alarm of the template."""

    definition: Mapping[str, Any]
    _sources: dict[str, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.definition["TreatMissingData"] in {"breaching", "notBreaching"}
        assert "EvaluationWindow" not in self.definition
        if "Metrics" not in self.definition:
            assert self.definition["Statistic"] == "Sum"
            self._sources[""] = (name_of(self.definition), self.definition["Period"] // 60)
        for each in self.definition.get("Metrics", []):
            if "MetricStat" in each:
                assert each["ReturnData"] is False
                assert each["MetricStat"]["Stat"] == "Sum"
                name = name_of(each["MetricStat"]["Metric"])
                self._sources[each["Id"]] = (name, each["MetricStat"]["Period"] // 60)
        assert len(set(self._sources.values())) == len(self._sources)

    @property
    def sources(self) -> set[str]:
        return {name for name, _ in self._sources.values()}

    @cached_property
    def period(self) -> int:
        """In minutes. All metrics of an alarm must have one period."""
        (period,) = {period for _, period in self._sources.values()}
        return period

    @cached_property
    def periods(self) -> int:
        return int(self.definition["EvaluationPeriods"])

    @cached_property
    def expression(self) -> str:
        """What combines the metrics."""
        (expression,) = (each["Expression"] for each in self.definition["Metrics"] if "Expression" in each)
        return str(expression)

    @property
    def interval(self) -> int:
        """How often it is evaluated, in minutes."""
        return HOUR if self.periods * self.period > DAY else 1

    def state(self, points: Iterable[float | None]) -> str:
        """Return the state for the data points of the evaluation range, the newest first; None is missing."""
        compare = COMPARISONS[self.definition["ComparisonOperator"]]
        real = [point for point in points if point is not None][: self.periods]
        breaching = sum(compare(point, self.definition["Threshold"]) for point in real)
        if self.definition["TreatMissingData"] == "breaching":
            breaching += self.periods - len(real)
        return "ALARM" if breaching >= self.definition.get("DatapointsToAlarm", self.periods) else "OK"

    def changes(self, series: Series, end: int, behavior: Behavior) -> list[tuple[int, str]]:
        """Return each change of the state with its minute, from minute 0, in which the alarm is created."""
        data = Data({name: series.get(name, {}) for name in self.sources})
        length = self.period * (self.periods + behavior.extra)
        changes: list[tuple[int, str]] = []
        if behavior.aligned:
            length += self.period
        for now in data.interesting_minutes(length + behavior.delay, self.interval, end):
            last = now // self.period * self.period if behavior.aligned else now
            points = [
                self._point(
                    data, last - (number + 1) * self.period, last - number * self.period, now - behavior.delay
                )
                for number in range(self.periods + behavior.extra)
            ]
            state = self.state(points)
            if not changes or changes[-1][1] != state:
                changes.append((now, state))
        return changes

    def _point(self, data: "Data", start: int, end: int, known: int) -> float | None:
        """Return the data point of a period, as far as its data is known."""
        sums = {key: data.sum(name, start, min(end, known)) for key, (name, _) in self._sources.items()}
        if "" in sums:
            return sums[""]
        expression = self.expression
        if expression == "SUM(FILL(METRICS(), 0))":
            return sum(value or 0 for value in sums.values())
        filled = re.fullmatch(r"FILL\((\w+), 0\)", expression)
        assert filled, expression
        (value,) = sums.values()
        assert sums.keys() == {filled[1]}
        return value or 0


def name_of(metric: Mapping[str, Any]) -> str:
    (dimension,) = metric["Dimensions"]
    assert dimension["Name"] in {"service", "QueueName", "FunctionName", "RuleName"}
    return f"{metric['Namespace']}/{metric['MetricName']}/{dimension['Value']}"


class Data:
    """The data of an alarm's metrics."""

    def __init__(self, series: Series) -> None:
        self._minutes = {name: sorted(values) for name, values in series.items()}
        self._series = series

    def sum(self, name: str, start: int, end: int) -> float | None:
        minutes = self._minutes[name]
        found = minutes[bisect_left(minutes, start) : bisect_left(minutes, max(start, end))]
        return sum(self._series[name][minute] for minute in found) if found else None

    def interesting_minutes(self, length: int, interval: int, end: int) -> list[int]:
        """Return the minutes in whose last `length` minutes there is data, and one after each such range.

        Of these, only the multiples of the interval: when the alarm is evaluated.
        """
        found = {0}
        for minute in {minute for minutes in self._minutes.values() for minute in minutes}:
            first = -(-max(0, minute) // interval) * interval
            found.update(range(first, min(end, minute + length + interval) + 1, interval))
        return sorted(found)


def fired(changes: Iterable[tuple[int, str]]) -> list[int]:
    return [minute for minute, state in changes if state == "ALARM"]


def cleared(changes: Iterable[tuple[int, str]]) -> list[int]:
    return [minute for minute, state in changes if state == "OK" and minute]


def every(interval: int, start: int, end: int) -> dict[int, float]:
    return dict.fromkeys(range(start, end, interval), 1.0)


def daily_sweeps(days: int, first: int = 0) -> dict[int, float]:
    """Completed sweeps at three, within the time window of the schedule, each some minutes long."""
    chance = random.Random(days)
    return {day * DAY + 3 * HOUR + chance.randrange(16): 1.0 for day in range(first, first + days)}


def arriving(*minutes: float, latency: float, seed: int) -> dict[int, float]:
    """Return what events count, of which each arrives up to `latency` minutes later."""
    chance = random.Random(seed)
    return dict(Counter(int(minute + chance.uniform(0, latency)) for minute in minutes))


def at(*minutes: int) -> dict[int, float]:
    return dict.fromkeys(minutes, 1.0)


@dataclass(frozen=True)
class Scenario:
    """What happens, in which minutes an alarm then fires, and in which it clears if it notifies of that.

    Attributes:
        series: the data, besides that of a daily sweep.
        fires: the minutes by alarm. No other alarm fires.
        clears: the minutes by alarm.
        days: how long the simulation lasts.
        sweeps: the completed sweeps; daily if not given.
    """

    series: Series
    fires: Mapping[str, list[int]] = field(default_factory=dict)
    clears: Mapping[str, list[int]] = field(default_factory=dict)
    days: int = 5
    sweeps: Mapping[int, float] | None = None

    @property
    def all_series(self) -> Series:
        # One sweep right after the deployment, before the simulated time.
        sweeps = daily_sweeps(self.days) if self.sweeps is None else self.sweeps
        return {COMPLETED: at(-5) | {**sweeps}} | {**self.series}


SCENARIOS = {
    # A failed event is retried after one and two minutes, then Lambda drops it into the queue.
    "a repository that fails three times": Scenario(
        {FAILED: at(1000, 1001, 1004), SENT: at(1004), DROPPED: at(1004)},
        {"ReconcileFailed": [1002], "DeadLetterQueueMessageSent": [1006], "EventsLost": [1006]},
    ),
    "a repository that fails in two hours again": Scenario(
        {FAILED: at(1000, 1120)}, {"ReconcileFailed": [1002, 1122]}
    ),
    "a denied pull, in each sweep": Scenario(
        {DENIED: at(180, 180 + DAY)}, {"PullDenied": [182, 182 + DAY]}, days=2
    ),
    "no trail, and a new repository each day": Scenario(
        {MISSED: at(185, 185 + DAY, 185 + 2 * DAY)},
        {"CreationEventsMissed": [187, 187 + DAY, 187 + 2 * DAY]},
    ),
    # The last sweep was soon after three on the fourth day. On the sixth, the two days before four are empty.
    "the schedule is disabled": Scenario(
        {}, {"SweepMissing": [5 * DAY + 4 * HOUR]}, days=8, sweeps=daily_sweeps(4)
    ),
    "the function is deleted: the schedule's messages go to its queue": Scenario(
        {SENT: at(4 * DAY + 180, 5 * DAY + 190)},
        {
            "SweepMissing": [5 * DAY + 4 * HOUR],
            "DeadLetterQueueMessageSent": [4 * DAY + 182, 5 * DAY + 192],
        },
        days=7,
        sweeps=daily_sweeps(4),
    ),
    # Events go to the queue at once. The first sweep after the function was started again clears the alarm.
    "the function is stopped for four days": Scenario(
        {DROPPED: at(4 * DAY + 180, 5 * DAY + 190), SENT: at(4 * DAY + 180, 5 * DAY + 190)},
        {
            "SweepMissing": [5 * DAY + 4 * HOUR],
            "DeadLetterQueueMessageSent": [4 * DAY + 182, 5 * DAY + 192],
            "EventsLost": [4 * DAY + 182, 5 * DAY + 192],
        },
        {"SweepMissing": [8 * DAY + 4 * HOUR]},
        days=12,
        sweeps=daily_sweeps(4) | daily_sweeps(4, first=8),
    ),
    "one day without a sweep": Scenario({}, days=9, sweeps=daily_sweeps(3) | daily_sweeps(5, first=4)),
    **{
        f"a lost event: {source}": Scenario({source: at(1000)}, {"EventsLost": [1002]})
        for source in (UNDELIVERED, DROPPED, *LOST_BY_RULES)
    },
    "a tool that undoes the grant every minute, for an hour": Scenario(
        {DRIFT: every(1, 1000, 1060)}, {"ContinuousDrift": [1007]}, {"ContinuousDrift": [1070]}
    ),
    "a tool that undoes the grant every minute, for three hours": Scenario(
        {DRIFT: every(1, 1000, 1180)},
        {"ContinuousDrift": [1007], "RecurringDrift": [1140]},
        {"ContinuousDrift": [1190]},
    ),
    "a tool that undoes the grant every two minutes": Scenario(
        {DRIFT: every(2, 1000, 1060)}, {"ContinuousDrift": [1012]}, {"ContinuousDrift": [1064]}
    ),
    # It is noticed after two hours, by the alarm for the next working day.
    "a tool that undoes the grant every five minutes": Scenario(
        {DRIFT: every(5, 1000, 1360)}, {"RecurringDrift": [1140]}
    ),
    "terraform apply over 100 repositories, in two minutes": Scenario(
        {DRIFT: {1000: 40, 1001: 50, 1002: 10}}
    ),
    "terraform apply over 100 repositories, twice in an hour": Scenario(
        {DRIFT: {1000: 40, 1001: 50, 1002: 10, 1040: 40, 1041: 60}}
    ),
    "terraform apply every night": Scenario(
        {DRIFT: at(120, 120 + DAY, 120 + 2 * DAY)}, {"RecurringDrift": [180 + 2 * DAY]}
    ),
    "drift in three different hours": Scenario({DRIFT: at(610, 1210, 2430)}, {"RecurringDrift": [2460]}),
    "drift in two different hours": Scenario({DRIFT: at(610, 611, 640, 2430, 2440)}),
    "drift in three hours of four days": Scenario({DRIFT: at(610, 2430, 610 + 4 * DAY + 5 * HOUR)}, days=8),
    "throttles for ten minutes": Scenario(
        {THROTTLES: every(1, 1000, 1010)}, {"FunctionThrottled": [1002]}, {"FunctionThrottled": [1025]}
    ),
    # While a queue is in use, SQS sends zeros.
    "a message in the dead-letter queue": Scenario(
        {SENT: {1000: 1.0, **dict.fromkeys(range(1001, 1360), 0.0)}}, {"DeadLetterQueueMessageSent": [1002]}
    ),
    "a healthy month": Scenario(
        {
            # A person corrects a policy by hand now and then.
            DRIFT: at(*range(1000, 31 * DAY, 5 * DAY)),
            SENT: dict.fromkeys(range(2000, 2360), 0.0),
            f"EcrAllowPull/Attached/{STACK}": every(700, 100, 31 * DAY),
        },
        days=31,
    ),
}


@pytest.fixture(scope="module")
def resources(processed_template: dict[str, Any]) -> Resources:
    return deployed(processed_template)


@pytest.fixture(scope="module")
def alarms(resources: Resources) -> dict[str, Alarm]:
    return {name: Alarm(each) for name, each in resources.items() if "AlarmDescription" in each}


class TestScenario:
    @pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
    def test_fires_and_clears_the_alarms_in_these_minutes(
        self, alarms: dict[str, Alarm], scenario: Scenario
    ) -> None:
        changes = {
            name: alarm.changes(scenario.all_series, scenario.days * DAY, DOCUMENTED)
            for name, alarm in alarms.items()
        }

        assert {name: fired(each) for name, each in changes.items() if fired(each)} == scenario.fires
        clears = {
            name: cleared(each) for name, each in changes.items() if "OKActions" in alarms[name].definition
        }
        assert {name: minutes for name, minutes in clears.items() if minutes} == scenario.clears

    @pytest.mark.parametrize("behavior", BEHAVIORS, ids=str)
    @pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
    def test_fires_the_same_alarms_whatever_aws_leaves_open(
        self, alarms: dict[str, Alarm], scenario: Scenario, behavior: Behavior
    ) -> None:
        """At the latest at the end of the clock's period, and with the delay of the metric."""
        for name, alarm in alarms.items():
            minutes = fired(alarm.changes(scenario.all_series, scenario.days * DAY, behavior))
            expected = scenario.fires.get(name, [])
            assert len(minutes) == len(expected), name
            slack = alarm.period * behavior.aligned + behavior.delay + alarm.interval
            for minute, documented in zip(minutes, expected, strict=True):
                assert documented - 2 <= minute <= documented + slack, name

    def test_names_each_alarm_in_a_scenario(self, alarms: dict[str, Alarm]) -> None:
        assert {name for scenario in SCENARIOS.values() for name in scenario.fires} == alarms.keys()


class TestSweepMissing:
    def test_fires_two_to_three_days_after_the_last_sweep(self, alarms: dict[str, Alarm]) -> None:
        for behavior in BEHAVIORS:
            for last in range(0, DAY, 97):
                series = {COMPLETED: at(last - 2 * DAY, last - DAY, last)}

                (_, (minute, state), *_) = alarms["SweepMissing"].changes(series, 6 * DAY, behavior)

                assert state == "ALARM"
                assert 2 * DAY <= minute - last <= 3 * DAY + HOUR

    def test_would_be_late_without_fill(self, alarms: dict[str, Alarm]) -> None:
        """CloudWatch would take older sweeps in place of the missing ones."""
        definition = alarms["SweepMissing"].definition
        statistic = definition["Metrics"][1]["MetricStat"]
        unfilled = Alarm(
            {
                **{key: value for key, value in definition.items() if key != "Metrics"},
                **statistic["Metric"],
                "Period": statistic["Period"],
                "Statistic": statistic["Stat"],
            }
        )

        (_, (minute, _)) = unfilled.changes({COMPLETED: at(-2 * DAY, -DAY, 0)}, 9 * DAY, Behavior(extra=3))

        assert minute >= 4 * DAY

    def test_fires_in_a_new_stack_until_its_first_sweep_has_completed(self, alarms: dict[str, Alarm]) -> None:
        """Nothing distinguishes a new stack from one without sweeps, until the sweep of its deployment."""
        changes = alarms["SweepMissing"].changes({COMPLETED: at(5)}, DAY, DOCUMENTED)

        assert changes == [(0, "ALARM"), (HOUR, "OK")]

    @pytest.mark.parametrize(
        ("schedule", "interval"),
        [
            ("rate(1 day)", DAY),
            ("rate(24 hours)", DAY),
            ("rate(12 hours)", 12 * HOUR),
            ("rate(8 hours)", 8 * HOUR),
            ("rate(6 hours)", 6 * HOUR),
            ("rate(4 hours)", 4 * HOUR),
            ("rate(3 hours)", 3 * HOUR),
            ("rate(2 hours)", 2 * HOUR),
            ("rate(1 hour)", HOUR),
            ("rate(30 minutes)", 30),
            ("cron(0 3 * * ? *)", DAY),
            ("cron(0 3 ? * * *)", DAY),
            ("cron(0 0/6 * * ? *)", 6 * HOUR),
            ("cron(15 3,15 ? * * *)", 12 * HOUR),
        ],
    )
    def test_exists_and_is_silent_with_a_sweep_a_day_or_more(
        self, processed_template: dict[str, Any], schedule: str, interval: int
    ) -> None:
        alarm = Alarm(deployed(processed_template, SweepSchedule=schedule)["SweepMissing"])
        sweeps = every(interval, -5, 10 * DAY)

        for behavior in BEHAVIORS:
            assert not fired(alarm.changes({COMPLETED: sweeps}, 10 * DAY, behavior))

    @pytest.mark.parametrize(
        "schedule",
        [
            "none",
            "rate(2 days)",
            "rate(7 days)",
            # It would fire between two sweeps.
            "rate(36 hours)",
            "rate(72 hours)",
            "rate(4320 minutes)",
            "cron(0 3 ? * MON *)",
            "cron(0 3 ? * MON-FRI *)",
            "cron(0 3 ? * 2#1 *)",
            "cron(0 3 1 * ? *)",
            "cron(0 3 */2 * ? *)",
            "cron(0 3 L * ? *)",
            "cron(0 3 * 6 ? *)",
            "cron(0 3 ? 6 * *)",
            "cron(0 3 * * ? 2027)",
            "cron(0 3 ? * * 2027)",
            "at(2026-11-23T03:00:00)",
            # EventBridge Scheduler refuses these.
            "cron(0 3 * * MON *)",
            "cron(0 3 1 * * *)",
            "cron(x)",
            "rate(x)",
        ],
    )
    def test_does_not_exist_with_a_rarer_schedule(
        self, processed_template: dict[str, Any], schedule: str
    ) -> None:
        with_it, without = deployed(processed_template), deployed(processed_template, SweepSchedule=schedule)

        assert with_it.keys() - without.keys() - {"Schedule", "ScheduleRole"} == {"SweepMissing"}


class TestContinuousDrift:
    @pytest.mark.parametrize("seed", range(30))
    def test_fires_within_ten_minutes_of_a_write_war_also_if_events_are_late(
        self, alarms: dict[str, Alarm], seed: int
    ) -> None:
        drift = arriving(*range(1000, 1060), latency=1.0, seed=seed)

        minutes = fired(alarms["ContinuousDrift"].changes({DRIFT: drift}, DAY, DOCUMENTED))

        assert minutes[0] - min(drift) <= 10

    @pytest.mark.parametrize("seed", range(30))
    def test_is_silent_for_one_terraform_apply_whose_events_arrive_within_four_minutes(
        self, alarms: dict[str, Alarm], seed: int
    ) -> None:
        applied = [1000.5 + 2 * number / 100 for number in range(100)]
        drift = arriving(*applied, latency=2.0, seed=seed)

        for behavior in BEHAVIORS:
            assert not fired(alarms["ContinuousDrift"].changes({DRIFT: drift}, DAY, behavior))


@pytest.mark.parametrize("source", [UNDELIVERED, *LOST_BY_RULES])
@pytest.mark.parametrize("delay", [5, 10])
def test_a_lost_event_is_noticed_also_if_its_metric_is_late(
    alarms: dict[str, Alarm], source: str, delay: int
) -> None:
    """FILL makes a late data point a zero. With one period, the alarm would never see the data."""
    behavior = Behavior(delay=delay)

    assert fired(alarms["EventsLost"].changes({source: at(1000)}, DAY, behavior)) == [1001 + delay]


# AWS's own examples, the oldest first: X breaching, - missing. Three evaluation periods, a range of five.
@pytest.mark.parametrize(
    ("points", "to_alarm", "breaching", "not_breaching"),
    [
        ("0-X-X", 3, "OK", "OK"),
        ("----0", 3, "OK", "OK"),
        ("-----", 3, "ALARM", "OK"),
        ("0XX-X", 3, "ALARM", "ALARM"),
        ("--X--", 3, "ALARM", "OK"),
        ("0-X-X", 2, "ALARM", "ALARM"),
        ("00X0X", 2, "ALARM", "ALARM"),
        ("0-X--", 2, "ALARM", "OK"),
        ("----0", 2, "ALARM", "OK"),
        ("---X-", 2, "ALARM", "OK"),
    ],
)
def test_the_simulation_agrees_with_the_examples_of_aws(
    alarms: dict[str, Alarm], points: str, to_alarm: int, breaching: str, not_breaching: str
) -> None:
    values = [{"0": 0.0, "X": 1.0, "-": None}[point] for point in reversed(points)]
    periods = {"EvaluationPeriods": 3, "DatapointsToAlarm": to_alarm}

    for treatment, state in {"breaching": breaching, "notBreaching": not_breaching}.items():
        definition = {**alarms["ReconcileFailed"].definition, **periods, "TreatMissingData": treatment}
        assert Alarm(definition).state(values) == state


def test_every_alarm_is_within_the_limits_of_cloudwatch(alarms: dict[str, Alarm]) -> None:
    """PutMetricAlarm: seven days in all, or a day for periods below an hour. Metric math: ten metrics."""
    for name, alarm in alarms.items():
        assert alarm.period * alarm.periods <= (7 * DAY if alarm.period >= HOUR else DAY), name
        assert len(alarm.sources) <= 10
        assert 1 <= alarm.definition.get("DatapointsToAlarm", 1) <= alarm.periods


# What users notice, and how urgent it is.
DESCRIPTIONS = {
    "ReconcileFailed": (
        "Pods with a worker role can't pull from some repositories.",
        "Act now.",
    ),
    "PullDenied": (
        "Pulls by a worker role fail, because a foreign statement denies them.",
        "Act now.",
    ),
    "CreationEventsMissed": (
        "New repositories get their grants up to a day late, and pulls fail until then.",
        "Act today.",
    ),
    "SweepMissing": ("Missing grants are no longer found.", "Act today."),
    "ContinuousDrift": (
        "A tool and this function undo each other's changes: pulls fail again and again.",
        "Act now.",
    ),
    "RecurringDrift": ("Pulls fail for a moment, again and again.", "Act on the next working day."),
    "DeadLetterQueueMessageSent": (
        "A repository may lack its grants, so that pulls fail.",
        "Act now, unless ReconcileFailed fired.",
    ),
    "EventsLost": ("A repository may lack its grants, so that pulls fail.", "Act today."),
    "FunctionThrottled": ("New grants are late.", "Act within six hours."),
}


class TestDescription:
    @pytest.mark.parametrize("name", DESCRIPTIONS)
    def test_says_what_users_notice_how_urgent_it_is_the_next_step_and_where_the_runbook_is(
        self, processed_template: dict[str, Any], name: str
    ) -> None:
        address = f"https://wiki.example.com/{'x' * 175}"
        description = deployed(processed_template, RunbookUrl=address)[name]["AlarmDescription"]
        noticed, urgency = DESCRIPTIONS[name]

        assert len(address) == 200
        assert len(description) <= 1024
        assert description.startswith(f"{noticed} ")
        assert re.search(
            rf"\. {re.escape(urgency)} .*\bNext: \w.*\. Runbook of ecr-allow-pull: {re.escape(address)}#\w+$",
            description,
        )
        assert description.endswith(f"#{name.lower()}")
        assert "\n" not in description
        assert "  " not in description

    def test_exists_for_every_alarm(self, alarms: dict[str, Alarm]) -> None:
        assert DESCRIPTIONS.keys() == alarms.keys()

    @pytest.mark.parametrize("name", DESCRIPTIONS)
    def test_points_to_a_section_of_the_runbook(self, name: str) -> None:
        runbook = RUNBOOK.read_text()

        assert f"\n### {name}\n" in runbook
        assert f"| [`{name}`](#{name.lower()}) |" in runbook

    @pytest.mark.parametrize("name", DESCRIPTIONS)
    def test_is_as_urgent_as_the_runbook_says(self, name: str) -> None:
        (row,) = re.findall(rf"^\| \[`{name}`\].* \| ([^|]+) \|$", RUNBOOK.read_text(), re.MULTILINE)
        _, urgency = DESCRIPTIONS[name]

        assert urgency == f"Act {row[0].lower()}{row[1:]}."

    def test_points_to_the_runbook_of_this_repository_by_default(self, alarms: dict[str, Alarm]) -> None:
        description = alarms["PullDenied"].definition["AlarmDescription"]

        assert description.endswith(" Runbook of ecr-allow-pull: docs/operations.md#pulldenied")


TOPIC = "arn:aws:sns:eu-west-1:111122223333:on-call"


class TestReceivers:
    @pytest.mark.parametrize(
        ("parameters", "topics"),
        [
            ({}, []),
            ({"AlarmEmail": "rota@example.com"}, ["<AlarmTopic>"]),
            ({"AlarmTopicArn": TOPIC}, [TOPIC]),
            ({"AlarmEmail": "rota@example.com", "AlarmTopicArn": TOPIC}, ["<AlarmTopic>", TOPIC]),
        ],
    )
    def test_are_those_of_the_parameters_for_every_alarm(
        self, processed_template: dict[str, Any], parameters: dict[str, str], topics: list[str]
    ) -> None:
        resources = deployed(processed_template, **parameters)
        alarms = {name: each for name, each in resources.items() if "AlarmDescription" in each}

        assert {name: each["AlarmActions"] for name, each in alarms.items()} == dict.fromkeys(alarms, topics)
        assert {name: each["OKActions"] for name, each in alarms.items() if "OKActions" in each} == (
            dict.fromkeys(("FunctionThrottled", "SweepMissing", "ContinuousDrift"), topics)
        )
        assert all("InsufficientDataActions" not in each for each in alarms.values())
        assert ("AlarmTopic" in resources) == ("AlarmEmail" in parameters)

    def test_by_email_subscribe_to_the_topic_of_the_stack(self, processed_template: dict[str, Any]) -> None:
        evaluator = Evaluator(processed_template, AlarmEmail="rota@example.com", AlarmTopicArn=TOPIC)

        assert evaluator.resources()["AlarmTopic"]["Subscription"] == [
            {"Protocol": "email", "Endpoint": "rota@example.com"}
        ]
        output = processed_template["Outputs"]["AlarmTopicArn"]
        assert (output["Condition"], evaluator.evaluate(output["Value"])) == ("HasAlarmEmail", "<AlarmTopic>")
