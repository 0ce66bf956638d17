"""The docs: links lead somewhere, commands have the options that they are given, tables say what is so."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jmespath
import pytest
from botocore import xform_name
from botocore.session import get_session
from samtranslator.yaml_helper import yaml_parse
from scripts.flow_picture import PICTURE, picture

from devstack.host import PROJECT
from handler.registry import MAX_CONCURRENCY

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob(".github/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# What a page says on which commands cannot run in a test.
ACCOUNT_NEEDED = re.compile(r"need\s+(?:an\s+)?AWS\s+accounts?")
OF_ALL_COMMANDS = {"--query", "--output", "--region", "--cli-binary-format"}
OF_THE_CLI_ALONE = {"ecr get-login-password"}


class Command(NamedTuple):
    page: Path
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)[:60]}"


def commands(*tools: str) -> list[Command]:
    return [each for page in PAGES for each in commands_of(page) if each.words[0] in tools]


def commands_of(page: Path) -> Iterator[Command]:
    for language, text in FENCE.findall(page.read_text()):
        if language == "console":
            for line in text.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    yield Command(page, shlex.split(line.removeprefix("$ ")))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Give the anchors that GitHub makes of the headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(page)))
    return {heading.replace(" ", "-") for heading in plain}


def verbs() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for picture_mark, text, target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
        assert text or not picture_mark, f"{target} is a picture without a text"


def test_every_page_of_the_docs_can_be_reached_from_the_readme() -> None:
    readme = PROJECT / "README.md"
    linked = {
        (readme.parent / target.partition("#")[0]).resolve() for *_, target in LINK.findall(prose(readme))
    }

    assert {page for page in PAGES if page.parent == PROJECT / "docs"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_shown_as_json_or_yaml_can_be_read(page: Path) -> None:
    for language, text in FENCE.findall(page.read_text()):
        if language == "json":
            assert json.loads(text)
        if language == "yaml":
            assert yaml_parse(text)


def test_every_command_is_of_a_kind_that_is_checked() -> None:
    told = {each.words[0] for page in PAGES for each in commands_of(page)}

    assert told <= {"make", "sam", "aws", "export", "kubectl"}
    assert {language for page in PAGES for language, _ in FENCE.findall(page.read_text())} <= {
        "", "console", "json", "yaml", "hcl", "python"
    }  # fmt: skip


def test_every_verb_of_make_that_is_mentioned_exists() -> None:
    mentioned = {
        verb
        for page in PAGES
        for verb in re.findall(r"(?:`|^\$ |=\w+ )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)
    }

    assert {"run", "test"} < mentioned <= verbs()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_so_if_its_commands_need_what_the_tests_have_not(page: Path) -> None:
    if any(each.words[0] in {"aws", "sam", "kubectl"} for each in commands_of(page)):
        assert ACCOUNT_NEEDED.search(prose(page))


@pytest.mark.parametrize("command", commands("aws"), ids=str)
def test_a_command_of_the_aws_cli_has_the_parameters_that_the_api_has(command: Command) -> None:
    _, service, operation, *arguments = command.words
    options = {word for word in arguments if word.startswith("--")} - OF_ALL_COMMANDS
    if f"{service} {operation}" in OF_THE_CLI_ALONE:
        assert not options
        return
    model = get_session().get_service_model(service)

    [name] = [name for name in model.operation_names if option_of(name) == operation]
    takes = model.operation_model(name).input_shape
    assert takes
    assert options <= {f"--{option_of(member)}" for member in takes.members}
    assert options >= {f"--{option_of(member)}" for member in takes.required_members}
    if "--query" in arguments:
        jmespath.compile(arguments[arguments.index("--query") + 1])


def option_of(name: str) -> str:
    return xform_name(name).replace("_", "-")


def test_the_readme_lists_every_parameter_with_its_default() -> None:
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`\w+`|\S) \| `?([^`|]+?)`? \|", (PROJECT / "README.md").read_text(), re.MULTILINE
    )

    assert dict(rows) == {
        name: str(parameter.get("Default", "required")) for name, parameter in template["Parameters"].items()
    }


def test_the_docs_tell_how_many_are_checked_at_once() -> None:
    told = (PROJECT / "docs/how-it-works.md").read_text().replace("\n", " ")

    assert f"checks {MAX_CONCURRENCY} at once" in told


def test_the_picture_is_drawn_from_its_source() -> None:
    assert PICTURE.read_text() == picture(), "run `make docs`"


def test_pictures_fetch_nothing() -> None:
    for drawn in PROJECT.glob("docs/*.svg"):
        assert not re.search(r"(?:href|src|url)\W*https?:", drawn.read_text()), drawn.name
