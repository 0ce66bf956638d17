"""Every number that a page repeats from the code or the template is the one there."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from acceptance import preflight
from devstack.host import PROJECT
from handler.ecr import registry, retry
from handler.events import request
from handler.policy import denials, document
from handler.reconcile import creation_events, role_check, sweep
from handler.report import report, totals
from tests.unit.test_docs import PAGES, prose

TEMPLATE = yaml_parse((PROJECT / "template.yaml").read_text())
PARAMETERS = TEMPLATE["Parameters"]
RESOURCES: dict[str, dict[str, Any]] = {
    name: resource.get("Properties", {}) for name, resource in TEMPLATE["Resources"].items()
}
IN_WORDS = {3: "three", 5: "five", 6: "six", 8: "eight", 10: "ten", 60: "a minute"}


def constant(module: ModuleType, name: str) -> str:
    return f"{vars(module)[name]:,.0f}"


def in_words(number: float) -> str:
    return IN_WORDS[int(number)]


def alarm(name: str, evaluated: str) -> int:
    return int(RESOURCES[name][evaluated])


CHARACTERS = constant(document, "MAX_CHARACTERS")
MAX_LENGTH = f"{PARAMETERS['WorkerRoleArns']['MaxLength']:,}"
DAYS = RESOURCES["DeadLetterQueue"]["MessageRetentionPeriod"] // 86_400
MINUTES = RESOURCES["Function"]["Timeout"] // 60
SCHEDULE_WINDOW = RESOURCES["Schedule"]["FlexibleTimeWindow"]["MaximumWindowInMinutes"]
DETAILS = constant(totals, "MAX_DETAILS")
SIX, FIFTEEN = (alarm("ContinuousDrift", each) for each in ("DatapointsToAlarm", "EvaluationPeriods"))
RECURRING = in_words(alarm("RecurringDrift", "DatapointsToAlarm"))
RECURRING_DAYS = in_words(alarm("RecurringDrift", "EvaluationPeriods") / 24)
# The page, what it says with {} for the number, and the number in the code or the template.
FACTS: list[tuple[str, str, object]] = [
    ("command-line", "10,000 take about {} minutes at 20 calls a second", in_words(10_000 / 20 / 60)),
    ("CONTRIBUTING", "with more than {} repositories, unless", constant(preflight, "MAX_REPOSITORIES")),
    ("configuration", "Each list has at most {} characters", MAX_LENGTH),
    ("configuration", "| `{}` | A [number of days]", PARAMETERS["LogRetentionInDays"]["Default"]),
    ("deploying", "Check the result {} minutes after", MINUTES),
    ("deploying", "Wait {} minutes. Repeat the next command", MINUTES),
    ("do-you-need-this", "one document of {} characters", CHARACTERS),
    ("evidence", "A policy has at most {} characters", CHARACTERS),
    ("how-it-works", "never exceeds ECR's {} characters", CHARACTERS),
    ("how-it-works", "within {} minutes of the scheduled time", SCHEDULE_WINDOW),
    ("how-it-works", "Temporary errors** are retried {} times", in_words(retry.MAX_FAILURES - 1)),
    ("how-it-works", "One repository** has {}.", in_words(vars(sweep)["_MAX_SINGLE"])),
    ("how-it-works", "An answer holds for {} seconds", constant(role_check, "_ANSWER_HOLDS")),
    ("how-it-works", "reconciles {} repositories concurrently", constant(registry, "MAX_CONCURRENCY")),
    ("how-it-works", "in the last {} seconds of the function's", constant(sweep, "RESERVE")),
    ("how-it-works", "seconds of the function's {} minutes", MINUTES),
    ("how-it-works", "up to {} names of failed repositories", constant(request, "MAX_FAILED_NAMES")),
    ("operations", "A running one writes for up to {} minutes", MINUTES),
    ("operations", "The queue keeps a message for {} days", DAYS),
    ("operations", "In {} of 15 minutes, the function attached", in_words(SIX)),
    ("operations", "In six of {} minutes, the function attached", FIFTEEN),
    ("operations", "In {} hours of three days", RECURRING),
    ("operations", "In three hours of {} days", RECURRING_DAYS),
    ("operations", "returns to OK within {} days", RECURRING_DAYS),
    ("operations", "up to {} repositories for each", constant(report, "_MAX_UNLISTED_REPOSITORIES")),
    ("performance", "The function has {} MB", RESOURCES["Function"]["MemorySize"]),
    ("README", "From {} minutes after the deployment", MINUTES),
    ("report", "Names and globs, at most {} characters", constant(request, "_MAX_PATTERNS")),
    ("report", "missing roles and up to {} repositories", in_words(vars(report)["_MAX_NAMED"])),
    ("report", "Up to {} repositories and 200,000 characters", DETAILS),
    ("report", "repositories and {} characters, failures first", constant(report, "_MAX_DETAILS_SIZE")),
    ("report", "Up to {} repositories whose [creation event]", constant(creation_events, "_MAX_NAMED")),
    ("report", "Up to {} patterns", DETAILS),
    ("report", "Up to {} denials", constant(denials, "_MAX_DENIALS")),
]
# A number before one of these words is one of the code's, or of these pages.
KIND = re.compile(
    r"(\d[\d,]*) (?:characters|days|denials|lines|MB|minutes|names|patterns|repositories|seconds)\b"
)
# Numbers that neither the code nor the template has.
MEASURED = {
    ("CONTRIBUTING", "15"),  # minutes of an acceptance test
    ("README", "850"),  # MB of tools
    ("deploying", "1,000"),  # repositories in a minute, for which `sam remote invoke` waits
    ("performance", "256"),  # MB of another size that was measured
    ("performance", "100,000"),  # repositories of a calculated sweep
}


def text_of(path: Path) -> str:
    return " ".join(prose(path).split())


@pytest.mark.parametrize(("page", "phrase", "value"), FACTS, ids=lambda each: str(each)[:40])
def test_number_on_a_page_is_that_of_the_code(page: str, phrase: str, value: object) -> None:
    path = min((each for each in PAGES if each.stem == page), key=lambda each: len(each.parts))

    assert phrase.format(value) in text_of(path)


def test_every_number_of_these_kinds_is_compared_with_the_code() -> None:
    found = {
        (page.stem, number)
        for page in PAGES
        if page.stem not in {"CHANGELOG", "evidence"}  # about earlier versions, and about AWS
        for number in KIND.findall(text_of(page))
    }

    in_the_code = {(page, str(value)) for page, _, value in FACTS}
    assert found - in_the_code == MEASURED
