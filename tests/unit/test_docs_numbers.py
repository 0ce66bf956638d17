"""Every number that a page repeats from the code or the template is the one there."""

import re
from types import ModuleType

import pytest
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from handler.ecr import registry
from handler.events import request
from handler.policy import document
from handler.reconcile import role_check, sweep
from handler.report import report, totals
from tests.unit.test_docs import PAGES, prose

TEMPLATE = yaml_parse((PROJECT / "template.yaml").read_text())
PARAMETERS = TEMPLATE["Parameters"]
RESOURCES = {name: resource.get("Properties", {}) for name, resource in TEMPLATE["Resources"].items()}
IN_WORDS = {3: "three", 6: "six"}


def constant(module: ModuleType, name: str) -> str:
    return f"{vars(module)[name]:,.0f}"


def datapoints(alarm: str) -> str:
    return IN_WORDS[RESOURCES[alarm]["DatapointsToAlarm"]]


CHARACTERS = constant(document, "MAX_CHARACTERS")
MAX_LENGTH = PARAMETERS["WorkerRoleArns"]["MaxLength"]
SECONDS = RESOURCES["DeadLetterQueue"]["MessageRetentionPeriod"]
MINUTES = RESOURCES["Function"]["Timeout"] // 60
# The page, what it says with {} for the number, and the number in the code or the template.
FACTS: list[tuple[str, str, object]] = [
    (
        "configuration",
        "Each list has at most {} characters",
        f"{PARAMETERS['WorkerRoleArns']['MaxLength']:,}",
    ),
    ("configuration", "`{}` | How long the log is kept", PARAMETERS["LogRetentionInDays"]["Default"]),
    ("do-you-need-this", "one document of {} characters", CHARACTERS),
    ("evidence", "A policy has at most {} characters", CHARACTERS),
    ("guarantees", "An answer holds for {} seconds", constant(role_check, "_ANSWER_HOLDS")),
    ("guarantees", "{} characters, roles are added in order while they fit", CHARACTERS),
    ("guarantees", "in the last {} s of an invocation", constant(sweep, "RESERVE")),
    ("guarantees", "contains up to {} names of failed repositories", constant(request, "MAX_FAILED_NAMES")),
    ("how-it-works", "reconciles {} repositories concurrently", constant(registry, "MAX_CONCURRENCY")),
    ("how-it-works", "keeps each answer for {} seconds", constant(role_check, "_ANSWER_HOLDS")),
    ("how-it-works", "Before the function's {} minutes end", MINUTES),
    ("how-it-works", "up to {} names of repositories that failed", constant(request, "MAX_FAILED_NAMES")),
    ("invoking", "`repositories` has at most {} characters", constant(request, "_MAX_PATTERNS")),
    (
        "operations",
        "It keeps a message for {} days",
        RESOURCES["DeadLetterQueue"]["MessageRetentionPeriod"] // 86_400,
    ),
    ("operations", "In six of {} minutes", RESOURCES["ContinuousDrift"]["EvaluationPeriods"]),
    ("operations", "In {} of 15 minutes, the function restored", datapoints("ContinuousDrift")),
    ("operations", "restored grants in {} different hours", datapoints("RecurringDrift")),
    ("performance", "The function has **{} MB**", RESOURCES["Function"]["MemorySize"]),
    ("report", "also limited to {} characters", constant(report, "_MAX_DETAILS_SIZE")),
    ("report", "If more than {} repositories were processed", constant(totals, "MAX_DETAILS")),
    ("revoke-access", "and runs for up to {} minutes", MINUTES),
    ("revoke-access", "Wait {} minutes, until invocations", MINUTES),
    ("revoke-access", "{} repositories for each principal", constant(report, "_MAX_UNLISTED_REPOSITORIES")),
    ("revoke-access", "and {} lines for each invocation", constant(report, "_MAX_UNLISTED_LINES")),
]
# In these phrases, a number is one of the code's.
KINDS = (
    r"(?:at most|up to|limited to|of) (\d[\d,]*) (?:characters|names|minutes|repositories concurrently)\b",
    r"\b(?:answer|message) (?:holds )?for (\d+) (?:seconds|days)\b",
    r"\*\*(\d+) MB\*\*",
)


def text_of(page: str) -> str:
    (path,) = (each for each in PAGES if each.stem == page)
    return " ".join(prose(path).split())


@pytest.mark.parametrize(("page", "phrase", "value"), FACTS, ids=lambda each: str(each)[:40])
def test_number_on_a_page_is_that_of_the_code(page: str, phrase: str, value: object) -> None:
    assert phrase.format(value) in text_of(page)


def test_every_number_of_these_kinds_is_compared_with_the_code() -> None:
    found = {
        (page.stem, number)
        for page in PAGES
        if page.stem != "CHANGELOG"  # it is about earlier versions
        for kind in KINDS
        for number in re.findall(kind, text_of(page.stem))
    }

    assert len(found) > 8
    assert found <= {(page, str(value)) for page, _, value in FACTS}
