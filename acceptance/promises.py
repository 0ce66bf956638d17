"""Runs the promises, which are the end-to-end tests, and reads their results and the recorded facts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from acceptance import interrupts
from devstack.host import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TESTS = "tests/e2e"
_FACT = "fact:"
_GRACE = 60  # seconds in which an interrupted pytest ends
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_OUTCOMES = {"failure": FAILED, "error": FAILED, "skipped": SKIPPED}


@dataclass(frozen=True)
class Promise:
    """One promise, and whether it was kept.

    Attributes:
        text: the promise in words.
        test: the test that proves it.
        outcome: `passed`, `failed` or `skipped`.
        seconds: how long the test took.
        reason: why it failed or was skipped.
    """

    text: str
    test: str
    outcome: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Fact:
    """One observation of what AWS does.

    Attributes:
        name: the name that the claims use.
        value: what was seen, as JSON.
        test: the test that saw it.
    """

    name: str
    value: Any
    test: str


@dataclass
class Results:
    """What the tests found."""

    promises: list[Promise] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)


def command(junit: Path) -> list[str]:
    """Return the command that runs the promises."""
    # Only the format xunit1 keeps the properties of a test.
    options = ["-n", "4", "--dist", "loadfile", "--junitxml", str(junit), "-o", "junit_family=xunit1"]
    return [sys.executable, "-m", "pytest", *options, _TESTS]


def run(
    arguments: Sequence[str], prefix: str, region: str, environment: Mapping[str, str], *, trail: bool
) -> int:
    """Run the promises, and return pytest's exit code.

    When this is interrupted, no test and no `sam` runs any more at the end.

    Args:
        arguments: the command.
        prefix: the prefix of the run, which selects AWS as the target of the tests.
        region: the region.
        environment: the user's environment, with the AWS settings.
        trail: whether CloudTrail's events arrive.
    """
    variables = {
        **environment,
        "ACCEPTANCE_PREFIX": prefix,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        **({"ACCEPTANCE_TRAIL": "1"} if trail else {}),
    }
    # A signal while the tests start waits until they can be stopped.
    pending: list[int] = []
    with interrupts.handled_by(lambda number, _: pending.append(number)):
        # In its own process group: the signal of a terminal reaches this process alone, which then decides.
        process = subprocess.Popen(arguments, cwd=PROJECT, env=variables, start_new_session=True)  # noqa: S603 - trusted
    with process:
        try:
            for number in pending:
                signal.raise_signal(number)
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read(junit: Path) -> Results:
    """Read a JUnit file; no results if pytest wrote none."""
    results = Results()
    if not junit.exists():
        return results
    for case in ET.parse(junit).iter("testcase"):  # noqa: S314 - pytest wrote it
        if not case.get("name"):
            continue  # the test that an interrupt ended
        promise = _promise(case)
        results.promises.append(promise)
        for each in case.iter("property"):
            name, value = each.get("name", ""), each.get("value", "")
            if name.startswith(_FACT):
                results.facts.append(Fact(name.removeprefix(_FACT), _value(value), promise.test))
    return results


def in_words(class_name: str, test_name: str) -> str:
    """Return a promise in words: `TestFailedEvent` and `test_is_retried` are `Failed event is retried`."""
    subject = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", class_name.removeprefix("Test"))
    name, bracket, parameters = test_name.removeprefix("test_").partition("[")
    words = f"{subject.lower()} {name.replace('_', ' ')}".strip()
    return words[:1].upper() + words[1:] + (f" [{parameters}" if bracket else "")


def _promise(case: ET.Element) -> Promise:
    module, name = case.get("classname", ""), case.get("name", "")
    parts = module.split(".")
    class_name = parts.pop() if parts[-1].startswith("Test") else ""
    file = f"{'/'.join(parts)}.py"
    outcome, reason = PASSED, ""
    for child in case:
        if found := _OUTCOMES.get(child.tag):
            outcome, reason = found, child.get("message", "") or (child.text or "")
            break
    test = "::".join(part for part in (file, class_name, name) if part)
    return Promise(in_words(class_name, name), test, outcome, round(float(case.get("time", 0)), 1), reason)


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
