"""Compares the facts of a report with the claims that the code relies on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.console import console, print_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from acceptance.claims import Claim

NOTHING = "nothing"  # what a fact shows that lacks a field
_OPERATORS = {"matches", "max", "present"}


class InvalidReport(ValueError):
    """A file is not the JSON report of an acceptance run."""


class Finding(NamedTuple):
    """A claim, and what a report says of it."""

    claim: Claim
    expected: str
    found: str


@dataclass
class Comparison:
    """What a report says of the claims.

    Attributes:
        contradicted: the claims that are false, where the code relies on them.
        learned: the claims that are false, where the code works either way.
        confirmed: the claims that are true.
        not_measured: the claims that a run can show, and this one did not.
        unknown: the names of the facts that no claim is about.
    """

    contradicted: list[Finding] = field(default_factory=list)
    learned: list[Finding] = field(default_factory=list)
    confirmed: list[Claim] = field(default_factory=list)
    not_measured: list[Claim] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read(path: Path) -> list[tuple[str, Any]]:
    """Return the name and the value of each fact of a report.

    Raises:
        InvalidReport: the file cannot be read or is not a report.
    """
    try:
        content = json.loads(path.read_text())
        if content["project"] != "ecr-allow-pull":
            raise InvalidReport(f"{path} is the report of another project")
        return [(str(each["name"]), each["value"]) for each in content["facts"]]
    except OSError as error:
        raise InvalidReport(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidReport):
            raise
        raise InvalidReport(
            f"{path} is not the JSON report of an acceptance run, acceptance-report.json"
        ) from None


def compare(claims: Sequence[Claim], facts: Iterable[tuple[str, Any]]) -> Comparison:
    """Compare. A claim is confirmed if all facts that it is about agree with it."""
    facts = [*facts]
    result = Comparison()
    for claim in claims:
        if not claim.fact:
            continue
        about = [value for name, value in facts if fnmatchcase(name, claim.fact)]
        findings = [finding for value in about for finding in _findings(claim, value)]
        if findings:
            (result.learned if claim.survives == "both" else result.contradicted).extend(findings)
        elif about:
            result.confirmed.append(claim)
        else:
            result.not_measured.append(claim)
    known = [claim.fact for claim in claims if claim.fact]
    result.unknown = sorted({name for name, _ in facts if not any(fnmatchcase(name, each) for each in known)})
    return result


def matches(expected: Any, found: Any) -> bool:  # noqa: ANN401 - JSON
    """Return whether a value is as expected.

    `expected` is the value, a list of possible values, or a table with one operator: `matches` (a regular
    expression), `max` (a number) or `present` (whether there is a value).
    """
    match expected:
        case {"matches": pattern}:
            return isinstance(found, str) and re.search(pattern, found) is not None
        case {"max": limit}:
            return isinstance(found, int | float) and not isinstance(found, bool) and found <= limit
        case {"present": present}:
            return (found not in (NOTHING, None)) is present
        case list():
            return found in expected
    return bool(found == expected) and type(found) is type(expected)


def show(result: Comparison) -> None:
    """Print the comparison: first what must change."""
    out = console()
    for title, findings in (
        ("Contradicted: the code relies on these claims", result.contradicted),
        ("Learned: the code works either way", result.learned),
    ):
        if findings:
            print_line(out, title, "bold", indent=0)
        for each in findings:
            print_line(out, f"{each.claim.id}: {each.claim.claim}")
            print_line(out, f"expected {each.expected}, found {each.found}", indent=4)
            print_line(out, f"test to change: {each.claim.test}", indent=4)
    for title, names in (
        ("Confirmed", [f"{each.id}: {each.claim}" for each in result.confirmed]),
        ("Not measured by this run", [f"{each.id}: {each.claim}" for each in result.not_measured]),
        ("Facts that no claim is about", result.unknown),
    ):
        if names:
            print_line(out, title, "bold", indent=0)
        for name in names:
            print_line(out, name)


def _findings(claim: Claim, value: Any) -> list[Finding]:  # noqa: ANN401 - JSON
    """Return where a fact differs from what a claim expects: as a whole, or field by field."""
    expected = claim.expected
    if not isinstance(expected, dict) or expected.keys() <= _OPERATORS:
        return [] if matches(expected, value) else [Finding(claim, _shown(expected), _shown(value))]
    return [
        Finding(claim, f"{path} = {_shown(each)}", f"{path} = {_shown(_at(value, path))}")
        for path, each in expected.items()
        if not matches(each, _at(value, path))
    ]


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value at a path such as `detail.eventName`."""
    for name in path.split("."):
        fields: Mapping[str, Any] = value if isinstance(value, dict) else {}
        value = fields.get(name, NOTHING)
    return value


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    return json.dumps(value)
