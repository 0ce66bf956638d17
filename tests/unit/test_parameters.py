"""The values that the parameters of the template accept, against those that the function and AWS accept."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from botocore.session import get_session
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from handler.policy.role_arn import role_arn_error
from handler.settings import InvalidSetting, Settings
from tests.environment import REQUIRED

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
CHINESE, US_GOV = (ROLE.replace("aws", partition) for partition in ("aws-cn", "aws-us-gov"))
TOPIC = "arn:aws:sns:eu-west-1:111122223333:on-call"
BOUNDARY = "arn:aws:iam::111122223333:policy/boundary"
BOOLEAN = ("true", "false")
PARAMETERS: dict[str, dict[str, Any]] = yaml_parse((PROJECT / "template.yaml").read_text())["Parameters"]


@dataclass(frozen=True)
class Values:
    """Values of a parameter.

    Attributes:
        accepted: by the template. If a variable of the function holds the value, the function accepts it too.
        rejected: by both.
        only_template: what only the function rejects, with an error in every invocation.
        only_function: what only the template rejects.
        sized: returns a valid value of so many characters.
        limit: the most characters.
    """

    accepted: tuple[str, ...]
    rejected: tuple[str, ...]
    only_template: tuple[str, ...] = ()
    only_function: tuple[str, ...] = ()
    sized: Callable[[int], str] | None = None
    limit: int = 0


def padded(start: str, end: str = "") -> Callable[[int], str]:
    return lambda length: start + "0" * (length - len(start) - len(end)) + end


ROLES = Values(
    accepted=(
        ROLE,
        f"{ROLE},{ROLE}2",
        f"{ROLE} , arn:aws:iam::222222222222:role/path/name ",
        CHINESE,
        f"{US_GOV},{US_GOV}",
        "arn:aws:iam::222222222222:role/[path]/name",
        "arn:aws:iam::222222222222:role/a/b=c/na_me+=.@-",
    ),
    rejected=(
        "*",
        "name",
        f"{ROLE};{ROLE}",
        f"{ROLE} {ROLE}",
        f"{ROLE}{ROLE}",
        f"{ROLE},{CHINESE}",
        f"{ROLE},{US_GOV}",
        f"{ROLE},\n{ROLE}",
        f"{ROLE}\t,{ROLE}",
        ROLE.replace(":role/", ":user/"),
        ROLE.replace("aws", "azure"),
        ROLE.replace("222222222222", "2222"),
        f"arn:aws:iam::222222222222:role/{'x' * 65}",
        "arn:aws:iam::222222222222:role/*",
        "arn:aws:iam::222222222222:role/",
        "arn:aws:iam::222222222222:root",
        "arn:aws:iam::222222222222:instance-profile/name",
        "arn:aws:sts::222222222222:assumed-role/name/i-1",
    ),
    # `sam` passes the first of two values that a space separates, so that the list ends in a comma.
    only_function=(f"{ROLE},", f"{ROLE}, ", f" {ROLE}", f"{ROLE},,{ROLE}"),
    sized=padded(f"{ROLE},arn:aws:iam::222222222222:role/", "/name"),
    limit=3400,
)
GLOBS = Values(
    accepted=(
        "*",
        "*,!scratch/*",
        "*, !scratch/*",
        "docker-hub/* ",
        "team/app",
        "a?[0-9]/[!x]__y.z--1",
        "ab",
    ),
    rejected=(
        "",
        " ",
        ",",
        "Team/App",
        "team/app:latest",
        "111122223333.dkr.ecr.us-east-1.amazonaws.com/team/app:1",
        "*\n",
        "*,\nteam/*",
        "docker-hub/*\t",
        "team/*;other/*",
        "(a|b)",
        "team/${Name}",
    ),
    only_template=("a", "a//*", "/*", "*/", "!*", "!scratch/*", "[", "team app", "-team", "*,!*"),
    only_function=("*,", "*, "),
    sized=lambda length: ("*," * length)[: length - 1] + "a",
    limit=3400,
)
TABLE = {
    "WorkerRoleArns": Values(
        ROLES.accepted, (*ROLES.rejected, "", "none"), (), ROLES.only_function, ROLES.sized, ROLES.limit
    ),
    "DescribeRoleArns": Values(
        ("none", *ROLES.accepted),
        (*ROLES.rejected, "NONE", f"none,{ROLE}"),
        (),
        (*ROLES.only_function, ""),
        ROLES.sized,
        ROLES.limit,
    ),
    "Repositories": GLOBS,
    "PullThroughCacheRepositories": Values(
        ("none", *GLOBS.accepted),
        (*GLOBS.rejected, "NONE"),
        GLOBS.only_template,
        GLOBS.only_function,
        GLOBS.sized,
        GLOBS.limit,
    ),
    "CreationTemplatePrefix": Values(
        accepted=("none", "ROOT", "docker-hub", "docker-hub/", "team/a__b", "a", "a--b.c_d/e/"),
        rejected=("", "/", "NONE", "/team", "team//", "team/*", "Team", "team ", "a___b", "-a", "a-"),
        sized=padded("team/"),
        limit=256,
    ),
    "CreateOnPush": Values(BOOLEAN, ("True", "yes", "")),
    "Mode": Values(("enforce", "plan", "remove"), ("", "none", "dry-run"), (), ("Plan", " enforce")),
    "RemoveUnlistedRoles": Values(BOOLEAN, ("", "yes", "1"), (), ("True",)),
    "CheckOnPush": Values(BOOLEAN, ("True", "no", "")),
    "SweepOnDeploy": Values(BOOLEAN, ("True", "no", "")),
    "SweepSchedule": Values(
        accepted=(
            "none",
            "rate(1 day)",
            "rate(36 hours)",
            "cron(0 3 * * ? *)",
            "cron(15 10 ? * 6L 2022-2023)",
            "cron(0/5 8-17 ? * MON-FRI *)",
            "cron(0 10 ? * 6#3 *)",
            "cron(0 18 LW * ? 1,2)",
            "at(2026-11-23T03:00:00)",
        ),
        rejected=(
            "",
            "NONE",
            "daily",
            "1 day",
            "every rate(1 day)",
            "rate()",
            "rate(1 day",
            "rate(1 day))",
            "Rate(1 day)",
        ),
        sized=padded("cron(", ")"),
        limit=256,
    ),
    "AlarmEmail": Values(
        accepted=("none", "rota@example.com", "a.b+c_d-e@sub.example.co.uk", "o'neil@example.com"),
        rejected=(
            *("", "NONE", "rota", "@example.com", "rota@", "a@b@example.com", "rota@example..com"),
            *("a b@example.com", "rota@exam ple.com", "a@example.com,b@example.com", "<rota@example.com>"),
            *("rota@example.com ", "Rota <rota@example.com>", "mailto:rota@example.com"),
        ),
        sized=padded("rota@", ".com"),
        limit=254,
    ),
    "AlarmTopicArn": Values(
        accepted=(
            *("none", TOPIC, f"{TOPIC}_2", TOPIC.replace("aws:sns", "aws-cn:sns")),
            TOPIC.replace("aws:sns", "aws-us-gov:sns"),
            f"arn:aws:sns:ap-southeast-6:111122223333:{'x' * 256}",
        ),
        rejected=(
            *("", "NONE", "on-call", f"{TOPIC}.fifo", f"{TOPIC} ", f"{TOPIC},{TOPIC}"),
            f"{TOPIC}:11111111-2222-3333-4444-555555555555",  # a subscription
            f"arn:aws:sns:eu-west-1:111122223333:{'x' * 257}",
            *(
                TOPIC.replace(*change)
                for change in ((":sns:", ":sqs:"), ("111122223333", "1"), ("eu-west-1", ""))
            ),
        ),
        sized=padded("arn:aws:sns:eu-west-", ":111122223333:on-call"),
        limit=1024,
    ),
    "RunbookUrl": Values(
        accepted=(
            "docs/operations.md",
            "https://wiki.example.com/x?page=1&y=%20",
            "https://github.com/o/r/blob/v0.3.0/docs/operations.md",
            "go/ecr-allow-pull",
        ),
        rejected=("", "https://wiki.example.com/x#pulldenied", "https://wiki.example.com/a b", "#"),
        sized=padded("https://wiki.example.com/"),
        limit=200,
    ),
    "LogLevel": Values(
        ("DEBUG", "INFO", "WARN", "ERROR"), ("", "TRACE", "none"), (), ("CRITICAL", "warning")
    ),
    "LogRetentionInDays": Values(
        # PutRetentionPolicy in the CloudWatch Logs API reference; more than ten years are not offered.
        tuple(map(str, (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653))),
        ("0", "2", "31", "", "never"),
    ),
    "Architecture": Values(("arm64", "x86_64"), ("", "amd64", "x86")),
    "MaxConcurrency": Values(
        ("none", "1", "5", "10", "1000"),
        ("", "0", "-1", "01", "1.5", "1e3", "NONE", " 5"),
        sized=padded("1"),
        limit=4,
    ),
    "PermissionsBoundaryArn": Values(
        accepted=(
            *(
                "none",
                BOUNDARY,
                BOUNDARY.replace("boundary", "team/a+b=c,d.e@f-_g"),
                BOUNDARY.replace("aws", "aws-cn"),
            ),
            "arn:aws:iam::aws:policy/PowerUserAccess",
            "arn:aws-us-gov:iam::aws:policy/job-function/ViewOnlyAccess",
        ),
        rejected=(
            *("", "NONE", "boundary", f"{BOUNDARY} ", f"{BOUNDARY}/", "arn:aws:iam::111122223333:policy/"),
            *(
                BOUNDARY.replace(*change)
                for change in ((":policy/", ":role/"), ("111122223333", "1"), ("aws", "x"))
            ),
            f"arn:aws:iam::111122223333:policy/{'x' * 129}",
            "arn:aws:iam::111122223333:policy/*",
        ),
        sized=padded("arn:aws:iam::111122223333:policy/", "/boundary"),
        limit=2048,
    ),
    "RolePath": Values(
        accepted=("/", "/team/ecr/", "/a.b_c-d/", "/a+b=c@d/"),
        rejected=("", "/team", "team/", "//", "/team//ecr/", "/*/", "/team /"),
        sized=padded("/", "/"),
        limit=512,
    ),
}
FREE_TEXT = [name for name, parameter in PARAMETERS.items() if "AllowedValues" not in parameter]
WITH_SPACES = {
    *("WorkerRoleArns", "DescribeRoleArns", "Repositories", "PullThroughCacheRepositories", "SweepSchedule")
}
VARIABLES = {
    "WorkerRoleArns": "WORKER_ROLE_ARNS",
    "DescribeRoleArns": "DESCRIBE_ROLE_ARNS",
    "Repositories": "REPOSITORIES",
    "PullThroughCacheRepositories": "PULL_THROUGH_CACHE_REPOSITORIES",
    "Mode": "MODE",
    "RemoveUnlistedRoles": "REMOVE_UNLISTED_ROLES",
    "LogLevel": "POWERTOOLS_LOG_LEVEL",
}


def template_accepts(name: str, value: str) -> bool:
    """Apply the rules of CloudFormation: a pattern, a Java regex, must match the whole value."""
    parameter = PARAMETERS[name]
    if "AllowedValues" in parameter:
        return value in map(str, parameter["AllowedValues"])
    lengths = range(parameter.get("MinLength", 0), parameter.get("MaxLength", 4096) + 1)
    return len(value) in lengths and re.fullmatch(parameter["AllowedPattern"], value) is not None


def function_accepts(name: str, value: str) -> bool:
    partition = value.split(":")[1] if value.startswith("arn:") else "aws"
    worker = ROLE.replace("aws", partition)
    try:
        Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": worker, VARIABLES[name]: value}, partition)
    except InvalidSetting:
        return False
    return True


def test_the_table_has_every_parameter_with_its_default() -> None:
    assert TABLE.keys() == PARAMETERS.keys()
    assert all(values.accepted and values.rejected for values in TABLE.values())
    defaults = {name: str(each["Default"]) for name, each in PARAMETERS.items() if "Default" in each}
    assert defaults.keys() == TABLE.keys() - {"WorkerRoleArns"}
    assert not [name for name, default in defaults.items() if default not in TABLE[name].accepted]


@pytest.mark.parametrize("name", TABLE)
def test_valid_values_are_accepted_at_deployment(name: str) -> None:
    values = TABLE[name]

    assert [each for each in values.accepted + values.only_template if not template_accepts(name, each)] == []


@pytest.mark.parametrize("name", TABLE)
def test_invalid_values_are_rejected_at_deployment(name: str) -> None:
    values = TABLE[name]

    assert [each for each in values.rejected + values.only_function if template_accepts(name, each)] == []


@pytest.mark.parametrize("name", VARIABLES)
def test_the_function_accepts_what_the_template_accepts_and_rejects_the_rest(name: str) -> None:
    """The template doesn't check the form of globs, and the function ignores a comma at the end."""
    values = TABLE[name]

    assert [each for each in values.accepted + values.only_function if not function_accepts(name, each)] == []
    assert [each for each in values.rejected + values.only_template if function_accepts(name, each)] == []


