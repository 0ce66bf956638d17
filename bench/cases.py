"""The benchmark's cases. In each round the implementations take turns, so that noise affects all of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench import results
from bench.cpu_quota import QuotaUnavailable, cpu_quota
from bench.implementations import SWEEP_COMMANDS, Implementation
from bench.measure import BenchError, environment, invoke, run
from bench.paths import RUNTIME_PYTHON, WORK
from bench.registry import ROLE, BenchEcr
from bench.results import ADAPTIVE, ALL, BASELINE, CUSTODIAN, NONE, OURS, Limit, Row
from devstack.host import PROJECT
from devstack.lambda_runtime import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LATENCY = 0.03  # seconds a call
_SLOW = {CUSTODIAN, ADAPTIVE}  # have rounds of their own number


@dataclass(frozen=True)
class Sizes:
    """How much to measure. The defaults are the complete benchmark."""

    cold_starts: int = 11
    events: int = 100  # warm events after each cold start
    # Repositories, rounds, and rounds of Cloud Custodian.
    sweeps: tuple[tuple[int, int, int], ...] = ((1000, 5, 2), (10_000, 3, 0))
    limited_seconds: int = 30  # that a sweep takes at least under a rate limit
    limited_rounds: tuple[int, int] = (2, 1)  # of ours, and of the others
    memory: tuple[int, int] = (1000, 100_000)  # few and many repositories
    memory_rounds: int = 2
    functions: tuple[int, ...] = (128, 256, 512, 1024, 1769)  # MB
    function_repositories: int = 1000
    function_rounds: int = 3


# The rate limits, and the missing grants of each.
_LIMITS = (
    (Limit(100, burst=100), (NONE, ALL)),
    (Limit(100, burst=2), (NONE, ALL)),
    (Limit(50, burst=1), (NONE,)),
    (Limit(20, burst=1), (NONE, ALL)),
    (Limit(50, burst=1, changes=True), (NONE,)),
    (Limit(50, burst=50, invocations=2), (NONE,)),
)

QUICK = Sizes(2, 5, ((100, 1, 1),), 3, (1, 1), (100, 2000), 1, (256, 1769), 100, 1)


@dataclass(frozen=True)
class Bench:
    """A run of the benchmark. Each method measures one or two cases."""

    ecr: BenchEcr
    implementations: Sequence[Implementation]
    sizes: Sizes
    report_progress: Callable[[str], None]

    def events(self) -> Iterator[Row]:
        """Measure cold starts, and warm events with and without a missing grant."""
        cases = ((results.COLD, ALL), (results.WARM, ALL), (results.WARM, NONE))
        rows = [Row(case, missing, one.name, 1) for case, missing in cases for one in self.implementations]
        warm = range(1, self.sizes.events + 1)
        for number in range(self.sizes.cold_starts):
            self.report_progress(f"events: round {number + 1} of {self.sizes.cold_starts}")
            for one in self.implementations:
                own_rows = (row for row in rows if row.implementation == one.name)
                self.ecr.reset(len(warm) + 1, granted=False)
                env, log = self._environment(), WORK / "runtime.log"
                with running(RUNTIME_PYTHON, one.handler, one.folder, env, log) as port:
                    for row, numbers in zip(own_rows, ([0], warm, warm), strict=True):
                        self._invoke_each(port, row, numbers)
                if self.ecr.count().policies != len(warm) + 1:
                    raise BenchError(f"{one.name} did not attach every policy")
        yield from rows

    def sweeps(self) -> Iterator[Row]:
        """Measure sweeps with latency."""
        for repositories, rounds, custodian_rounds in self.sizes.sweeps:
            for missing in (NONE, ALL):
                names = (OURS, BASELINE, CUSTODIAN) if custodian_rounds else (OURS, BASELINE)
                rows = [Row(results.SWEEP, missing, name, repositories) for name in names]
                yield from self._sweep_rounds(rows, rounds, custodian_rounds)

    def limited(self) -> Iterator[Row]:
        """Measure sweeps under rate limits."""
        for limit, kinds in _LIMITS:
            for missing in kinds:
                for separate in (False, True):
                    calls = round(self.sizes.limited_seconds * limit.rate) + limit.burst
                    repositories = calls // limit.invocations // (2 if missing == ALL else 1)
                    one = replace(limit, separate=separate)
                    rows = [
                        Row(results.LIMITED, missing, each, repositories, one) for each in (OURS, ADAPTIVE)
                    ]
                    yield from self._sweep_rounds(rows, *self.sizes.limited_rounds)

    def memory(self) -> Iterator[Row]:
        """Measure the peak memory of small and large sweeps, without latency to save time."""
        few, many = self.sizes.memory
        subjects = ((BASELINE, 0), (BASELINE, few), (OURS, few), (OURS, many))
        rows = [Row(results.MEMORY, NONE, name, repositories) for name, repositories in subjects]
        yield from self._sweep_rounds(rows, self.sizes.memory_rounds)

    def function_sizes(self) -> Iterator[Row]:
        """Measure sweeps with the CPU share of each function size, if this machine can limit it."""
        rows = [
            Row(results.SIZED, missing, OURS, self.sizes.function_repositories, function_mb=function_mb)
            for function_mb in self.sizes.functions
            for missing in (NONE, ALL)
        ]
        try:
            yield from self._sweep_rounds(rows, self.sizes.function_rounds)
        except QuotaUnavailable as error:
            self.report_progress(str(error))

    def _invoke_each(self, port: int, row: Row, numbers: Sequence[int]) -> None:
        before = self.ecr.count().calls
        row.seconds += [invoke(port, _event(number)) for number in numbers]
        row.calls.append((self.ecr.count().calls - before) / len(numbers))

    def _sweep_rounds(self, rows: Sequence[Row], rounds: int, slow_rounds: int = 0) -> Sequence[Row]:
        for number in range(rounds):
            for row in rows:
                if row.implementation not in _SLOW or number < slow_rounds:
                    limit = f", {row.limit.name}" if row.limit else ""
                    self.report_progress(
                        f"{row.case}: {row.implementation}, {row.repositories:,} repositories{limit}, "
                        f"missing grants: {row.missing}, round {number + 1} of {rounds}"
                    )
                    self._sweep(row)
        return rows

    def _sweep(self, row: Row) -> None:
        latency = 0 if row.case == results.MEMORY else LATENCY
        self.ecr.reset(row.repositories, granted=row.missing == NONE, latency=latency, limit=row.limit)
        invocations = row.limit.invocations if row.limit else 1
        env = self._environment()
        with (
            cpu_quota(row.function_mb) if row.function_mb else nullcontext() as cgroup,
            ThreadPoolExecutor() as threads,
        ):
            command = SWEEP_COMMANDS[row.implementation]
            usages = list(threads.map(lambda _: run(command, env, cgroup), range(invocations)))
        count = self.ecr.count()
        failed = row.repositories - count.policies
        if row.missing == NONE and row.implementation != CUSTODIAN:
            # All repositories had a policy, so only the output shows which of them were read.
            failed = sum(_failed(row, json.loads(usage.output)) for usage in usages)
        if failed and not row.limit:
            raise BenchError(f"{row.implementation} failed on {failed} of {row.repositories} repositories")
        row.seconds.append(max(usage.seconds for usage in usages))
        row.cpu.append(sum(usage.cpu for usage in usages))
        row.peak.append(max(usage.peak for usage in usages))
        row.calls.append(count.calls)
        row.throttled.append(count.throttled)
        row.failed.append(failed)

    def _environment(self) -> dict[str, str]:
        return environment(
            self.ecr.endpoint(),
            WORKER_ROLE_ARNS=ROLE,
            REPOSITORIES="*",
            MODE="enforce",
            ROLE_NAME="ecr-allow-pull",
            ROLE_CHECK_REPOSITORY="ecr-allow-pull-role-check/bench",
            POWERTOOLS_SERVICE_NAME="bench",
        )


def _failed(row: Row, output: dict[str, Any]) -> int:
    if row.implementation == OURS:
        return row.repositories - int(output.get("outcomes", {}).get("unchanged", 0))
    return int(output["failed"])


def _event(number: int) -> dict[str, object]:
    saved = (PROJECT / "events/created-by-api.json").read_text()
    event: dict[str, object] = json.loads(saved.replace("team/app", f"team-{number % 100}/app-{number}"))
    return event
