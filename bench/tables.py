"""The results as tables, for the terminal and in Markdown."""

from __future__ import annotations

import statistics
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from bench.results import (
    BASELINE,
    COLD,
    CUSTODIAN,
    LIMITED,
    MEMORY,
    OURS,
    SIZED,
    SWEEP,
    WARM,
    duration,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.results import Results, Row

_MIB = 1024 * 1024
_WIDTH = 160  # characters
_INTRODUCTION = """\
# Results of the benchmark

Written by `make bench`, which takes about an hour. docs/performance.md shows the summary. `BENCH_QUICK=1 make
bench` runs a two-minute trial that writes nothing into the project. `BENCH_ONLY=events,limited make bench`
measures only these cases (`events`, `sweep`, `limited`, `memory`, `sizes`), and keeps the other results.

- The registry is the tests' fake ECR, in its own process on loopback, without TLS.
- Events run under AWS's runtime client and runtime interface emulator. A cold start begins with the start of
  the process. ECR answers at once.
- Packages are zipped and unpacked as Lambda does it. All implementations use the runtime's boto3.
- Sweeps are measured from the start of the process to its end, with 30 ms a call to ECR, and memory without.
- A function size determines the CPU share, which Linux control groups apply: 1,769 MB is one vCPU.
- The ideal time is that of the necessary calls at the rate limit, after the burst.
- In each round, the implementations take turns. Compare only ratios from one run.
"""
_COLUMNS: dict[str, Callable[[Row, dict[str, Row]], str]] = {
    "": lambda row, _: row.implementation,
    "function size": lambda row, _: f"{row.function_mb} MB",
    "limit": lambda row, _: row.limit.name if row.limit else "",
    "burst": lambda row, _: f"{row.limit.burst}" if row.limit else "",
    "buckets": lambda row, _: "one per operation" if row.limit and row.limit.separate else "one",
    "repositories": lambda row, _: f"{row.repositories:,}",
    "missing grants": lambda row, _: row.missing,
    "median": lambda row, _: duration(row.median),
    "ideal": lambda row, _: duration(row.ideal),
    "time vs ideal": lambda row, _: f"{row.median / row.ideal:.2f}",
    "quartiles": lambda row, _: _quartiles(row.seconds),
    "range": lambda row, _: _range(row.seconds),
    "time vs boto3": lambda row, peers: f"{row.median / peers[BASELINE].median:.2f}",
    "speedup vs Custodian": lambda row, peers: (
        f"{peers[CUSTODIAN].median / row.median:.1f}" if CUSTODIAN in peers else ""
    ),
    "ECR calls": lambda row, _: f"{statistics.median(row.calls):,g}",
    "throttled": lambda row, _: f"{statistics.median(row.throttled) / statistics.median(row.calls):.1%}",
    "failed": lambda row, _: f"{statistics.median(row.failed):g}",
    "CPU time": lambda row, _: duration(statistics.median(row.cpu)),
    "peak memory": lambda row, _: f"{statistics.median(row.peak):.1f} MiB",
    "calls/s": lambda row, _: f"{statistics.median(row.calls) / row.median:,.0f}",
    "GB-seconds": lambda row, _: f"{row.median * row.function_mb / 1024:.1f}",
}
_EVENT_COLUMNS = "missing grants, median, quartiles, time vs boto3, speedup vs Custodian, ECR calls"
_TABLES = {
    COLD: _EVENT_COLUMNS,
    WARM: _EVENT_COLUMNS,
    SWEEP: "repositories, missing grants, median, range, time vs boto3, speedup vs Custodian, ECR calls, "
    "CPU time, peak memory",
    LIMITED: "limit, burst, buckets, missing grants, ideal, median, time vs ideal, throttled, failed",
    MEMORY: "repositories, peak memory, median, CPU time, calls/s",
    SIZED: "function size, missing grants, median, range, CPU time, GB-seconds",
}


def tables(results: Results) -> Iterator[Table]:
    """Yield a table for each case."""
    packages = results["packages"].items()
    yield _table("package", ("", "zipped"), [(name, f"{size / _MIB:.2f} MiB") for name, size in packages])
    rows = rows_of(results)
    for case, columns in _TABLES.items():
        headings = ["", *columns.split(", ")]
        cells = [
            [_COLUMNS[one](row, row.peers(rows)) for one in headings] for row in rows if row.case == case
        ]
        yield _table(case, headings, cells)


def _quartiles(seconds: Sequence[float]) -> str:
    if len(seconds) == 1:
        return ""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return _range((low, high))


def _range(seconds: Sequence[float]) -> str:
    return f"{duration(min(seconds))} - {duration(max(seconds))}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == OURS else None)
    return table


def show(results: Results) -> None:
    """Print the tables."""
    console = Console()
    console.width = max(console.width, _WIDTH)
    for table in tables(results):
        console.print(table)


def markdown(results: Results) -> str:
    """Return the tables in Markdown."""
    console = Console(file=StringIO(), width=_WIDTH)
    for table in tables(results):
        console.print(f"\n## {table.title}\n")
        table.title, table.box = None, box.MARKDOWN
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return _INTRODUCTION + "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