def test_the_variables_of_the_table_are_those_of_the_function(processed_template: dict[str, Any]) -> None:
    function = processed_template["Resources"]["Function"]["Properties"]
    variables = function["Environment"]["Variables"].items()

    of_parameters = {one["Ref"]: name for name, one in variables if one.get("Ref") in PARAMETERS}

    assert of_parameters == VARIABLES


def test_a_value_outside_a_list_of_values_is_rejected() -> None:
    for name in PARAMETERS.keys() - FREE_TEXT:
        assert set(map(str, PARAMETERS[name]["AllowedValues"])) == set(TABLE[name].accepted), name


@pytest.mark.parametrize("name", FREE_TEXT)
class TestFreeText:
    def test_has_a_pattern_a_maximum_length_and_an_explanation(self, name: str) -> None:
        assert PARAMETERS[name].keys() >= {"AllowedPattern", "MaxLength", "ConstraintDescription"}

    def test_has_at_most_so_many_characters(self, name: str) -> None:
        values = TABLE[name]
        assert values.sized
        longest, too_long = values.sized(values.limit), values.sized(values.limit + 1)

        assert (len(longest), len(too_long)) == (values.limit, values.limit + 1)
        assert PARAMETERS[name]["MaxLength"] == values.limit
        assert template_accepts(name, longest)
        assert not template_accepts(name, too_long)

    def test_has_no_character_that_means_something_to_json_cloudformation_or_a_terminal(
        self, name: str
    ) -> None:
        """Values become part of JSON and of descriptions. Java's and Python's regexes agree on ASCII only."""
        texts = ['"', "\\", "{", "}", "${AWS::Region}", "{{resolve:ssm:x}}", *"\n\t\r\x00\x7f\xa0\u2028é٣"]
        texts += [] if name in WITH_SPACES else [" "]
        for value in TABLE[name].accepted:
            for text in texts:
                for place in {0, len(value) // 2, len(value)}:
                    changed = value[:place] + text + value[place:]
                    assert not template_accepts(name, changed), repr(changed)


GLOB = st.lists(
    st.sampled_from(["a", "b0", "x/y", "a.b", "a__b", "a--b", "*", "?", "[a-z]", "[!0/._-]"]), min_size=1
).map("".join)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["", "!", " ", " !"]), GLOB), min_size=1), st.sampled_from([",", ", "])
)
def test_globs_that_the_function_accepts_are_accepted_at_deployment(
    globs: list[tuple[str, str]], separator: str
) -> None:
    value = separator.join(("**", *map("".join, globs)))
    assume(function_accepts("Repositories", value))

    assert template_accepts("Repositories", value)
    assert template_accepts("PullThroughCacheRepositories", value)


