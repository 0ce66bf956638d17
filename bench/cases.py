"""The four cases: each measures the contenders in turns, so that they share the machine's moods."""

from __future__ import annotations

import json
import statistics
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from bench.contenders import CUSTODIAN_NAME, FLOOR, OURS, Contender
from bench.places import BENCH, CUSTODIAN, PROJECT, RUNTIME_PYTHON, WORK
from bench.process import BenchError, Ran, environment, run
from bench.quota import NoQuota, quota
from bench.registry import ROLE, Registry
from bench.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ADAPTIVE = "bare boto3, adaptive retries"
NOTHING, EVERYTHING = "nothing", "everything"
COLD, WARM, SWEEP, LIMITED, MEMORY = "cold start", "warm event", "sweep", "limited sweep", "memory"
SIZED = "sized sweep"
LATENCY = 0.03  # seconds a call

type Tell = Callable[[str], None]


@dataclass
class Row:
    """What one contender took for one thing, once for each round.

    Attributes:
        case: which of the cases.
        todo: what was to be done.
        by: the contender.
        repositories: how many there were.
        rate: how many calls a second were served at most; 0 for any number.
        size: the MB of memory of the function whose share of a processor it had; 0 for all of it.
        seconds: how long each round took.
        calls: how many calls it made to ECR.
        throttled: how many of them were throttled.
        failed: how many repositories it left undone.
        cpu: seconds of processor time.
        peak: the most memory that it held, in MiB.
    """

    case: str
    todo: str
    by: str
    repositories: int
    rate: float = 0
    size: int = 0
    seconds: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    throttled: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, object]:
        """Give it with as many digits as say something."""
        return {
            key: [round(one, 4) for one in value] if isinstance(value, list) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cold_rounds: int
    events: int
    sweeps: dict[int, int]  # repositories: rounds
    custodian_repositories: int
    custodian_rounds: int
    limits: dict[int, int]  # calls a second: repositories
    limited_rounds: int
    memory: tuple[int, int]
    memory_rounds: int
    functions: tuple[int, ...]  # MB
    function_repositories: int
    function_rounds: int


FULL = Sizes(
    11,
    100,
    {1000: 5, 10_000: 3},
    1000,
    2,
    {100: 3000, 20: 1200},
    2,
    (1000, 100_000),
    2,
    (128, 256, 512, 1024, 1769),
    1000,
    3,
)
QUICK = Sizes(2, 5, {100: 1}, 100, 1, {100: 300}, 1, (100, 2000), 1, (256, 1769), 100, 1)


def events(registry: Registry, contenders: Sequence[Contender], sizes: Sizes, tell: Tell) -> Iterator[Row]:
    """Cases 1 and 2: the first event after the start, the next ones that write, and those that need not."""
    cold = {one.name: Row(COLD, EVERYTHING, one.name, 1) for one in contenders}
    warm = {one.name: Row(WARM, EVERYTHING, one.name, 1) for one in contenders}
    idle = {one.name: Row(WARM, NOTHING, one.name, 1) for one in contenders}
    env = _environment(registry)
    for turn in range(sizes.cold_rounds):
        tell(f"cold start and warm events, round {turn + 1} of {sizes.cold_rounds}")
        for one in contenders:
            registry.reset(sizes.events + 1, granted=False)
            with runtime(one, env) as started:
                cold[one.name].seconds.append(started.invoke(_event(0)))
                first = registry.count()
                warm[one.name].seconds += [started.invoke(_event(n)) for n in range(1, sizes.events + 1)]
                second = registry.count()
                idle[one.name].seconds += [started.invoke(_event(n)) for n in range(1, sizes.events + 1)]
                last = registry.count()
            if last.policies != sizes.events + 1:
                raise BenchError(f"{one.name} left repositories without a policy")
            cold[one.name].calls.append(first.calls)
            warm[one.name].calls.append((second.calls - first.calls) / sizes.events)
            idle[one.name].calls.append((last.calls - second.calls) / sizes.events)
    yield from (*cold.values(), *warm.values(), *idle.values())


def sweeps(registry: Registry, ours: Contender, sizes: Sizes, tell: Tell) -> Iterator[Row]:
    """Case 3: sweeps at a latency."""
    for repositories, rounds in sizes.sweeps.items():
        for todo in (NOTHING, EVERYTHING):
            rows = [Row(SWEEP, todo, by, repositories) for by in (OURS, FLOOR, CUSTODIAN_NAME)]
            for turn in range(rounds):
                for row in rows:
                    if row.by == CUSTODIAN_NAME and (
                        repositories > sizes.custodian_repositories or turn >= sizes.custodian_rounds
                    ):
                        continue
                    tell(
                        f"{row.by}: {repositories:,} repositories, {todo} to do, round {turn + 1} of {rounds}"
                    )
                    _sweep(registry, ours, row, LATENCY)
            yield from (row for row in rows if row.seconds)


def limited(registry: Registry, ours: Contender, sizes: Sizes, tell: Tell) -> Iterator[Row]:
    """Case 4: sweeps that ECR throttles."""
    for rate, repositories in sizes.limits.items():
        rows = [
            Row(LIMITED, NOTHING, OURS, repositories, rate),
            Row(LIMITED, EVERYTHING, OURS, repositories // 2, rate),
            Row(LIMITED, NOTHING, ADAPTIVE, repositories, rate),
        ]
        for turn in range(sizes.limited_rounds):
            for row in rows:
                tell(f"{row.by}: {rate} calls a second, {row.todo} to do, round {turn + 1}")
                _sweep(registry, ours, row, LATENCY)
        yield from rows


def memory(registry: Registry, ours: Contender, sizes: Sizes, tell: Tell) -> Iterator[Row]:
    """Case 4 as well: what a sweep holds, of few and of many repositories; without latency, to save time."""
    rows = [Row(MEMORY, NOTHING, FLOOR, repositories) for repositories in (0, sizes.memory[0])]
    rows += [Row(MEMORY, NOTHING, OURS, repositories) for repositories in sizes.memory]
    for _ in range(sizes.memory_rounds):
        for row in rows:
            tell(f"{row.by}: memory with {row.repositories:,} repositories")
            _sweep(registry, ours, row, 0)
    yield from rows


def sizes_of_function(registry: Registry, ours: Contender, sizes: Sizes, tell: Tell) -> Iterator[Row]:
    """Tell what a sweep takes with the share of a processor that Lambda gives by memory."""
    rows = [
        Row(SIZED, todo, OURS, sizes.function_repositories, size=size)
        for size in sizes.functions
        for todo in (NOTHING, EVERYTHING)
    ]
    for turn in range(sizes.function_rounds):
        for row in rows:
            tell(f"a function of {row.size} MB, {row.todo} to do, round {turn + 1}")
            try:
                _sweep(registry, ours, row, LATENCY)
            except NoQuota as error:
                tell(str(error))
                return
    yield from rows


def _sweep(registry: Registry, ours: Contender, row: Row, latency: float) -> None:
    """Let a contender sweep once, and add what it took to its row."""
    granted = row.todo == NOTHING
    registry.reset(row.repositories, granted=granted, latency=latency, rate=row.rate)
    with quota(row.size) if row.size else nullcontext() as group:
        ran = _run(registry, ours, row.by, group)
    count = registry.count()
    failed = row.repositories - count.policies
    if granted and row.by != CUSTODIAN_NAME:
        answer = json.loads(ran.answer)
        failed = row.repositories - answer.get("outcomes", {}).get("unchanged", 0)
        if row.by != OURS:
            failed = answer["failed"]
    if failed and not row.rate:
        raise BenchError(f"{row.by} left {failed} of {row.repositories} undone")
    row.seconds.append(ran.seconds)
    row.cpu.append(ran.cpu)
    row.peak.append(ran.peak)
    row.calls.append(count.calls)
    row.throttled.append(count.throttled)
    row.failed.append(failed)


def _run(registry: Registry, ours: Contender, by: str, group: Path | None) -> Ran:
    env = _environment(registry)
    match by:
        case "ecr-allow-pull":
            env["PYTHONPATH"] = str(ours.folder)
            return run([RUNTIME_PYTHON, "-P", BENCH / "invoke.py"], env, group)
        case "Cloud Custodian":
            command = [CUSTODIAN / "custodian", "run", "--region", "us-east-1", "--cache-period", "0"]
            return run([*command, "--output-dir", WORK / "output.d", BENCH / "custodian/sweep.yaml"], env)
        case _:
            mode = "adaptive" if by == ADAPTIVE else "legacy"
            return run([RUNTIME_PYTHON, "-P", BENCH / "floor/sweep.py", mode], env)


def _environment(registry: Registry) -> dict[str, str]:
    return environment(registry.url, WORKER_ROLE_ARNS=ROLE, ROLE_NAME="ecr-allow-pull")


def _event(number: int) -> dict[str, object]:
    saved = (PROJECT / "events/created-by-api.json").read_text()
    event: dict[str, object] = json.loads(saved.replace("team/app", f"team-{number % 100}/app-{number}"))
    return event
