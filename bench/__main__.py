"""Runs the benchmark, prints the tables, and writes the results, the tables and the plot.

BENCH_QUICK=1 runs a short trial that writes nothing into the project.
BENCH_ONLY=sweep,memory runs only these cases, and keeps the other results.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from bench import plot, summary, tables
from bench.cases import LATENCY, QUICK, Bench, Sizes
from bench.implementations import package_all
from bench.measure import environment, run
from bench.paths import PLOT, QUICK_RESULTS, RESULTS, RUNTIME_PYTHON, TABLES
from bench.registry import capacity, registry

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Results

_VERSIONS = "import sys, boto3; print(sys.version.split()[0], boto3.__version__)"


def main() -> None:
    """Run the benchmark."""
    quick = bool(os.environ.get("BENCH_QUICK"))
    path = QUICK_RESULTS if quick else RESULTS
    console = Console()
    implementations = package_all()
    with registry() as ecr, console.status("") as status:

        def report_progress(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text)

        bench = Bench(ecr, implementations, QUICK if quick else Sizes(), report_progress)
        results = measure(bench, path) | {"quick": quick}
    path.write_text(json.dumps(results) + "\n")
    tables.show(results)
    if not quick:
        write_documentation(results)
    console.print(f"Results: {path}")


def write_documentation(results: Results) -> None:
    """Write the tables and the plot, and print what belongs into docs/performance.md."""
    TABLES.write_text(tables.markdown(results))
    PLOT.write_text(plot.plot(results))
    print(summary.summary(results), summary.limits(results), sep="\n\n")  # noqa: T201 - the output


def measure(bench: Bench, path: Path) -> Results:
    """Measure the selected cases, and save the results after each case."""
    cases = {
        "events": bench.events,
        "sweep": bench.sweeps,
        "limited": bench.limited,
        "memory": bench.memory,
        "sizes": bench.function_sizes,
    }
    selected = os.environ.get("BENCH_ONLY", ",".join(cases)).split(",")
    keep = path.exists() and set(selected) < cases.keys()
    python, boto3 = run([RUNTIME_PYTHON, "-c", _VERSIONS], environment(bench.ecr.endpoint())).output.split()
    results: Results = {
        "measured": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": python,
        "boto3": boto3,
        "latency": LATENCY,
        "server_calls_per_second": round(capacity(bench.ecr)),
        "packages": {one.name: one.package.stat().st_size for one in bench.implementations},
        "rows": json.loads(path.read_text())["rows"] if keep else [],
    }
    for name in selected:
        rows = [row.as_json() for row in cases[name]()]
        measured = {row["case"] for row in rows}
        results["rows"] = [row for row in results["rows"] if row["case"] not in measured] + rows
        path.write_text(json.dumps(results) + "\n")  # an interrupted run loses only the current case
    return results


if __name__ == "__main__":
    main()
