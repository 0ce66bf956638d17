"""What an acceptance run costs: list prices of us-east-1 and what a run creates. Pure."""

from __future__ import annotations

from typing import NamedTuple

_HOURS_PER_MONTH = 730
# A run deploys these stacks for less than an hour. AWS bills alarms, metrics and dashboards by the hour.
STACKS = 6
ASSUMPTIONS = (
    f"{STACKS} stacks for one hour, list prices of us-east-1, no free tier. Where AWS Config records, each "
    "change of a resource adds $0.003."
)


class Item(NamedTuple):
    """One line of the bill."""

    name: str
    dollars: float


def items() -> tuple[Item, ...]:
    """Return what a run costs in US dollars, at most."""

    def hourly(count: int, dollars_per_month: float) -> float:
        return STACKS * count * dollars_per_month / _HOURS_PER_MONTH

    return (
        Item("alarms, on 14 metrics in each stack", hourly(14, 0.10)),
        Item("metrics, at most 14 in each stack", hourly(14, 0.30)),
        Item("dashboards, one in each stack", hourly(1, 3.00)),
        Item("2,000 requests to S3 at most", 2_000 * 5e-6),
        Item("1,000 invocations of 1 GB for half a second", 1_000 * (0.5 * 1.33334e-5 + 2e-7)),
        Item("5 MB of logs", 0.005 * 0.50),
    )


def total() -> float:
    """Return the sum in US dollars."""
    return sum(item.dollars for item in items())
