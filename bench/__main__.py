"""Runs the four cases side by side, prints the tables, and writes the results and the plot.

BENCH_QUICK=1 measures just enough to see that all of it works, and writes nothing into the project.
BENCH_ONLY=sweep,memory measures those only, and keeps what is known of the others.
"""

import json
import os
from datetime import UTC, datetime
from functools import partial

from rich.console import Console

from bench import cases, plot, tables
from bench.contenders import OURS, contenders
from bench.places import QUICK_RESULTS, RESULTS, RUNTIME_PYTHON
from bench.process import environment, run
from bench.registry import registry

quick = bool(os.environ.get("BENCH_QUICK"))
sizes = cases.QUICK if quick else cases.FULL
path = QUICK_RESULTS if quick else RESULTS
console = Console()
all_of_them = contenders()
ours = next(one for one in all_of_them if one.name == OURS)

with registry() as ecr, console.status("") as status:

    def tell(text: str) -> None:
        """Say what goes on."""
        status.update(text)
        if not console.is_terminal:
            console.print(text)

    work = {
        "events": partial(cases.events, ecr, all_of_them, sizes, tell),
        "sweep": partial(cases.sweeps, ecr, ours, sizes, tell),
        "limited": partial(cases.limited, ecr, ours, sizes, tell),
        "memory": partial(cases.memory, ecr, ours, sizes, tell),
        "sizes": partial(cases.sizes_of_function, ecr, ours, sizes, tell),
    }
    wanted = os.environ.get("BENCH_ONLY", ",".join(work)).split(",")
    before = json.loads(path.read_text()) if path.exists() and set(wanted) < work.keys() else {"rows": []}
    versions = run(
        [RUNTIME_PYTHON, "-c", "import sys, boto3; print(sys.version.split()[0], boto3.__version__)"],
        environment(ecr.url),
    ).answer.split()
    results = {
        "measured": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": versions[0],
        "boto3": versions[1],
        "latency": cases.LATENCY,
        "server_calls_per_second": round(ecr.ceiling()),
        "packages": {one.name: one.package.stat().st_size for one in all_of_them},
        "rows": before["rows"],
    }
    for name in wanted:
        rows = [row.as_json() for row in work[name]()]
        fresh = {row["case"] for row in rows}
        results["rows"] = [row for row in results["rows"] if row["case"] not in fresh] + rows
        # After each case, so that a run that is broken off loses nothing.
        path.write_text(json.dumps(results) + "\n")

tables.show(results)
if not quick:
    plot.write(results)
console.print(f"The numbers are in {path}")
