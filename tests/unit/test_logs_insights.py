"""The interpreter of Logs Insights queries that the tests of the saved queries use."""

import json

import pytest

from tests.unit.logs_insights import QuerySyntaxError, discovered, run

LINES = [
    {"name": "a", "size": 3, "nested": {"list": [{"x": "first"}]}, "text": "took 12 ms of a"},
    {"name": "b", "size": 10, "empty": None, "text": "took 7 ms of b"},
    {"name": "a", "size": 5, "level": "ERROR"},
]
ROWS = discovered(map(json.dumps, LINES), "/aws/lambda/f")


def sizes(condition: str) -> list[int]:
    return [row["size"] for row in run(f"fields size | filter {condition}", ROWS)]


def test_fields_are_discovered_with_dots_and_numbers_and_without_null() -> None:
    assert {name: value for name, value in ROWS[0].items() if "." in name} == {"nested.list.0.x": "first"}
    assert "empty" not in ROWS[1]
    assert json.loads(ROWS[1]["@message"]) == LINES[1]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('name = "a"', [3, 5]),
        ("name != 'a'", [10]),
        ("size = 10", [10]),
        ("size >= 5 and size < 10", [5]),
        ("size > 9 or size <= 3", [3, 10]),
        ("not (size > 9 or size <= 3)", [5]),
        ('name in ["b", "c"]', [10]),
        ('name not in ["b", "c"]', [3, 5]),
        ("ispresent(level)", [5]),
        ("not ispresent(level) and name = 'a'", [3]),
        ("ispresent(nested.list.0.x)", [3]),
        ('text like "took 7"', [10]),
        ("text like /took (7|12) ms|x/", [3, 10]),
        ("text =~ /a$/", [3]),
        ("missing = 'a'", []),
        ('@message like /"level": "ERROR"/', [5]),
    ],
)
def test_filter_keeps_rows(condition: str, expected: list[int]) -> None:
    assert sizes(condition) == expected


def test_the_commands_follow_each_other() -> None:
    query = """SOURCE '/aws/lambda/f' | fields name as n, size
        # a comment with a | in it
        | filter ispresent(size) | sort n asc, size desc | limit 2 | display size, n"""

    assert run(query, ROWS) == [{"size": 5, "n": "a"}, {"size": 3, "n": "a"}]
    assert run("SOURCE '/aws/lambda/g' | limit 2", ROWS) == []
    assert run("limit 1", ROWS) == [{name: ROWS[0][name] for name in ("@timestamp", "@message")}]


@pytest.mark.parametrize("pattern", ['"took * ms of *" as ms, of', r"/took (?<ms>\d+) ms of (?<of>\w)/"])
def test_parse_adds_fields(pattern: str) -> None:
    found = run(f"parse text {pattern} | filter ispresent(ms) | display ms, of", ROWS)

    assert found == [{"ms": "12", "of": "a"}, {"ms": "7", "of": "b"}]


def test_stats_aggregates_by_fields_and_by_time() -> None:
    functions = (
        "count(*) as n, sum(size), min(size), max(size), avg(size), count_distinct(size), latest(text)"
    )

    (of_a, of_b) = run(f"stats {functions} by name | sort name", ROWS)

    assert [*of_a.values()] == ["a", 2, 8, 3, 5, 4, 2, "took 12 ms of a"]
    assert {"n": 1, "sum(size)": 10, "latest(text)": "took 7 ms of b"}.items() <= of_b.items()
    assert run("stats count(*) as n by bin(2s) as t", ROWS) == [{"t": 0, "n": 2}, {"t": 2000, "n": 1}]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "where size = 1",
        "filter upper(name) = 'A'",
        "stats median(size)",
        "fields size |",
        "fields size filter size = 1",
        "filter size ~ 3",
        "filter (size = 3",
        "filter size",
        "filter size = 3 4",
        "filter level != 'INFO'",  # AWS doesn't document which rows without the field it keeps
        "fields name, | limit 1",
    ],
)
def test_an_unknown_or_wrong_query_is_an_error(query: str) -> None:
    with pytest.raises(QuerySyntaxError):
        run(query, ROWS)
