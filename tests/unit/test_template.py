"""The template, as CloudFormation receives it after the SAM transform."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from samtranslator.yaml_helper import yaml_parse

from handler.policy.document import parse
from handler.policy.grants import grantees
from handler.policy.plan import grantees_of, plan
from handler.policy.role_arn import role_arn_error
from handler.settings import InvalidSetting, Settings
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
TOPIC = "arn:aws:sns:eu-west-1:111122223333:on-call"


@pytest.mark.parametrize(
    ("parameter", "valid", "invalid"),
    [
        ("WorkerRoleArns", ROLE, "*"),
        ("WorkerRoleArns", f"{ROLE} , arn:aws:iam::222222222222:role/path/name ", f"{ROLE};{ROLE}"),
        ("WorkerRoleArns", ROLE.replace("aws", "aws-cn"), f"{ROLE},{ROLE.replace('aws', 'aws-cn')}"),
        ("WorkerRoleArns", ROLE, f"{ROLE},\n{ROLE}"),
        ("WorkerRoleArns", ROLE, f"{ROLE}\t,{ROLE}"),
        ("WorkerRoleArns", ROLE, f"{ROLE}\n"),
        ("WorkerRoleArns", "arn:aws:iam::222222222222:role/[path]/name", ROLE.replace("role/", 'role/"/')),
        ("DescribeRoleArns", f"{ROLE},{ROLE}", ROLE.replace("role/", "role/back\\slash/")),
        ("DescribeRoleArns", "none", ROLE.replace("role/", "role/{{resolve:ssm:x}}/")),
        ("DescribeRoleArns", ROLE, f"{ROLE},{ROLE.replace('aws', 'aws-us-gov')}"),
        ("Repositories", "*", "*\n"),
        ("PullThroughCacheRepositories", "docker-hub/* ", "docker-hub/*\t"),
        ("RolePath", "/", ""),
        ("RolePath", "/team/ecr/", "/team"),
        ("RolePath", "/a.b_c-d/", "//"),
        ("WorkerRoleArns", ROLE, f"{ROLE},"),  # what `sam` passes of two ARNs that a space separates
        ("Repositories", "*, !scratch/*", "*,"),
        ("WorkerRoleArns", f"{ROLE},{ROLE}", "arn:aws:sts::222222222222:assumed-role/name/i-1"),
        ("WorkerRoleArns", ROLE, "arn:aws:iam::222222222222:instance-profile/name"),
        ("WorkerRoleArns", ROLE, "arn:aws:iam::222222222222:role/*"),
        ("WorkerRoleArns", ROLE, "arn:aws:iam::222222222222:root"),
        ("AlarmEmail", "rota@example.com", "rota"),
        ("AlarmEmail", "none", ""),
        *(
            ("AlarmTopicArn", valid, invalid)
            for valid, invalid in (
                ("none", ""),
                (TOPIC, "on-call"),
                (TOPIC.replace("aws:sns", "aws-cn:sns"), f"{TOPIC}.fifo"),
                (TOPIC.replace("aws:sns", "aws-us-gov:sns"), TOPIC.replace(":sns:", ":sqs:")),
                (f"{TOPIC}_2", f"{TOPIC}:11111111-2222-3333-4444-555555555555"),  # a subscription
                (f"arn:aws:sns:ap-southeast-6:111122223333:{'x' * 256}", f"{TOPIC},{TOPIC}"),
                (TOPIC, TOPIC.replace("111122223333", "1111")),
                (TOPIC, f"{TOPIC} "),
                (TOPIC, f"arn:aws:sns:eu-west-1:111122223333:{'x' * 257}"),
                (TOPIC, TOPIC.replace("eu-west-1", "")),
                (TOPIC, "NONE"),
            )
        ),
        *(
            ("RunbookUrl", valid, invalid)
            for valid, invalid in (
                ("docs/operations.md", ""),
                ("https://wiki.example.com/x?page=1&y=%20", "https://wiki.example.com/x#pulldenied"),
                ("https://github.com/o/r/blob/v0.2.0/docs/operations.md", "https://wiki.example.com/a b"),
                ("go/ecr-allow-pull", 'https://wiki.example.com/"'),
                ("x" * 200, "x" * 201),
                ("x", "https://wiki.example.com/${Function}"),
                ("x", "https://wiki.example.com/{{resolve:ssm:x}}"),
                ("x", "https://wiki.example.com\\x"),
                ("x", "https://wiki.example.com/\n"),
            )
        ),
        ("MaxConcurrency", "5", "0"),
        ("PermissionsBoundaryArn", "arn:aws:iam::111122223333:policy/boundary", "boundary"),
    ],
)
def test_an_invalid_parameter_is_rejected_at_deployment(
    source: dict[str, Any], parameter: str, valid: str, invalid: str
) -> None:
    pattern = source["Parameters"][parameter]["AllowedPattern"]

    assert re.fullmatch(pattern, valid)
    assert not re.fullmatch(pattern, invalid)


def test_parameters_are_grouped_and_labeled_for_the_console(source: dict[str, Any]) -> None:
    interface = source["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]

    assert sorted(grouped) == sorted(source["Parameters"])
    assert interface["ParameterLabels"].keys() == source["Parameters"].keys()


def test_the_dashboard_name_includes_the_region_because_dashboards_are_global(
    resources: dict[str, Resource],
) -> None:
    (dashboard,) = of_type(resources, "AWS::CloudWatch::Dashboard")

    assert dashboard["DashboardName"] == {"Fn::Sub": "${AWS::StackName}-${AWS::Region}"}


def test_the_saved_queries_are_those_of_the_runbook(resources: dict[str, Resource]) -> None:
    names = {
        query["Name"]["Fn::Sub"].removeprefix("${AWS::StackName}/")
        for query in of_type(resources, "AWS::Logs::QueryDefinition")
    }
    page = (PROJECT / "docs/operations.md").read_text()

    assert set(re.findall(r"^\| \*([a-z ]+)\* \|", page, re.MULTILINE)) == names


def test_the_author_is_valid_for_the_serverless_application_repository(source: dict[str, Any]) -> None:
    author = source["Metadata"]["AWS::ServerlessRepo::Application"]["Author"]

    assert re.fullmatch(r"[a-z0-9](([a-z0-9]|-(?!-))*[a-z0-9])?", author)


def test_the_version_is_the_same_everywhere(source: dict[str, Any]) -> None:
    version = source["Metadata"]["AWS::ServerlessRepo::Application"]["SemanticVersion"]

    assert source["Outputs"]["Version"]["Value"] == version
    assert tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"] == version
    assert f"## {version}" in (PROJECT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("schedule", ["none", "rate(1 day)", "cron(0 3 * * ? *)", "at(2026-11-23T03:00:00)"])
def test_a_schedule_is_an_expression_or_none(source: dict[str, Any], schedule: str) -> None:
    pattern = source["Parameters"]["SweepSchedule"]["AllowedPattern"]

    assert re.fullmatch(pattern, schedule)
    assert not re.fullmatch(pattern, f"every {schedule}")


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


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws", "eu-west-1", "console.aws.amazon.com"),
        ("aws-cn", "cn-north-1", "console.amazonaws.cn"),
        ("aws-us-gov", "us-gov-west-1", "console.amazonaws-us-gov.com"),
    ],
)
def test_the_dashboard_url_has_the_console_of_the_partition(
    processed_template: dict[str, Any], partition: str, region: str, host: str
) -> None:
    value = processed_template["Outputs"]["DashboardUrl"]["Value"]

    assert Evaluator(processed_template, region, partition).evaluate(value) == (
        f"https://{host}/cloudwatch/home?region={region}#dashboards/dashboard/<Dashboard>"
    )


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
            name: data.draw(
                st.from_regex(source["Parameters"][name]["AllowedPattern"], fullmatch=True).filter(
                    lambda value: len(value) <= 3400
                ),
                label=name,
            )
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

    @given(st.text(st.characters(codec="ascii"), max_size=20), st.sampled_from(["aws", "aws-cn", "azure"]))
    def test_accepts_the_roles_that_the_function_accepts(
        self, source: dict[str, Any], end: str, partition: str
    ) -> None:
        arn = f"arn:{partition}:iam::222222222222:role/{end}"
        assume("," not in arn and arn.strip(" ") == arn)  # these separate roles

        accepted = re.fullmatch(source["Parameters"]["WorkerRoleArns"]["AllowedPattern"], arn)

        assert (accepted is not None) == (role_arn_error(arn) is None)
        try:
            loaded = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": arn})
        except InvalidSetting:
            assert not accepted
        else:
            assert loaded.worker_role_arns == (arn,)

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
