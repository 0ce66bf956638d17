"""A small interpreter of CloudWatch Logs Insights queries, for tests. What it doesn't know is an error.

The commands, functions and the discovery of fields are those of the CloudWatch Logs user guide:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_AnalyzeLogData-discoverable-fields.html
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

type Row = dict[str, Any]
type Expression = Callable[[Row], Any]

_MAX_FIELDS = 200  # that CloudWatch discovers in a line
_MILLISECONDS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TOKEN = re.compile(
    r"""\s*(?:\#.*\n\s*)*("[^"]*"|'[^']*'|/(?:\\.|[^/\\\n])+/|\d+(?:\.\d+)?[smhd]?\b|[@A-Za-z_][\w@.]*|`[^`]+`"""
    r"""|!=|<=|>=|=~|[=<>(),*|\[\]])"""
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda left, right: float(left) < float(right),
    "<=": lambda left, right: float(left) <= float(right),
    ">": lambda left, right: float(left) > float(right),
    ">=": lambda left, right: float(left) >= float(right),
}
_AGGREGATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "count_distinct": lambda values: len(set(values)),
    "sum": sum,
    "min": min,
    "max": max,
    "avg": lambda values: sum(values) / len(values),
    "latest": lambda values: values[-1],
}


class QuerySyntaxError(ValueError):
    """The query is wrong, or the interpreter doesn't know a part of it."""


def discovered(lines: Iterable[str], log_group: str) -> list[Row]:
    """Return the rows of a log's lines, a second apart, with the fields that CloudWatch discovers."""
    rows = []
    for number, line in enumerate(lines):
        fields = [each for each in _leaves("", json.loads(line)) if each[1] is not None][:_MAX_FIELDS]
        system = {"@timestamp": number * 1000, "@message": line, "@log": f"111122223333:{log_group}"}
        rows.append(dict(fields) | system)
    return rows


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{path}.{key}".removeprefix("."), each)
    else:
        yield path, value


def run(query: str, rows: Iterable[Row]) -> list[Row]:
    """Run a query; return the columns that it shows, without those that a row doesn't have.

    Raises:
        QuerySyntaxError: the query is wrong, or has an unknown command or function.
    """
    return _Query(query, [dict(row) for row in rows]).run()