@given(st.text(st.characters(codec="ascii"), max_size=20), st.sampled_from(["aws", "aws-cn", "azure"]))
def test_a_role_that_the_function_accepts_is_accepted_at_deployment_and_the_reverse(
    end: str, partition: str
) -> None:
    arn = f"arn:{partition}:iam::222222222222:role/{end}"
    assume("," not in arn and arn.strip(" ") == arn)  # these separate roles

    for name in ("WorkerRoleArns", "DescribeRoleArns"):
        assert template_accepts(name, arn) == function_accepts(name, arn) == (role_arn_error(arn) is None)


class TestOfTheServices:
    """The rules of AWS's API models: a value that AWS rejects fails in the middle of a deployment."""

    @staticmethod
    def rules(service: str, operation: str, member: str) -> dict[str, Any]:
        shape = get_session().get_service_model(service).operation_model(operation).input_shape
        assert shape
        rules: dict[str, Any] = shape.members[member].metadata
        return rules

    @pytest.mark.parametrize(
        ("name", "operation"),
        [
            ("CreationTemplatePrefix", ("ecr", "CreateRepositoryCreationTemplate", "prefix")),
            ("SweepSchedule", ("scheduler", "CreateSchedule", "ScheduleExpression")),
            ("PermissionsBoundaryArn", ("iam", "CreateRole", "PermissionsBoundary")),
            ("RolePath", ("iam", "CreateRole", "Path")),
        ],
    )
    def test_allow_every_accepted_value(self, name: str, operation: tuple[str, str, str]) -> None:
        rules = self.rules(*operation)
        accepted = set(TABLE[name].accepted) - {"none"}

        assert PARAMETERS[name]["MaxLength"] == rules["max"]
        assert all(rules["min"] <= len(value) for value in accepted)
        assert all(re.fullmatch(rules.get("pattern", ".*"), value) for value in accepted)

    def test_and_the_template_allow_the_same_prefixes(self) -> None:
        """ECR's pattern of a prefix has no other form than the template's, with `none` for no template."""
        pattern = self.rules("ecr", "CreateRepositoryCreationTemplate", "prefix")["pattern"]

        for text in (*map("".join, product("a/._-", repeat=5)), "ROOT", "ROOT/", "none", "A"):
            assert template_accepts("CreationTemplatePrefix", text) == bool(re.fullmatch(pattern, text)), text

    def test_have_the_same_architectures(self) -> None:
        shape = get_session().get_service_model("lambda").shape_for("Architecture")

        assert set(PARAMETERS["Architecture"]["AllowedValues"]) == set(shape.metadata["enum"])
