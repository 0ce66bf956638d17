"""Summarizes the results for the documentation, in Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.results import (
    ADAPTIVE,
    ALL,
    BASELINE,
    COLD,
    CUSTODIAN,
    LIMITED,
    MEMORY,
    NONE,
    OURS,
    SWEEP,
    WARM,
    Row,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.results import Results

_MIB = 1024 * 1024


def summary(results: Results) -> str:
    """Compare the implementations, one line for each case."""
    return "\n".join(
        _table(("", "compared with bare boto3", "compared with Cloud Custodian"), _lines(results))
    )


def limits(results: Results) -> str:
    """Compare the times under all rate limits with the ideal times."""
    rows = [row for row in rows_of(results) if row.case == LIMITED]
    heading = ("sweep under a rate limit", "time", "throttled calls", "failures")
    lines = (
        (name, *_spread([row for row in rows if row.implementation == name])) for name in (OURS, ADAPTIVE)
    )
    return "\n".join(_table(heading, lines))


def _lines(results: Results) -> Iterator[tuple[str, str, str]]:
    rows = rows_of(results)
    sizes = results["packages"]
    yield (
        "package",
        f"{sizes[OURS] / _MIB:.2f} MiB; boto3 is in the runtime",
        f"{sizes[CUSTODIAN] / _MIB:.2f} MiB",
    )
    for label, case, missing in (
        ("cold start, with a write", COLD, ALL),
        ("warm event, with a write", WARM, ALL),
        ("warm event, nothing to do", WARM, NONE),
        ("sweep of 1,000, nothing to do", SWEEP, NONE),
        ("sweep of 1,000, a write for each", SWEEP, ALL),
    ):
        ours = _find(rows, case, missing)
        peers = ours.peers(rows)
        slower = ours.median / peers[BASELINE].median
        faster = peers[CUSTODIAN].median / ours.median
        yield label, f"{slower:.2f} x the time", f"{faster:.2g} x as fast"
    few, many = sorted(
        (row for row in rows if row.case == MEMORY and row.implementation == OURS),
        key=lambda row: row.repositories,
    )
    growth = statistics.median(many.peak) / statistics.median(few.peak) - 1
    yield (
        f"memory with {many.repositories:,} repositories",
        f"{growth:.0%} more than with {few.repositories:,}",
        "",
    )


def _find(rows: Iterable[Row], case: str, missing: str) -> Row:
    """Return the first row of ours: the one with the fewest repositories."""
    return next(row for row in rows if (row.case, row.missing, row.implementation) == (case, missing, OURS))


def _spread(rows: Sequence[Row]) -> tuple[str, str, str]:
    ratios = [row.median / row.ideal for row in rows]
    throttled = [statistics.median(row.throttled) / statistics.median(row.calls) for row in rows]
    failures = sum(statistics.median(row.failed) for row in rows)
    return (
        f"{min(ratios):.2f} to {max(ratios):.2f} x the ideal",
        f"{min(throttled):.0%} to {max(throttled):.0%}",
        f"{failures:g}",
    )


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