class _Query:
    """A query, read token by token, and the rows that are left."""

    def __init__(self, query: str, rows: list[Row]) -> None:
        self._tokens: list[str] = []
        self._rows, self._shown, position = rows, list[str](), 0
        while query[position:].strip():
            if not (match := _TOKEN.match(query, position)):
                raise QuerySyntaxError(f"not understood: {query[position:]!r}")
            self._tokens.append(match[1])
            position = match.end()

    def run(self) -> list[Row]:
        commands = {
            "source": self._source,
            "fields": self._fields,
            "display": self._display,
            "filter": self._filter,
            "parse": self._parse,
            "stats": self._stats,
            "sort": self._sort,
            "limit": self._limit,
        }
        commands[self._take(*commands).lower()]()
        while self._tokens:
            self._take("|")
            commands[self._take(*commands).lower()]()
        shown = self._shown or ["@timestamp", "@message"]
        return [{name: row[name] for name in shown if row.get(name) is not None} for row in self._rows]

    def _source(self) -> None:
        group = self._take()[1:-1]
        self._rows = [row for row in self._rows if row["@log"].endswith(f":{group}")]

    def _fields(self) -> None:
        for name, expression in self._list(self._named):
            self._rows = [row | {name: expression(row)} for row in self._rows]
            self._shown.append(name)

    def _display(self) -> None:
        self._shown = self._list(self._take)

    def _filter(self) -> None:
        holds = self._or()
        self._rows = [row for row in self._rows if holds(row)]

    def _parse(self) -> None:
        field, pattern = self._take(), self._take()[1:-1]
        names = self._list(self._take) if self._is("as") else []
        if names:  # a text in which each * is one of the names
            pattern = (
                re.escape(pattern).replace(r"\*", "{}").format(*(f"(?<{name}>.*?)" for name in names)) + "$"
            )
        parsed = re.compile(pattern.replace("(?<", "(?P<"))
        found = [(row, parsed.search(str(row.get(field, "")))) for row in self._rows]
        self._rows = [row | (match.groupdict() if match else {}) for row, match in found]

    def _stats(self) -> None:
        aggregations = self._list(self._aggregation)
        keys = self._list(self._named) if self._is("by") else []
        groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
        for row in sorted(self._rows, key=lambda row: row["@timestamp"]):
            groups[tuple(key(row) for _, key in keys)].append(row)
        self._shown = [name for name, _ in (*keys, *aggregations)]
        self._rows = [
            dict(zip(self._shown, (*values, *(each(rows) for _, each in aggregations)), strict=True))
            for values, rows in groups.items()
        ]

    def _sort(self) -> None:
        keys = self._list(lambda: (self._value(), not self._is("asc") and self._is("desc")))
        for key, descending in reversed(keys):
            with_key = [row for row in self._rows if key(row) is not None]
            others = [row for row in self._rows if key(row) is None]
            self._rows = sorted(with_key, key=key, reverse=descending) + others

    def _limit(self) -> None:
        self._rows = self._rows[: int(self._take())]

    def _or(self) -> Expression:
        terms = self._list(self._and, "or")
        return lambda row: any(term(row) for term in terms)

    def _and(self) -> Expression:
        terms = self._list(self._not, "and")
        return lambda row: all(term(row) for term in terms)

    def _not(self) -> Expression:
        if self._is("not"):
            inner = self._not()
            return lambda row: not inner(row)
        if self._is("("):
            inner = self._or()
            self._take(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Expression:
        is_predicate = self._tokens[:1] == ["ispresent"]
        field = self._value()
        if is_predicate:
            return field
        negated = self._is("not")
        symbol = self._take("=", "!=", "in", "like", "=~", *_COMPARISONS).lower()
        negated = negated or symbol == "!="
        test: Callable[[Any, Row], bool]
        if symbol == "in":
            self._take("[")
            others = self._list(self._value)
            self._take("]")
            test = lambda value, row: any(_equal(value, other(row)) for other in others)  # noqa: E731
        elif symbol in {"like", "=~"}:
            text = self._take()
            pattern = text[1:-1] if text.startswith("/") else re.escape(text[1:-1])
            test = lambda value, _: bool(re.search(pattern, str(value)))  # noqa: E731
        else:
            other, compare = self._value(), _COMPARISONS.get(symbol, _equal)
            test = lambda value, row: compare(value, other(row))  # noqa: E731

        def holds(row: Row) -> bool:
            if (value := field(row)) is None and negated:
                raise QuerySyntaxError("AWS doesn't document a negation without the field: add ispresent")
            return value is not None and test(value, row) != negated

        return holds

    def _value(self) -> Expression:
        token = self._take()
        if token[0] in "\"'":
            return lambda _: token[1:-1]
        if token[0].isdigit():
            return lambda _: float(token)
        if not self._is("("):
            name = token.strip("`")
            return lambda row: row.get(name)
        argument = self._take()
        self._take(")")
        match token:
            case "ispresent":
                return lambda row: row.get(argument) is not None
            case "bin":
                size = int(argument[:-1]) * _MILLISECONDS[argument[-1]]
                return lambda row: row["@timestamp"] // size * size
        raise QuerySyntaxError(f"unknown function {token!r}")

    def _aggregation(self) -> tuple[str, Callable[[list[Row]], object]]:
        function = self._take(*_AGGREGATIONS)
        self._take("(")
        name = self._take()
        self._take(")")

        def aggregate(rows: list[Row]) -> object:
            values = [row.get(name) if name != "*" else row for row in rows]
            present = [value for value in values if value is not None]
            return _AGGREGATIONS[function](present) if present else None

        return self._take() if self._is("as") else f"{function}({name})", aggregate

    def _named(self) -> tuple[str, Expression]:
        before = list(self._tokens)
        expression = self._value()
        written = "".join(before[: len(before) - len(self._tokens)])
        return self._take() if self._is("as") else written.strip("`"), expression

    def _list[T](self, item: Callable[[], T], separator: str = ",") -> list[T]:
        items = [item()]
        while self._is(separator):
            items.append(item())
        return items

    def _is(self, text: str) -> bool:
        """Read the next token if it is this text."""
        return bool(self._tokens and self._tokens[0].lower() == text and self._tokens.pop(0))

    def _take(self, *texts: str) -> str:
        """Read the next token, which must be one of the texts if there are any."""
        if not self._tokens or (texts and self._tokens[0].lower() not in texts):
            raise QuerySyntaxError(f"expected {' or '.join(texts) or 'more'}, found {self._tokens[:1]}")
        return self._tokens.pop(0)


def _equal(left: object, right: object) -> bool:
    return left == right or str(left) == str(right)
