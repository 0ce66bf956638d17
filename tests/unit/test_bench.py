"""Tests the benchmark's registry, tables and plot, and compares the documentation with the results."""

import json
from xml.etree import ElementTree as ET

import pytest

from bench import summary, tables
from bench.cases import LATENCY
from bench.paths import PLOT, RESULTS, TABLES
from bench.plot import plot
from bench.registry import BenchEcr, ChangingBucket, capacity, registry
from bench.results import ALL, BASELINE, CUSTODIAN, LIMITED, NONE, OURS, SWEEP, Limit, Row
from devstack.fake_ecr import LIST, READ
from devstack.host import PROJECT


def row(
    implementation: str, *seconds: float, case: str = SWEEP, missing: str = NONE, limit: Limit | None = None
) -> Row:
    ones, zeros = [1.0] * len(seconds), [0.0] * len(seconds)
    return Row(case, missing, implementation, 1000, limit, 0, list(seconds), ones, zeros, zeros, ones, ones)


ROWS = [
    row(OURS, 2, 3, 1),
    row(BASELINE, 1),
    row(CUSTODIAN, 100),
    row(OURS, 9, case=LIMITED, limit=Limit(1, 1)),
]
EXAMPLE = {"latency": LATENCY, "packages": {OURS: 1}, "rows": [row.as_json() for row in ROWS]}


def test_plot_is_an_svg_with_a_bar_for_each_implementation() -> None:
    svg = ET.fromstring(plot(EXAMPLE))  # noqa: S314 - trusted

    bars = {bar.get("fill"): bar.get("width") for bar in svg.iter("{http://www.w3.org/2000/svg}rect")}
    assert len(bars) == 3


def test_tables_show_the_median_and_its_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(EXAMPLE)

    [line] = [line for line in capsys.readouterr().out.splitlines() if OURS in line and "2.00 s" in line]
    assert {"2.00", "50.0"} <= set(line.split())


@pytest.mark.parametrize(
    ("missing", "limit", "seconds"),
    [
        (NONE, Limit(100, burst=0), 10),
        (ALL, Limit(100, burst=0), 20),
        (NONE, Limit(100, burst=100), 9),
        (ALL, Limit(100, burst=0, separate=True), 10),
        (NONE, Limit(100, burst=0, invocations=2), 20),
        (NONE, Limit(100, burst=0, changes=True), 10 / 3 + 2 * 10 / 3 + 10 / 3),
    ],
)
def test_ideal_time_is_that_of_the_necessary_calls(missing: str, limit: Limit, seconds: float) -> None:
    assert row(OURS, 1, missing=missing, limit=limit).ideal == pytest.approx(seconds)


@pytest.mark.parametrize("separate", [False, True])
def test_registry_limits_all_operations_together_or_each(*, separate: bool) -> None:
    ecr = BenchEcr()
    ecr.reset(1, granted=True, limit=Limit(1e-9, burst=1, separate=separate))
    (name,) = ecr.policies

    statuses = [
        ecr.handle_call(operation, request)[0]  # type: ignore[index]
        for operation, request in ((LIST, {}), (LIST, {}), (READ, {"repositoryName": name}))
    ]

    assert statuses == [200, 400, 200 if separate else 400]


def test_rate_halves_for_the_second_third_of_the_calls() -> None:
    bucket = ChangingBucket(30, 90, calls=90)

    rates = [(bucket.take(), bucket.rate)[1] for _ in range(90)]

    assert rates == [30] * 29 + [15] * 30 + [30] * 31


def test_registry_counts_calls_and_policies() -> None:
    with registry() as ecr:
        ecr.reset(3, granted=True)

        assert ecr.count().policies == 3
        assert ecr.count().calls == 0
        assert capacity(ecr, 0.1) > 0


def test_documentation_shows_the_latest_results() -> None:
    results = json.loads(RESULTS.read_text())
    documented = (PROJECT / "docs/performance.md").read_text()

    assert summary.summary(results) in documented
    assert summary.limits(results) in documented
    assert TABLES.read_text() == tables.markdown(results), "run make bench"
    assert PLOT.read_text() == plot(results), "run make bench"
