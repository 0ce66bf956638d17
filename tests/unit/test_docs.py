"""Tests the documentation: links, code blocks, commands, and the facts that it repeats from the code."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jmespath
import pytest
from botocore import xform_name
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape
from botocore.session import get_session
from samtranslator.yaml_helper import yaml_parse

from cli.app import cli
from cli.diagnose.image import parse_image
from cli.permissions import PLAN, READS
from cli.variables import OPTIONS
from devstack.host import PROJECT

DOCS = sorted(PROJECT.glob("docs/*.md"))
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS, *PROJECT.glob(".github/*.md"), *PROJECT.glob("events/*.md")])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
GLOBAL_OPTIONS = {"--query", "--output", "--region", "--cli-binary-format", "--cli-read-timeout"}
CLI_ONLY_COMMANDS = {"ecr get-login-password": set[str](), "logs tail": {"--since", "--filter-pattern"}}


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
                if line.lstrip().startswith("$ "):
                    words = shlex.split(line.lstrip().removeprefix("$ ").removeprefix("while "))
                    if "$(aws" in words:  # a command whose output is an argument of the other one
                        start = words.index("$(aws")
                        *inner, end = words[start + 1 :]
                        assert end == ")"
                        yield Command(page, ["aws", *inner[: inner.index("||")]])
                        words = words[:start]
                    yield Command(page, words)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for the headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(page)))
    return {heading.replace(" ", "-") for heading in plain}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_has_an_existing_target(page: Path) -> None:
    for image_mark, text, target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
        assert text or not image_mark, f"{target} is an image without a text"


def test_readme_links_to_every_page_in_docs() -> None:
    readme = PROJECT / "README.md"
    linked = {
        (readme.parent / target.partition("#")[0]).resolve() for *_, target in LINK.findall(prose(readme))
    }

    assert {*DOCS} <= linked


def test_the_documentation_is_short() -> None:
    """In words, as `wc -w` counts them."""
    pages = [*(PROJECT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *DOCS]
    texts = [page.read_text() for page in pages]
    words = [len(text.split()) for text in texts]

    assert len(pages) <= 15
    assert sum(words) <= 14_500
    assert words[0] <= 800
    assert len(texts[0].splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_and_yaml_blocks_are_valid(page: Path) -> None:
    for language, text in FENCE.findall(page.read_text()):
        if language == "json":
            assert json.loads(text)
        if language == "yaml":
            assert yaml_parse(text)


def test_code_blocks_contain_only_tested_tools_and_known_languages() -> None:
    tools = {each.words[0] for page in PAGES for each in commands_of(page)}

    assert tools <= {"make", "sam", "aws", "export", "kubectl", "gh", "sha256sum", "./ecr-allow-pull"}
    assert {language for page in PAGES for language, _ in FENCE.findall(page.read_text())} <= {
        "", "console", "json", "yaml", "hcl", "python", "mermaid"
    }  # fmt: skip


def test_every_mentioned_make_target_exists() -> None:
    mentioned = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^\$ |=\w+ )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)
    }

    assert {"run", "test"} < mentioned <= make_targets()


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_page_says_first_what_its_reader_can_do_or_knows_after_reading_it(page: Path) -> None:
    first_paragraph = re.sub(r"<!--.*?-->", "", page.read_text()).strip().split("\n\n")[1]

    assert re.search(r"After reading this page, you (?:can|know)", first_paragraph)


@cache
def service_model(service: str) -> ServiceModel:
    return get_session().get_service_model(service)


@pytest.mark.parametrize("command", commands("aws"), ids=str)
def test_aws_command_has_the_options_of_the_api(command: Command) -> None:
    _, service, operation, *arguments = command.words
    options = {word for word in arguments if word.startswith("--")} - GLOBAL_OPTIONS
    if f"{service} {operation}" in CLI_ONLY_COMMANDS:
        assert options <= CLI_ONLY_COMMANDS[f"{service} {operation}"]
        return
    model = service_model(service)

    [name] = [name for name in model.operation_names if option_of(name) == operation]
    parameters = model.operation_model(name).input_shape
    assert parameters
    assert options <= {f"--{option_of(member)}" for member in parameters.members}
    assert options >= {f"--{option_of(member)}" for member in parameters.required_members}


def sample(shape: Shape, texts: Sequence[str], depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    """Return a response of a shape: lists have one item for each text, with the text as every string."""
    if isinstance(shape, StructureShape):
        return {name: sample(each, texts, depth + 1) for name, each in shape.members.items() if depth < 8}
    if isinstance(shape, ListShape):
        return [sample(shape.member, [text], depth + 1) for text in texts]
    if isinstance(shape, MapShape):
        return {texts[0]: sample(shape.value, texts, depth + 1)}
    return {"integer": 1, "long": 1, "float": 1.0, "double": 1.0, "boolean": True}.get(
        shape.type_name, texts[0]
    )


def is_complete(found: object) -> bool:
    """Return whether a value has something, and no null."""
    if isinstance(found, list):
        return bool(found) and all(map(is_complete, found))
    return found is not None


def queries() -> list[Command]:
    inline = [
        Command(page, shlex.split(text))
        for page in PAGES
        for text in re.findall(r"`(aws [^`]*--query [^`]*)`", prose(page))
    ]
    return [each for each in (*commands("aws"), *inline) if "--query" in each.words]


@pytest.mark.parametrize("command", queries(), ids=str)
def test_query_of_an_aws_command_finds_something_in_the_response_of_the_api(command: Command) -> None:
    _, service, operation, *arguments = command.words
    query = arguments[arguments.index("--query") + 1]
    model = service_model(service)
    [name] = [name for name in model.operation_names if option_of(name) == operation]
    output = model.operation_model(name).output_shape
    assert output

    selected, other = re.findall(r"'([^']*)'", query), ["text"]
    found = [jmespath.search(query, sample(output, texts)) for texts in (selected, other) if texts]

    assert any(map(is_complete, found)), found


FILE = re.compile(r"(?:file://)?([\w.-]+(?:/[\w.-]+)*\.(?:json|md|py|svg|toml|txt|ya?ml))")
# The text says that the reader writes the file.
SAVED = re.compile(r"\b(?:[Cc]opy|[Cc]reate|[Ss]ave|[Ww]rite)\b[^`.]{0,20}`([\w./-]+)`")
WRITES = {">", ">>", "-a", "--output-template-file"}


def is_placeholder(path: str) -> bool:
    return bool(re.search(r"[A-Z]{4}", path)) and not (PROJECT / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_command_reads_exists_or_was_written_by_an_earlier_command(page: Path) -> None:
    written = set(SAVED.findall(" ".join(prose(page).split())))
    for command in commands_of(page):
        for before, word in itertools.pairwise(command.words):
            if (match := FILE.fullmatch(word)) and not is_placeholder(match[1]):
                if before in WRITES:
                    written.add(match[1])
                assert match[1] in written or (PROJECT / match[1]).exists(), command


def test_every_file_that_the_text_names_exists() -> None:
    named = {
        path
        for page in PAGES
        if page.stem != "CHANGELOG"  # it is about earlier versions
        for code in re.findall(r"`([^`]+)`", prose(page))
        for word in code.split()
        if (match := FILE.fullmatch(word)) and "/" in (path := match[1]) and not is_placeholder(path)
    }

    assert {"devstack/fake_ecr.py", "src/handler/events/triggers.py"} <= named
    assert {
        path for path in named if not any((PROJECT / root / path).exists() for root in ("", "src/handler"))
    } == set()


def test_the_pattern_for_the_kubelet_matches_the_dual_stack_address() -> None:
    """The kubelet compares each part of a host name alone: `*` matches no dot."""
    host = "111122223333.dkr-ecr.us-east-1.on.aws"
    text = (PROJECT / "docs/troubleshooting.md").read_text()

    (pattern,) = re.findall(r"`matchImages` must match the address, for example `([^`]+)` for dual", text)

    parts = list(zip(host.split("."), pattern.split("."), strict=True))
    assert parse_image(f"{host}/team/app:v1").is_dual_stack
    assert all(fnmatchcase(*part) for part in parts)


def test_the_form_for_bugs_names_log_lines_that_the_function_writes() -> None:
    form = (PROJECT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text()
    code = "".join(path.read_text() for path in PROJECT.glob("src/**/*.py"))

    named = re.findall(r'"([^"]+)"', re.findall(r"log line (.+)", form)[0])

    assert len(named) == 3
    assert [line for line in named if f'"{line}"' not in code] == []


def test_every_page_and_section_that_the_code_names_exists() -> None:
    named = {
        link
        for path in (PROJECT / "template.yaml", *PROJECT.glob("src/**/*.py"), *PROJECT.glob("cli/**/*.py"))
        for link in re.findall(r"docs/([\w-]+\.md)(?:#([\w-]+))?", path.read_text())
    }

    assert named
    for name, anchor in named:
        page = PROJECT / "docs" / name
        assert page.exists(), name
        assert not anchor or anchor in anchors(page), anchor


def service(name: str) -> dict[str, object]:
    return trust({"Service": f"{name}.amazonaws.com"}, "sts:AssumeRole")


def trust(principal: dict[str, str], action: str) -> dict[str, object]:
    statement = {"Effect": "Allow", "Principal": principal, "Action": action}
    return {"Version": "2012-10-17", "Statement": [statement]}


CLUSTER = "oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
IRSA = trust({"Federated": f"arn:aws:iam::222222222222:{CLUSTER}"}, "sts:AssumeRoleWithWebIdentity")
GITHUB = "oidc-provider/token.actions.githubusercontent.com"
ROLES_OF_NODES = {
    "unionai-acme-flyteworker-node-group": service("ec2"),
    "eksctl-acme-nodegroup-ng-1-NodeInstanceRole-1A2B3C": service("ec2"),
    "KarpenterNodeRole-acme": service("ec2"),
    "acme-node-in-china": trust({"Service": "ec2.amazonaws.com.cn"}, "sts:AssumeRole"),
    "AmazonEKSFargatePodExecutionRole": service("eks-fargate-pods"),
    "ecsTaskExecutionRole": service("ecs-tasks"),
    "acme-batch-execution": service("ecs-tasks"),
}
ROLES_OF_SERVICE_ACCOUNTS = {
    "union-system-role": IRSA,
    "unionai-acme-operator-proxy": IRSA,
    "acme-development-project": IRSA,
    "acme-userflyterole": service("pods.eks"),
}
OTHER_ROLES = {
    "AWSServiceRoleForAmazonEKS": service("eks"),
    "ecr-allow-pull-Role-1A2B3C": service("lambda"),
    "github-deploys": trust(
        {"Federated": f"arn:aws:iam::222222222222:{GITHUB}"}, "sts:AssumeRoleWithWebIdentity"
    ),
    "admin": trust({"AWS": "arn:aws:iam::222222222222:root"}, "sts:AssumeRole"),
}


def test_the_queries_for_roles_find_those_of_nodes_and_of_service_accounts_whatever_their_names() -> None:
    response = {
        "Roles": [
            {
                "RoleName": name,
                "Arn": f"arn:aws:iam::222222222222:role/{name}",
                "AssumeRolePolicyDocument": policy,
            }
            for name, policy in (ROLES_OF_NODES | ROLES_OF_SERVICE_ACCOUNTS | OTHER_ROLES).items()
        ]
    }
    queries = [
        each.words[each.words.index("--query") + 1] for each in commands("aws") if "list-roles" in each.words
    ]

    found = [{name for name, _ in jmespath.search(query, response)} for query in queries]

    assert found == [ROLES_OF_NODES.keys(), ROLES_OF_SERVICE_ACCOUNTS.keys()]


@pytest.mark.parametrize("command", commands("./ecr-allow-pull"), ids=str)
def test_command_of_the_project_has_existing_options_and_all_arguments(command: Command) -> None:
    _, name, *arguments = command.words

    with cli.commands[name].make_context(name, arguments):
        pass


def test_the_command_line_page_lists_every_read_and_every_option_of_the_plan() -> None:
    page = (PROJECT / "docs/command-line.md").read_text()
    policies = [json.loads(text) for language, text in FENCE.findall(page) if language == "json"]
    registry, data_plane = ({*policy["Statement"][0]["Action"]} for policy in policies)
    reads = {f"{service}:{name}" for service, names in READS.items() for name in names}

    assert registry | data_plane == reads - {"sts:GetCallerIdentity"}
    assert data_plane == {each for each in reads if each.startswith("iam:")}
    assert {*PLAN} < registry
    assert dict(re.findall(r"^\| `(--[a-z-]+)` \| `([A-Z_]+)` \|", page, re.MULTILINE)) == {
        option: variable for variable, option in OPTIONS.items()
    }


def test_troubleshooting_starts_with_the_command_and_is_short() -> None:
    page = PROJECT / "docs/troubleshooting.md"

    assert next(commands_of(page)).words[:2] == ["./ecr-allow-pull", "diagnose"]
    assert len(page.read_text().split()) <= 900


def shorthand(argument: str) -> dict[str, str]:
    """Parse `Key=value,Key=value` as the AWS CLI does: a value with commas or brackets needs quotes."""
    items = re.findall(r'(\w+)=(?:"([^"]*)"|([^",\[\]]*))(?:,|$)', argument)
    assert ",".join(re.findall(r'\w+=(?:"[^"]*"|[^",\[\]]*)', argument)) == argument, f"quote: {argument}"
    return {key: quoted or plain for key, quoted, plain in items}


@pytest.mark.parametrize("command", commands("aws"), ids=str)
def test_each_template_parameter_of_an_aws_command_is_one_string(command: Command) -> None:
    parameters = [shorthand(word) for word in command.words if word.startswith("ParameterKey=")]

    assert all(parameter.keys() == {"ParameterKey", "ParameterValue"} for parameter in parameters)
    if "create-stack-set" in command.words:
        assert parameters


def test_a_stack_set_command_shows_how_to_pass_several_roles() -> None:
    values = [
        shorthand(word)["ParameterValue"]
        for command in commands("aws")
        for word in command.words
        if word.startswith("ParameterKey=WorkerRoleArns")
    ]

    assert "ROLE_ARN_1,ROLE_ARN_2" in values


def test_the_documented_command_saves_a_template_that_fits_into_a_stack_set(
    processed_template: dict[str, object],
) -> None:
    (command,) = (each for each in commands("aws") if "get-template" in each.words)
    words = command.words[command.words.index("|") + 1 :]
    assert (words[:2], words[3:]) == (["python3", "-c"], [">", "processed.json"])

    saved = subprocess.run(  # noqa: S603 - the command in the docs
        [sys.executable, "-c", words[2]],
        input=json.dumps(processed_template, indent=4),  # as the AWS CLI prints it
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert json.loads(saved) == processed_template
    assert len(saved.encode()) < 51_200 < len(json.dumps(processed_template, indent=4).encode())


def test_the_command_that_denies_a_pull_covers_all_regions_and_one_registry() -> None:
    (text,) = (
        each.words[-1]
        for each in commands("aws")
        if "DenyEcr" in each.words and "put-role-policy" in each.words
    )

    (statement,) = json.loads(text)["Statement"]

    assert statement == {
        "Effect": "Deny",
        "Action": "ecr:*",
        "Resource": "arn:aws:ecr:*:REGISTRY_ACCOUNT:*",
    }


def test_the_command_that_changes_a_parameter_keeps_all_others() -> None:
    (query,) = (each.words[-1] for each in commands("aws") if "UsePreviousValue" in each.words[-1])
    names = yaml_parse((PROJECT / "template.yaml").read_text())["Parameters"].keys()
    response = {"Stacks": [{"Parameters": [{"ParameterKey": name} for name in names]}]}

    kept = jmespath.search(query.replace("PARAMETER", "Mode"), response)

    assert kept == [f"ParameterKey={name},UsePreviousValue=true" for name in names if name != "Mode"]


def option_of(name: str) -> str:
    return xform_name(name).replace("_", "-")


def test_the_preview_in_the_readme_covers_all_repositories_and_writes_nothing(
    saved_event: Callable[[str], dict[str, object]],
) -> None:
    event = {"repositories": ["*"], "dry_run": True}

    assert f"--event '{json.dumps(event)}'" in (PROJECT / "README.md").read_text()
    assert saved_event("dry-run") == event


def test_every_parameter_is_listed_with_its_default_and_the_readme_lists_five() -> None:
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    defaults = {
        name: str(parameter.get("Default", "required")) for name, parameter in template["Parameters"].items()
    }
    all_parameters = re.findall(
        r"^\| `(\w+)` \| (?:`\w+`|\S) \| `?([^`|]+?)`? \|",
        (PROJECT / "docs/configuration.md").read_text(),
        re.MULTILINE,
    )
    in_readme = re.findall(
        r"^\| `([A-Z]\w+)` \| `?([^`|]+?)`? \|", (PROJECT / "README.md").read_text(), re.MULTILINE
    )

    assert dict(all_parameters) == defaults
    assert len(in_readme) == 5
    assert set(in_readme) <= defaults.items()


def test_images_load_no_external_resources() -> None:
    images = [*PROJECT.glob("docs/*.svg")]

    assert images
    for image in images:
        assert not re.search(r"(?:href|src|url)\W*https?:", image.read_text()), image.name
