"""The results: one row per case and implementation, with one value per round."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

type Results = dict[str, Any]

OURS, BASELINE, CUSTODIAN = "ecr-allow-pull", "bare boto3", "Cloud Custodian"
ADAPTIVE = "bare boto3, adaptive retries"
COLD, WARM, SWEEP, LIMITED, MEMORY = "cold start", "warm event", "sweep", "rate-limited sweep", "memory"
SIZED = "sweep by function size"
NONE, ALL = "none", "all"


@dataclass(frozen=True)
class Limit:
    """A rate limit: one token bucket for all operations, or one for each."""

    rate: float  # calls a second
    burst: int  # calls
    separate: bool = False
    changes: bool = False  # half the rate for the second third of the calls
    invocations: int = 1  # that share the limit, each with all repositories

    @property
    def name(self) -> str:
        """The limit as the tables show it."""
        rate = (
            f"{self.rate:g}/s, {self.rate / 2:g}/s, {self.rate:g}/s" if self.changes else f"{self.rate:g}/s"
        )
        return f"2 invocations share {rate}" if self.invocations > 1 else rate


@dataclass
class Row:
    """The measurements of one implementation in one case. Each list has one value per round."""

    case: str
    missing: str  # which repositories lack the grant at the start: NONE or ALL
    implementation: str
    repositories: int
    limit: Limit | None = None
    function_mb: int = 0  # the function size that limits the CPU share, or 0 for no limit
    seconds: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    throttled: list[float] = field(default_factory=list)  # calls
    failed: list[float] = field(default_factory=list)  # repositories without the grant at the end
    cpu: list[float] = field(default_factory=list)  # seconds
    peak: list[float] = field(default_factory=list)  # MiB of memory

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def ideal(self) -> float:
        """The seconds that the necessary calls of a bucket take, after its burst; 0 without a limit."""
        if not self.limit:
            return 0
        reads_and_writes = self.missing == ALL and not self.limit.separate
        calls = (2 if reads_and_writes else 1) * self.repositories * self.limit.invocations
        return (calls - self.limit.burst) / self.limit.rate * (4 / 3 if self.limit.changes else 1)

    @property
    def work(self) -> tuple[object, ...]:
        """What was to do. Implementations with the same work compare."""
        return self.case, self.missing, self.repositories, self.limit, self.function_mb

    def peers(self, rows: Iterable[Row]) -> dict[str, Row]:
        """Return the rows of all implementations with the same work, by implementation."""
        return {row.implementation: row for row in rows if row.work == self.work}

    def as_json(self) -> dict[str, object]:
        """Return the row with rounded measurements."""
        return {
            key: [round(one, 4) for one in value] if isinstance(value, list) else value
            for key, value in asdict(self).items()
        }


def rows_of(results: Results) -> list[Row]:
    """Parse the rows of results in JSON."""
    return [Row(**row | {"limit": row["limit"] and Limit(**row["limit"])}) for row in results["rows"]]


def duration(seconds: float) -> str:
    """Format a duration with three significant digits."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{value:#.3g} {unit}".replace(". ", " ")
