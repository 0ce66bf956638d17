"""The bench: that it counts what it should, and draws what it measured."""

import json
from xml.etree import ElementTree as ET

import pytest

from bench import tables
from bench.cases import EVERYTHING, LATENCY, LIMITED, NOTHING, SWEEP, Row
from bench.contenders import CUSTODIAN_NAME, FLOOR, OURS
from bench.places import PLOT, PROJECT
from bench.places import RESULTS as RESULTS_FILE
from bench.plot import plot
from bench.registry import registry


def row(
    by: str, *seconds: float, case: str = SWEEP, todo: str = NOTHING, rate: float = 0
) -> dict[str, object]:
    some, none = [1.0] * len(seconds), [0] * len(seconds)
    return Row(case, todo, by, 1000, rate, 0, list(seconds), some, none, none, some, some).as_json()


RESULTS = {
    "latency": LATENCY,
    "packages": {OURS: 1},
    "rows": [row(OURS, 2, 3, 1), row(FLOOR, 1), row(CUSTODIAN_NAME, 100), row(OURS, 9, case=LIMITED, rate=1)],
}


def test_the_plot_is_an_svg_with_a_bar_for_each() -> None:
    drawn = ET.fromstring(plot(RESULTS))  # noqa: S314 - we wrote it

    bars = {bar.get("fill"): bar.get("width") for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")}
    assert len(bars) == 3


def test_the_tables_give_the_median_and_its_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(RESULTS)

    [line] = [line for line in capsys.readouterr().out.splitlines() if OURS in line and "2.00 s" in line]
    assert {"2.00", "50.0"} <= set(line.split())


def test_to_do_everything_takes_a_read_and_a_write_each() -> None:
    assert tables.ideal(row(OURS, 1, todo=EVERYTHING, rate=100)) == 20
    assert tables.ideal(row(OURS, 1, todo=NOTHING, rate=100)) == 10


def test_the_registry_counts_in_a_process_of_its_own() -> None:
    with registry() as ecr:
        ecr.reset(3, granted=True)

        assert ecr.count().policies == 3
        assert ecr.count().calls == 0
        assert ecr.ceiling(0.1) > 0


def test_the_docs_show_the_numbers_that_were_measured_last(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(json.loads(RESULTS_FILE.read_text()), markdown=True)
    measured = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]

    told = (PROJECT / "docs/performance.md").read_text().splitlines()
    assert len(measured) > 30
    assert set(measured) <= set(told), "python -m bench.tables --markdown gives what belongs into the docs"
    assert PLOT.read_text() == plot(json.loads(RESULTS_FILE.read_text())), "python -m bench.plot draws it"
