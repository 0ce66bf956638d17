"""Tests the benchmark's registry, tables and plot, and compares the documentation with the results."""

import json
from xml.etree import ElementTree as ET

import pytest

from bench import tables
from bench.cases import LATENCY
from bench.paths import PLOT, RESULTS
from bench.plot import plot
from bench.registry import capacity, registry
from bench.results import ALL, BASELINE, CUSTODIAN, LIMITED, NONE, OURS, SWEEP, Row
from devstack.host import PROJECT


def row(implementation: str, *seconds: float, case: str = SWEEP, missing: str = NONE, rate: float = 0) -> Row:
    ones, zeros = [1.0] * len(seconds), [0.0] * len(seconds)
    return Row(case, missing, implementation, 1000, rate, 0, list(seconds), ones, zeros, zeros, ones, ones)


ROWS = [row(OURS, 2, 3, 1), row(BASELINE, 1), row(CUSTODIAN, 100), row(OURS, 9, case=LIMITED, rate=1)]
EXAMPLE = {"latency": LATENCY, "packages": {OURS: 1}, "rows": [row.as_json() for row in ROWS]}


def test_plot_is_an_svg_with_a_bar_for_each_implementation() -> None:
    svg = ET.fromstring(plot(EXAMPLE))  # noqa: S314 - trusted

    bars = {bar.get("fill"): bar.get("width") for bar in svg.iter("{http://www.w3.org/2000/svg}rect")}
    assert len(bars) == 3


def test_tables_show_the_median_and_its_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(EXAMPLE)

    [line] = [line for line in capsys.readouterr().out.splitlines() if OURS in line and "2.00 s" in line]
    assert {"2.00", "50.0"} <= set(line.split())


def test_sweep_with_missing_grants_takes_a_read_and_a_write_for_each_repository() -> None:
    assert row(OURS, 1, missing=ALL, rate=100).minimum == 20
    assert row(OURS, 1, missing=NONE, rate=100).minimum == 10


def test_registry_counts_calls_and_policies() -> None:
    with registry() as ecr:
        ecr.reset(3, granted=True)

        assert ecr.count().policies == 3
        assert ecr.count().calls == 0
        assert capacity(ecr, 0.1) > 0


def test_documentation_shows_the_latest_results(capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(RESULTS.read_text())
    tables.show(results, markdown=True)
    expected = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]

    documented = (PROJECT / "docs/performance.md").read_text().splitlines()
    assert len(expected) > 30
    assert set(expected) <= set(documented), "copy the output of python -m bench.tables --markdown"
    assert PLOT.read_text() == plot(results), "run python -m bench.plot"
