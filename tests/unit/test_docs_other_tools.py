"""The code for Terraform, CloudFormation and CDK in the docs is parsed, and compared with the grant."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from handler.policy.document import Policy, Statement
from handler.policy.grants import PULL, Grant
from handler.policy.plan import plan
from tests.unit.test_docs import FENCE, commands_of, prose

PAGE = PROJECT / "docs/multiple-accounts.md"
GRANT = Grant(PULL, ("arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group",))
TOKEN = re.compile(r'"[^"]*"|[\w.-]+|[{}\[\]=(),]')

type Body = dict[str, Any]


def blocks(language: str) -> list[str]:
    return [text for each, text in FENCE.findall(PAGE.read_text()) if each == language]


def terraform(text: str) -> Body:
    """Parse what the docs use of Terraform's language; a block's labels are part of its name."""
    tokens = iter(TOKEN.findall(text))
    assert not TOKEN.sub("", text).strip()
    parsed = body(tokens, end=None)
    assert next(tokens, None) is None
    return parsed


def body(tokens: Iterator[str], end: str | None) -> Body:
    found: Body = {}
    while (word := next(tokens, None)) != end:
        assert word
        name = [word]
        while (word := next(tokens)) not in {"=", "{"}:
            name.append(word.strip('"'))
        key = " ".join(name)
        assert key not in found
        found[key] = body(tokens, "}") if word == "{" else value(next(tokens), tokens)
    return found


def value(word: str, tokens: Iterator[str]) -> Any:  # noqa: ANN401 - as JSON; references and calls are text
    if word == "{":
        return body(tokens, "}")
    if word == "[":
        return [value(each, tokens) for each in iter(tokens.__next__, "]") if each != ","]
    if word == "file":
        return f"file({''.join(iter(tokens.__next__, ')')).removeprefix('(')})"
    return word.strip('"')


def of_terraform() -> Policy:
    (parsed,) = (
        each for each in map(terraform, blocks("hcl")) if "data aws_iam_policy_document pull" in each
    )
    assert parsed["resource aws_ecr_repository_policy app"] == {
        "repository": "aws_ecr_repository.app.name",
        "policy": "data.aws_iam_policy_document.pull.json",
    }
    statement = parsed["data aws_iam_policy_document pull"]["statement"]
    assert statement.keys() == {"sid", "principals", "actions"}
    principals = statement["principals"]
    return policy(statement["sid"], {principals["type"]: principals["identifiers"]}, statement["actions"])


def of_cloudformation() -> Policy:
    (text,) = blocks("yaml")
    (repository,) = yaml_parse(text).values()
    assert repository["Type"] == "AWS::ECR::Repository"
    found: Policy = repository["Properties"]["RepositoryPolicyText"]
    return found


def of_cdk() -> Policy:
    statements: list[Body] = []
    (text,) = blocks("python")
    names = {
        "app": SimpleNamespace(add_to_resource_policy=statements.append),
        "iam": SimpleNamespace(PolicyStatement=dict, ArnPrincipal=str),
    }
    exec(text, names)  # noqa: S102 - the code in the docs
    (statement,) = statements
    assert statement.keys() == {"sid", "principals", "actions"}
    return policy(statement["sid"], {"AWS": statement["principals"]}, statement["actions"])


def policy(sid: str, principal: dict[str, list[str]], actions: list[str]) -> Policy:
    statement: Statement = {"Sid": sid, "Effect": "Allow", "Principal": principal, "Action": actions}
    return {"Version": "2012-10-17", "Statement": [statement]}


@pytest.mark.parametrize("found", [of_terraform, of_cloudformation, of_cdk])
def test_the_policy_in_the_code_of_another_tool_is_the_grant_so_nothing_is_written(found: Any) -> None:  # noqa: ANN401
    in_the_code = found()

    assert len(in_the_code["Statement"]) == 1
    assert plan(in_the_code, [GRANT]).policy is in_the_code


def test_terraform_deploys_the_packaged_template_with_existing_parameters() -> None:
    (stack,) = (
        each["resource aws_cloudformation_stack ecr_allow_pull"]
        for each in map(terraform, blocks("hcl"))
        if "resource aws_cloudformation_stack ecr_allow_pull" in each
    )
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    required = {name for name, each in template["Parameters"].items() if "Default" not in each}
    packaged = [
        each.words[each.words.index("--output-template-file") + 1]
        for each in commands_of(PAGE)
        if "--output-template-file" in each.words
    ]
    created = next(each.words for each in commands_of(PAGE) if "file://packaged.yaml" in each.words)
    first = created.index("--capabilities") + 1

    assert [stack["template_body"]] == [f'file("{name}")' for name in packaged]
    assert stack["capabilities"] == created[first : first + 2]
    assert required <= stack["parameters"].keys() <= template["Parameters"].keys()
    assert stack["parameters"]["WorkerRoleArns"] == GRANT.roles[0]


def test_terraform_ignores_changes_of_the_policy_or_forgets_the_policy_without_deleting_it() -> None:
    parsed = [*map(terraform, blocks("hcl"))]
    ignoring = [
        body["resource aws_ecr_repository_policy app"]["lifecycle"]
        for body in parsed
        if "lifecycle" in body.get("resource aws_ecr_repository_policy app", {})
    ]
    removed = [body["removed"] for body in parsed if "removed" in body]

    assert ignoring == [{"ignore_changes": ["policy"]}]
    assert removed == [{"from": "aws_ecr_repository_policy.app", "lifecycle": {"destroy": "false"}}]


def test_the_page_says_that_the_code_was_not_run() -> None:
    text = " ".join(prose(PAGE).split())

    assert "Terraform can deploy the packaged template unchanged (not run)" in text
    assert "The snippets were not run." in text
