"""The saved queries and the dashboard's query, run on the log of the function in all its scenarios."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from devstack.host import PROJECT
from tests.unit.cloudformation import STACK, Resources, deployed
from tests.unit.logs_insights import Row, discovered, run
from tests.unit.scenarios import APP, log

LOG_GROUP = "<LogGroup>"
RUNBOOK = (PROJECT / "docs/operations.md").read_text()

type Line = dict[str, Any]


class Query(NamedTuple):
    """What a query shows: its columns, of which none is always empty, and the lines that it keeps."""

    columns: set[str]
    keeps: Callable[[Line], bool]


COMMON = {"@timestamp", "@message"}
OF_LINES = {
    "repository history": Query(
        COMMON | {"message", "outcome", "reason", "correlation_id"},
        lambda line: line.get("repository") in {APP, "failing/app"},
    ),
    "changes": Query(
        COMMON | {"repository", "outcome", "message", "correlation_id"},
        lambda line: "repository" in line and ("added" in line or "removed" in line),
    ),
    "reports": Query(
        COMMON | {"checked", "outcomes.failed", "outcomes.incomplete", "continued", "correlation_id"},
        lambda line: line.get("message") == "report",
    ),
    "unlisted principals": Query(
        COMMON | {"repository"}, lambda line: line.get("message") == "unlisted principals"
    ),
    "warnings and errors": Query(
        COMMON | {"message", "repository", "reason", "correlation_id"},
        lambda line: line.get("level") in {"WARNING", "ERROR"},
    ),
}
OF_GROUPS = {
    "failed repositories": ("reconcile failed", {"repository", "times", "last", "why"}),
    "recurring drift": ("drift corrected", {"repository", "times", "last"}),
}
ON_THE_DASHBOARD = Query(
    {"@timestamp", "level", "message", "repository", "role", "outcome", "reason"},
    lambda line: (
        "repository" in line or "role" in line or line.get("message") in {"invalid input", "pull denied"}
    ),
)


@pytest.fixture(scope="module")
def resources(processed_template: dict[str, Any]) -> Resources:
    return deployed(processed_template)


@pytest.fixture(scope="module")
def queries(resources: Resources) -> dict[str, str]:
    saved = [each for each in resources.values() if "QueryString" in each]
    assert all(each["LogGroupNames"] == [LOG_GROUP] for each in saved)
    return {each["Name"].removeprefix(f"{STACK}/"): each["QueryString"] for each in saved}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return discovered(log(), LOG_GROUP) + discovered([*log(), '{"level": "ERROR"}'], "/aws/lambda/another")


@pytest.fixture(scope="module")
def of_the_function(rows: list[Row]) -> list[Row]:
    """The log of the function, in which the saved queries search."""
    return [row for row in rows if row["@log"].endswith(f":{LOG_GROUP}")]


def columns(found: list[Row]) -> set[str]:
    return {name for row in found for name in row}


def kept(query: Query) -> list[str]:
    return sorted(line for line in log() if query.keeps(json.loads(line)))


def test_the_scenarios_have_every_line_of_the_runbook() -> None:
    table = RUNBOOK.partition("## Log\n")[2].partition("### Saved queries")[0]
    lines = [line for line in map(json.loads, log()) if "service" in line and "_aws" not in line]

    assert {(line["message"], line["level"]) for line in lines} == {
        *re.findall(r"^\| `([a-z ]+)` \| ([A-Z]+) \|", table, re.MULTILINE)
    }


def test_the_saved_queries_and_their_columns_are_those_of_the_runbook(queries: dict[str, str]) -> None:
    table = RUNBOOK.partition("### Saved queries\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| \*([a-z ]+)\* \| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE))

    assert {name: {*re.findall(r"`([\w.]+)`", cell)} for name, cell in rows.items()} == {
        **{name: query.columns - COMMON for name, query in OF_LINES.items()},
        **{name: names for name, (_, names) in OF_GROUPS.items()},
    }
    assert queries.keys() == rows.keys()
    assert f"{dict(enumerate(('seven', 'eight'), 7))[len(rows)]} saved queries" in table


@pytest.mark.parametrize("name", [name for name in OF_LINES if name != "repository history"])
def test_a_query_shows_these_columns_of_these_lines_the_newest_first(
    queries: dict[str, str], of_the_function: list[Row], name: str
) -> None:
    found = run(queries[name], of_the_function)

    assert columns(found) == OF_LINES[name].columns
    assert sorted(row["@message"] for row in found) == kept(OF_LINES[name])
    assert found == sorted(found, key=lambda row: row["@timestamp"], reverse=True)


def test_the_history_shows_all_lines_of_the_repository_that_replaces_the_name(
    queries: dict[str, str], of_the_function: list[Row]
) -> None:
    query = OF_LINES["repository history"]
    assert queries["repository history"].count(f'"{APP}"') == 1

    found = [
        row
        for name in (APP, "failing/app")
        for row in run(queries["repository history"].replace(APP, name), of_the_function)
    ]

    assert columns(found) == query.columns
    assert sorted(row["@message"] for row in found) == kept(query)


@pytest.mark.parametrize("name", OF_GROUPS)
def test_a_query_counts_by_repository(queries: dict[str, str], of_the_function: list[Row], name: str) -> None:
    message, expected_columns = OF_GROUPS[name]
    lines = [row for row in of_the_function if row.get("message") == message]

    found = run(queries[name], of_the_function)

    assert all(row.keys() == expected_columns for row in found)
    assert {row["repository"]: row["times"] for row in found} == Counter(row["repository"] for row in lines)
    for row in found:
        *_, last = (line for line in lines if line["repository"] == row["repository"])
        assert (row["last"], row.get("why")) == (last["@timestamp"], last.get("reason"))
    order = "last" if "why" in expected_columns else "times"
    assert found == sorted(found, key=lambda row: row[order], reverse=True)


def test_the_dashboard_shows_changes_and_failures_of_the_function_the_newest_first(
    resources: Resources, rows: list[Row], of_the_function: list[Row]
) -> None:
    widgets = json.loads(resources["Dashboard"]["DashboardBody"])["widgets"]
    (query,) = (widget["properties"]["query"] for widget in widgets if widget["type"] == "log")
    unlimited = query.replace("limit 50", "limit 1000")
    kept_rows = [row for row in of_the_function if ON_THE_DASHBOARD.keeps(json.loads(row["@message"]))]

    found = run(unlimited, rows)

    assert columns(found) == ON_THE_DASHBOARD.columns
    assert [row["@timestamp"] for row in found] == [row["@timestamp"] for row in reversed(kept_rows)]
    assert run(query, rows) == found[:50]


class TestTheRunbook:
    """What docs/operations.md says about the lines that the queries show."""

    def test_distinguishes_the_reports_of_a_sweep_from_those_of_events(
        self, queries: dict[str, str], of_the_function: list[Row]
    ) -> None:
        reports = run(queries["reports"], of_the_function)
        starts = ["registry_policy" in row["@message"] for row in reports]
        sweep, of_an_event = reports[: starts.index(True) + 1], reports[-1]

        assert "registry_policy" not in of_an_event["@message"]
        assert ["continued" in row for row in sweep] == [False] + [True] * (len(sweep) - 1)
        assert len(sweep) > 1
        assert len({row["correlation_id"] for row in sweep}) == 1

    @pytest.mark.parametrize(
        ("message", "field"),
        [
            ("pull denied", "denied_by"),
            ("grant denied", "denied_by"),
            ("creation event missed", "repositories"),
            ("unlisted principals", "unlisted"),
            ("drift corrected", "added"),
        ],
    )
    def test_reads_a_field_in_the_message(
        self, queries: dict[str, str], of_the_function: list[Row], message: str, field: str
    ) -> None:
        found = run(queries["warnings and errors"], of_the_function)
        lines = [json.loads(row["@message"]) for row in found if row["message"] == message]

        assert lines
        assert all(field in line for line in lines)

    def test_filters_the_log_in_the_terminal_by_a_value_that_lines_have(self) -> None:
        lines = [json.loads(line) for line in log()]
        tests = re.findall(r"\$\.(\w+) = \"([^\"]+)\"", RUNBOOK)
        report = (PROJECT / "docs/report.md").read_text()
        tests += [("message", text) for text in re.findall(r"sam logs .*--filter (\w+)", report)]

        assert {field for field, _ in tests} == {"message", "level"}
        for field, value in tests:
            assert any(line.get(field) == value for line in lines), value
