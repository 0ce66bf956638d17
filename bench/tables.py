"""The tables of what was measured, for the terminal, or with `--markdown` for the docs."""

from __future__ import annotations

import json
import statistics
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.cases import COLD, EVERYTHING, LIMITED, MEMORY, SIZED, SWEEP, WARM
from bench.contenders import CUSTODIAN_NAME, FLOOR, OURS
from bench.places import RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

type Json = dict[str, Any]

_MIB = 1024 * 1024
_WIDTH = 140  # characters, even where the terminal has fewer or is none


def tables(results: Json) -> Iterator[Table]:
    """Give a table for each case."""
    rows = results["rows"]
    yield _table(
        "package",
        ("", "zipped"),
        [(by, f"{size / _MIB:.2f} MiB") for by, size in results["packages"].items()],
    )
    for case in (COLD, WARM):
        yield _table(
            f"{case}, ms",
            ("", "to do", "median", "quartiles", "/ boto3", "Custodian /", "ECR calls"),
            [
                (
                    row["by"],
                    row["todo"],
                    _ms(row),
                    _spread(row),
                    *_ratios(row, rows),
                    f"{_median(row['calls']):g}",
                )
                for row in rows
                if row["case"] == case
            ],
        )
    yield _table(
        f"sweep at {results['latency'] * 1000:g} ms a call",
        (
            "",
            "repositories",
            "to do",
            "median",
            "range",
            "/ boto3",
            "Custodian /",
            "calls",
            "cpu",
            "peak",
        ),
        [
            (
                row["by"],
                f"{row['repositories']:,}",
                row["todo"],
                f"{_median(row['seconds']):.2f} s",
                f"{min(row['seconds']):.2f}-{max(row['seconds']):.2f}",
                *_ratios(row, rows),
                f"{_median(row['calls']):,.0f}",
                f"{_median(row['cpu']):.2f} s",
                f"{_median(row['peak']):.0f} MiB",
            )
            for row in rows
            if row["case"] == SWEEP
        ],
    )
    yield _table(
        "sweep under a rate limit",
        (
            "",
            "calls/s",
            "repositories",
            "to do",
            "median",
            "ideal",
            "ratio",
            "throttled",
            "undone",
            "peak",
        ),
        [
            (
                row["by"],
                f"{row['rate']:g}",
                f"{row['repositories']:,}",
                row["todo"],
                f"{_median(row['seconds']):.1f} s",
                f"{ideal(row):.1f} s",
                f"{_median(row['seconds']) / ideal(row):.2f}",
                f"{_median(row['throttled']) / _median(row['calls']):.1%}",
                f"{_median(row['failed']):g}",
                f"{_median(row['peak']):.0f} MiB",
            )
            for row in rows
            if row["case"] == LIMITED
        ],
    )
    yield _table(
        "memory, no latency",
        ("", "repositories", "peak", "range", "median", "cpu", "calls/s"),
        [
            (
                row["by"],
                f"{row['repositories']:,}",
                f"{_median(row['peak']):.1f} MiB",
                f"{min(row['peak']):.1f}-{max(row['peak']):.1f}",
                f"{_median(row['seconds']):.1f} s",
                f"{_median(row['cpu']):.1f} s",
                f"{_median(row['calls']) / _median(row['seconds']):,.0f}",
            )
            for row in rows
            if row["case"] == MEMORY
        ],
    )
    yield _table(
        f"sweep by the size of the function, at {results['latency'] * 1000:g} ms a call",
        ("", "function", "repositories", "to do", "median", "range", "cpu", "GB-seconds"),
        [
            (
                row["by"],
                f"{row['size']} MB",
                f"{row['repositories']:,}",
                row["todo"],
                f"{_median(row['seconds']):.1f} s",
                f"{min(row['seconds']):.1f}-{max(row['seconds']):.1f}",
                f"{_median(row['cpu']):.1f} s",
                f"{_median(row['seconds']) * row['size'] / 1024:.1f}",
            )
            for row in rows
            if row["case"] == SIZED
        ],
    )


def ideal(row: Json) -> float:
    """Tell how many seconds the calls that are needed take at the rate that is served."""
    each = 2 if row["todo"] == EVERYTHING else 1
    return float(each * row["repositories"] / row["rate"])


def _ratios(row: Json, rows: Sequence[Json]) -> tuple[str, str]:
    """Give its time as a multiple of bare boto3's, and Cloud Custodian's as a multiple of its time."""
    mine = _median(row["seconds"])
    alike = ("case", "todo", "repositories")
    theirs = {
        one["by"]: _median(one["seconds"]) for one in rows if all(one[key] == row[key] for key in alike)
    }
    return (
        f"{mine / theirs[FLOOR]:.2f}" if FLOOR in theirs else "",
        f"{theirs[CUSTODIAN_NAME] / mine:.1f}" if CUSTODIAN_NAME in theirs else "",
    )


def _ms(row: Json) -> str:
    return f"{_median(row['seconds']) * 1000:.1f}"


def _spread(row: Json) -> str:
    if len(row["seconds"]) == 1:
        return ""
    low, _, high = statistics.quantiles(row["seconds"], n=4, method="inclusive")
    return f"{low * 1000:.1f}-{high * 1000:.1f}"


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == OURS else None)
    return table


def show(results: Json, *, markdown: bool = False) -> None:
    """Print the tables."""
    console = Console()
    console.width = max(console.width, _WIDTH)
    for table in tables(results):
        if markdown:
            console.print(f"\n### {table.title}\n")
            table.title, table.box = None, box.MARKDOWN
        console.print(table)


if __name__ == "__main__":
    show(json.loads(RESULTS.read_text()), markdown="--markdown" in sys.argv)
