"""The template, as CloudFormation receives it after the SAM transform."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samtranslator.yaml_helper import yaml_parse

from handler.policy.document import parse
from handler.policy.grants import grantees
from handler.policy.plan import grantees_of, plan
from handler.settings import Settings
from scripts import permissions_page
from tests.environment import REQUIRED, ROLE_CHECK_REPOSITORY
from tests.unit.cloudformation import Evaluator, deployed

PROJECT = Path(__file__).parent.parent.parent
HANDLER = PROJECT / "src/handler"
TEMPLATE = PROJECT / "template.yaml"

type Resource = dict[str, Any]


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    template: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return template


@pytest.fixture(scope="module")
def resources(processed_template: dict[str, Any]) -> dict[str, Resource]:
    found: dict[str, Resource] = processed_template["Resources"]
    return found


def rules_in(resources: dict[str, Resource]) -> set[str]:
    return {name for name, resource in resources.items() if resource["Type"] == "AWS::Events::Rule"}


def of_type(resources: dict[str, Resource], kind: str) -> list[Resource]:
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]


def test_the_docs_list_every_permission_with_its_reason() -> None:
    assert (PROJECT / "docs/permissions.md").read_text() == permissions_page.page(), "run `make docs`"


ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"


def test_parameters_are_grouped_and_labeled_for_the_console(source: dict[str, Any]) -> None:
    interface = source["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]

    assert sorted(grouped) == sorted(source["Parameters"])
    assert interface["ParameterLabels"].keys() == source["Parameters"].keys()


def test_the_author_is_valid_for_the_serverless_application_repository(source: dict[str, Any]) -> None:
    author = source["Metadata"]["AWS::ServerlessRepo::Application"]["Author"]

    assert re.fullmatch(r"[a-z0-9](([a-z0-9]|-(?!-))*[a-z0-9])?", author)


def test_the_schedule_sends_the_saved_payload(
    resources: dict[str, Resource], saved_event: Callable[[str], dict[str, object]]
) -> None:
    (schedule,) = of_type(resources, "AWS::Scheduler::Schedule")

    assert json.loads(schedule["Target"]["Input"]) == saved_event("scheduled")


@pytest.mark.parametrize(
    ("partition", "region", "expected"),
    [
        ("aws", "us-east-1", "Allow"),
        ("aws", "mx-central-1", "Allow"),
        ("aws", "ap-southeast-6", "Allow"),
        ("aws-cn", "cn-north-1", None),
        ("aws-us-gov", "us-gov-west-1", None),
    ],
)
def test_recursive_loop_detection_is_off_where_lambda_has_it_so_that_a_long_sweep_can_continue(
    processed_template: dict[str, Any], partition: str, region: str, expected: str | None
) -> None:
    resources = Evaluator(processed_template, region, partition).resources()

    assert resources["Function"].get("RecursiveLoop") == expected


def test_the_processed_template_fits_into_a_stack_set_in_compact_form(
    processed_template: dict[str, Any],
) -> None:
    assert len(json.dumps(processed_template, separators=(",", ":")).encode()) < 51_200


def test_the_longest_accepted_list_fits_into_the_environment_of_a_function(
    source: dict[str, Any], processed_template: dict[str, Any], resources: dict[str, Resource]
) -> None:
    """Lambda measures the environment as JSON: 4 KB at most."""
    (function,) = of_type(resources, "AWS::Lambda::Function")
    parameters = source["Parameters"]
    longest = {
        name: max(
            parameter.get("AllowedValues", [str(parameter.get("Default", ROLE))]), key=lambda v: len(str(v))
        )
        for name, parameter in parameters.items()
    } | {
        "Role": "r" * 64,
        "RoleCheckRepository": ROLE_CHECK_REPOSITORY,
        "AWS::StackName": "s" * 128,
    }

    def environment(**values: str) -> str:
        variables = dict(function["Environment"]["Variables"])
        rule = Evaluator(processed_template).evaluate(variables.pop("CREATION_RULE"))
        named = {name: (longest | values)[reference["Ref"]] for name, reference in variables.items()}
        return json.dumps(named | {"CREATION_RULE": rule}, separators=(",", ":"))

    lists = [name for name, parameter in parameters.items() if "MaxLength" in parameter]
    assert {"WorkerRoleArns", "Repositories"} <= set(lists)
    for name in lists:
        assert len(environment(**{name: "x" * parameters[name]["MaxLength"]})) <= 4096, name
    documented = re.search(r"about (\d+) role ARNs", (PROJECT / "docs/configuration.md").read_text())
    assert documented
    assert len(",".join([ROLE] * int(documented[1]))) <= parameters["WorkerRoleArns"]["MaxLength"]


def test_the_name_of_the_alarm_topic_fits_whatever_the_stack_is_called(
    resources: dict[str, Resource],
) -> None:
    """A display name has at most 100 characters, and the name of a stack at most 128."""
    (topic,) = of_type(resources, "AWS::SNS::Topic")

    assert isinstance(topic["DisplayName"], str)
    assert len(topic["DisplayName"]) <= 100


def test_every_setting_is_a_parameter_with_the_default_of_the_function(
    source: dict[str, Any], resources: dict[str, Resource]
) -> None:
    (function,) = of_type(resources, "AWS::Lambda::Function")
    variables = dict(function["Environment"]["Variables"])
    role_name = variables.pop("ROLE_NAME")
    assert variables.pop("ROLE_CHECK_REPOSITORY") == {"Ref": "RoleCheckRepository"}
    assert variables.pop("CREATION_RULE") == resources["RepositoryCreated"]["Properties"]["Name"]
    assert variables.pop("POWERTOOLS_SERVICE_NAME") == {"Ref": "AWS::StackName"}
    assert variables.pop("POWERTOOLS_LOG_LEVEL") == {"Ref": "LogLevel"}

    defaults = {
        variable: source["Parameters"][reference["Ref"]].get("Default", "arn:aws:iam::222222222222:role/r")
        for variable, reference in variables.items()
    }

    assert role_name == {"Ref": "Role"}
    assert variables.keys() == {
        "WORKER_ROLE_ARNS",
        "DESCRIBE_ROLE_ARNS",
        "REPOSITORIES",
        "PULL_THROUGH_CACHE_REPOSITORIES",
        "MODE",
        "REMOVE_UNLISTED_ROLES",
    }
    assert Settings.from_environment(REQUIRED | defaults) == Settings.from_environment(
        REQUIRED | {"WORKER_ROLE_ARNS": "arn:aws:iam::222222222222:role/r"}
    )


@pytest.mark.parametrize("section", ["Parameters", "Outputs"])
def test_every_parameter_and_output_is_described(source: dict[str, Any], section: str) -> None:
    assert all(entry["Description"] for entry in source[section].values())


def test_the_template_hard_codes_no_region_or_partition(
    resources: dict[str, Resource],
) -> None:
    text = json.dumps(resources)

    assert "arn:aws:" not in text
    assert "us-east-1" not in text


@cache  # each new strategy costs more than an example
def accepted_by(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True).filter(lambda value: len(value) <= 3400)


class TestTheCreationTemplate:
    """The policy of repositories that ECR creates is what the function would write."""

    ROLES = ("arn:aws:iam::222222222222:role/a", "arn:aws:iam::222222222222:role/path/b")

    @pytest.mark.parametrize("workers", [ROLES[0], ",".join(ROLES), ", ".join(ROLES)])
    @pytest.mark.parametrize("describers", ["none", ROLES[1], " , ".join(ROLES)])
    @pytest.mark.parametrize(
        ("cache", "repository"),
        [("none", "docker-hub/app"), ("*", "docker-hub/app"), ("docker-hub/*", "docker-hub/app")],
    )
    def test_holds_exactly_the_grants(
        self, processed_template: dict[str, Any], workers: str, describers: str, cache: str, repository: str
    ) -> None:
        resources = deployed(
            processed_template,
            WorkerRoleArns=workers,
            DescribeRoleArns=describers,
            PullThroughCacheRepositories=cache,
            CreationTemplatePrefix="docker-hub",
        )

        settings = Settings.from_environment(
            REQUIRED
            | {
                "WORKER_ROLE_ARNS": workers,
                "DESCRIBE_ROLE_ARNS": describers,
                "PULL_THROUGH_CACHE_REPOSITORIES": cache,
            }
        )
        policy = parse(resources["CreationTemplate"]["RepositoryPolicy"])
        grants = settings.grants_for(repository)
        assert plan(policy, grants, remove_unlisted=True).policy is policy
        assert grantees_of(policy) == {*grantees(grants)}

    @given(st.data())
    def test_is_valid_and_holds_exactly_the_grants_for_every_value_that_the_patterns_accept(
        self, processed_template: dict[str, Any], source: dict[str, Any], data: st.DataObject
    ) -> None:
        parameters = {
            name: data.draw(accepted_by(source["Parameters"][name]["AllowedPattern"]), label=name)
            for name in ("WorkerRoleArns", "DescribeRoleArns")
        }
        environment = {"WORKER_ROLE_ARNS": "WorkerRoleArns", "DESCRIBE_ROLE_ARNS": "DescribeRoleArns"}
        evaluator = Evaluator(processed_template, PullThroughCacheRepositories="*", **parameters)

        template = evaluator.evaluate(processed_template["Resources"]["CreationTemplate"]["Properties"])
        settings = Settings.from_environment(
            REQUIRED
            | {"PULL_THROUGH_CACHE_REPOSITORIES": "*"}
            | {variable: parameters[name] for variable, name in environment.items()}
        )

        policy = parse(template["RepositoryPolicy"])
        grants = settings.grants_for("docker-hub/app")
        assert plan(policy, grants, remove_unlisted=True).policy is policy
        assert grantees_of(policy) == {*grantees(grants)}

    @pytest.mark.parametrize(
        ("parameters", "applied_for"),
        [
            ({}, ["PULL_THROUGH_CACHE", "REPLICATION"]),
            ({"CreateOnPush": "true"}, ["PULL_THROUGH_CACHE", "REPLICATION", "CREATE_ON_PUSH"]),
        ],
    )
    def test_turns_on_create_on_push_only_on_request(
        self, processed_template: dict[str, Any], parameters: dict[str, str], applied_for: list[str]
    ) -> None:
        """A template that applies to CREATE_ON_PUSH makes ECR create a repository for each unknown name."""
        resources = deployed(processed_template, CreationTemplatePrefix="ROOT", **parameters)

        template = resources["CreationTemplate"]
        assert template["Prefix"] == "ROOT"
        assert template["AppliedFor"] == applied_for

    @pytest.mark.parametrize("parameters", [{}, {"CreationTemplatePrefix": "ROOT", "Mode": "plan"}])
    def test_does_not_exist_without_a_prefix_and_in_plan_mode(
        self, processed_template: dict[str, Any], parameters: dict[str, str]
    ) -> None:
        assert "CreationTemplate" not in deployed(processed_template, **parameters)
