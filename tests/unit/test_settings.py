"""The settings: accepted values, and the error messages for invalid values."""

import pytest

from handler.policy.grants import DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant
from handler.settings import InvalidSetting, Mode, Settings
from tests.environment import REQUIRED, ROLE_CHECK_REPOSITORY

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"


def settings(**variables: str) -> Settings:
    return Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ROLE} | variables)


def error_message(**variables: str) -> str:
    with pytest.raises(InvalidSetting) as caught:
        settings(**variables)
    return str(caught.value)


def test_the_required_variables_suffice() -> None:
    loaded = settings()

    assert loaded.worker_role_arns == (ROLE,)
    assert "any/repository" in loaded.scope
    assert loaded.mode is Mode.ENFORCE
    assert not loaded.remove_unlisted_roles
    assert loaded.role_name == "ecr-allow-pull-Role"
    assert loaded.role_check_repository == ROLE_CHECK_REPOSITORY


@pytest.mark.parametrize("variable", REQUIRED)
def test_a_missing_required_variable_is_rejected_with_the_fix(variable: str) -> None:
    environment = {name: value for name, value in REQUIRED.items() if name != variable}

    with pytest.raises(InvalidSetting) as caught:
        Settings.from_environment(environment)

    assert str(caught.value).startswith(f"{variable} is missing: ")
    assert "Set all variables that the template sets" in str(caught.value)


@pytest.mark.parametrize("value", ["", " ", "my stack", "7-stack", "s" * 129])
def test_a_service_name_that_is_no_stacks_name_is_rejected_because_metrics_would_lack_their_dimension(
    value: str,
) -> None:
    message = error_message(POWERTOOLS_SERVICE_NAME=value)

    assert message == f"POWERTOOLS_SERVICE_NAME is {value!r}: use the name of the stack"


@pytest.mark.parametrize("value", ["INFO", "debug", " Warning ", "ERROR", "CRITICAL", "WARN"])
def test_a_log_level_is_accepted_in_any_case(value: str) -> None:
    assert settings(POWERTOOLS_LOG_LEVEL=value)


@pytest.mark.parametrize("value", ["", "LOUD", "TRACE", "10"])
def test_an_unknown_log_level_is_rejected_with_the_valid_levels(value: str) -> None:
    message = error_message(POWERTOOLS_LOG_LEVEL=value)

    assert message.startswith(f"POWERTOOLS_LOG_LEVEL is {value!r}: use ")
    assert '"info"' in message


@pytest.mark.parametrize("value", ["", "arn:aws:iam::111122223333:role/r", "path/name", "*", "r" * 65])
def test_a_value_that_is_no_role_name_is_rejected(value: str) -> None:
    assert "use the name of the function's role" in error_message(ROLE_NAME=value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "team/app",
        "ecr-allow-pull-role-check",
        "ecr-allow-pull-role-check/",
        "ecr-allow-pull-role-check/*",
        "ecr-allow-pull-role-check/Stack",
        "team/ecr-allow-pull-role-check/stack",
        f"ecr-allow-pull-role-check/{'r' * 256}",
    ],
)
def test_a_value_that_is_no_repository_for_role_checks_is_rejected(value: str) -> None:
    """The function would write its checks into the policy of a user's repository."""
    message = error_message(ROLE_CHECK_REPOSITORY=value)

    assert message.startswith(f"ROLE_CHECK_REPOSITORY is {value!r}: ")
    assert "use the name of the stack's own repository" in message
    assert "ecr-allow-pull-role-check/" in message.partition(": ")[2]


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:iam::222222222222:role/plain",
        "arn:aws:iam::222222222222:role/with/a/path/name",
        "arn:aws-cn:iam::222222222222:role/name",
        "arn:aws-us-gov:iam::222222222222:role/name",
        "arn:aws-iso-b:iam::222222222222:role/name",
        "arn:aws:iam::222222222222:role/Odd_but+legal=name.@-1",
        f"arn:aws:iam::222222222222:role/{'r' * 64}",
    ],
)
def test_a_role_arn_is_accepted_in_any_partition_with_or_without_a_path(arn: str) -> None:
    assert settings(WORKER_ROLE_ARNS=arn).worker_role_arns == (arn,)


@pytest.mark.parametrize("variable", ["WORKER_ROLE_ARNS", "DESCRIBE_ROLE_ARNS"])
@pytest.mark.parametrize(("partition", "other"), [("aws", "aws-cn"), ("aws-us-gov", "aws")])
def test_a_role_of_another_partition_is_rejected(variable: str, partition: str, other: str) -> None:
    ours, theirs = (f"arn:{each}:iam::222222222222:role/r" for each in (partition, other))
    environment = REQUIRED | {"WORKER_ROLE_ARNS": ours}

    assert Settings.from_environment(environment, partition).roles() == {ours}
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_environment(environment | {variable: f"{ours},{theirs}"}, partition)

    assert str(caught.value).startswith(f"{variable} is ")
    assert f"{theirs!r} is a role of partition {other}" in str(caught.value)
    assert f"list roles of partition {partition}" in str(caught.value)


def test_several_roles_are_separated_by_commas_with_or_without_spaces() -> None:
    loaded = settings(WORKER_ROLE_ARNS=f"{ROLE}-a, {ROLE}-b ,{ROLE}-c,")

    assert loaded.worker_role_arns == (f"{ROLE}-a", f"{ROLE}-b", f"{ROLE}-c")


def test_a_duplicate_role_is_listed_once() -> None:
    assert settings(WORKER_ROLE_ARNS=f"{ROLE},{ROLE}").worker_role_arns == (ROLE,)


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_an_empty_role_list_is_rejected_with_an_example(value: str) -> None:
    message = error_message(WORKER_ROLE_ARNS=value)

    assert message.startswith(f"WORKER_ROLE_ARNS is {value!r}: ")
    assert "arn:aws:iam::222222222222:role/" in message


@pytest.mark.parametrize(
    ("principal", "hint"),
    [
        ("*", "wildcard"),
        ("arn:aws:iam::222222222222:role/*", "wildcard"),
        ("arn:aws:iam::222222222222:role/*/node-group", "wildcard"),
        ("arn:aws:iam::222222222222:role/a?/node-group", "wildcard"),
        (f"{ROLE};{ROLE}", "separate the worker roles by commas"),
        (f"{ROLE} {ROLE}", "separate the worker roles by commas"),
        ("arn:aws:iam::222222222222:role/${aws:username}/r", "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:role/unionai-?-node-group", "wildcard"),
        (
            "arn:aws:sts::222222222222:assumed-role/node-group/i-0123456789abcdef0",
            "use arn:aws:iam::222222222222:role/node-group ",
        ),
        (
            "arn:aws-cn:sts::222222222222:assumed-role/node-group",
            "use arn:aws-cn:iam::222222222222:role/node-group ",
        ),
        (
            "arn:aws:iam::222222222222:instance-profile/path/node-group",
            "probably arn:aws:iam::222222222222:role/path/node-group",
        ),
        ("arn:aws:iam::222222222222:user/person", "is an IAM user"),
        ("arn:aws:iam::222222222222:root", "is a whole account"),
        ("222222222222", "is a whole account"),
        ("unionai-acme-flyteworker-node-group", "role/unionai-acme-flyteworker-node-group with"),
        ("arn:aws:iam::22222222222:role/short-account", "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:role/", "is not the ARN of an IAM role"),
        (f"arn:aws:iam::222222222222:role/{'r' * 65}", "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:group/g", "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:role/two words", "is not the ARN of an IAM role"),
        ("AROAEXAMPLEEXAMPLEEXA:ci", "is not the ARN of an IAM role"),
        ('arn:aws:iam::222222222222:role/"quoted"/name', "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:role/back\\slash/name", "is not the ARN of an IAM role"),
        ("arn:aws:iam::222222222222:role/{{resolve:ssm:x}}/name", "is not the ARN of an IAM role"),
        (f"\n{ROLE}", "is not the ARN of an IAM role"),
        (f"{ROLE}\t", "is not the ARN of an IAM role"),
        (f"{ROLE}\n", "is not the ARN of an IAM role"),
    ],
)
def test_a_principal_that_is_not_a_role_is_rejected_with_a_hint(principal: str, hint: str) -> None:
    message = error_message(WORKER_ROLE_ARNS=f"{ROLE},{principal}")

    assert message.startswith("WORKER_ROLE_ARNS is ")
    assert repr(principal) in message
    assert hint in message


@pytest.mark.parametrize("value", ["x" * 4_000, f"{ROLE}," * 50 + "*"])
def test_the_message_for_a_long_value_is_short(value: str) -> None:
    assert len(error_message(WORKER_ROLE_ARNS=value)) < 1_000


@pytest.mark.parametrize("repositories", ["*", "ecr-allow-pull-role-check/*", ROLE_CHECK_REPOSITORY])
@pytest.mark.parametrize("name", [ROLE_CHECK_REPOSITORY, "ecr-allow-pull-role-check/of-another-stack"])
def test_a_repository_for_role_checks_is_in_no_scope(repositories: str, name: str) -> None:
    loaded = settings(REPOSITORIES=repositories, PULL_THROUGH_CACHE_REPOSITORIES=repositories)

    assert name not in loaded.scope
    assert name not in loaded.pull_through_cache


def test_a_scope_includes_and_excludes_by_globs() -> None:
    scope = settings(REPOSITORIES="ml/*, team/app, !ml/scratch-*").scope

    assert "ml/train" in scope
    assert "ml/deep/nested" in scope
    assert "team/app" in scope
    assert "team/apps" not in scope
    assert "ml/scratch-1" not in scope


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("", 'or "*" for all'),
        ("!scratch/*", "it includes nothing"),
        ("Team/*", "lower-case"),
        ("team//app", "is not a name"),
        ("a", "is not a name"),
        ("team app*", "no glob that could match one"),
        ("*,!", "is not a name"),
        ("*,!*", "excludes every repository"),
        ("/team/*", "no glob that could match one"),
        ("team//*", "no glob that could match one"),
        ("*/", "no glob that could match one"),
        ("team/[a", "no glob that could match one"),
        ("111122223333.dkr.ecr.us-east-1.amazonaws.com/team/app:v1", "use the repository name"),
        ("x" * 600 + "*", "512 are allowed"),
    ],
)
def test_a_scope_that_selects_nothing_is_rejected_with_a_hint(value: str, hint: str) -> None:
    message = error_message(REPOSITORIES=value)

    assert message.startswith(f"REPOSITORIES is {value!r}: "[:200])
    assert hint in message


@pytest.mark.parametrize(
    ("value", "mode"),
    [("plan", Mode.PLAN), ("enforce", Mode.ENFORCE), ("remove", Mode.REMOVE), (" Plan ", Mode.PLAN)],
)
def test_the_mode_is_one_of_three(value: str, mode: Mode) -> None:
    assert settings(MODE=value).mode is mode


@pytest.mark.parametrize(("value", "remove"), [("true", True), ("false", False), ("TRUE", True)])
def test_unlisted_roles_are_removed_only_on_request(value: str, *, remove: bool) -> None:
    assert settings(REMOVE_UNLISTED_ROLES=value).remove_unlisted_roles is remove


@pytest.mark.parametrize("variable", ["MODE", "REMOVE_UNLISTED_ROLES"])
@pytest.mark.parametrize("value", ["", "yes", "dry-run", "0"])
def test_an_unknown_choice_is_rejected_with_the_valid_choices(variable: str, value: str) -> None:
    message = error_message(**{variable: value})

    assert message.startswith(f"{variable} is {value!r}: use ")


class TestGrants:
    def test_are_those_of_the_worker_roles_alone_by_default(self) -> None:
        assert settings().grants_for("team/app") == (
            Grant(PULL, (ROLE,)),
            Grant(DESCRIBE_IMAGES, ()),
            Grant(PULL_THROUGH_CACHE, ()),
        )

    def test_include_the_describe_roles(self) -> None:
        proxy = "arn:aws:iam::222222222222:role/unionai-acme-operator-proxy"

        given = settings(DESCRIBE_ROLE_ARNS=f"{proxy}, {ROLE}")

        assert Grant(DESCRIBE_IMAGES, (proxy, ROLE)) in given.grants_for("team/app")

    def test_include_imports_where_a_pattern_of_the_pull_through_cache_matches(self) -> None:
        given = settings(PULL_THROUGH_CACHE_REPOSITORIES="docker-hub/*, !docker-hub/private/*")

        assert Grant(PULL_THROUGH_CACHE, (ROLE,)) in given.grants_for("docker-hub/library/alpine")
        assert Grant(PULL_THROUGH_CACHE, ()) in given.grants_for("docker-hub/private/app")
        assert Grant(PULL_THROUGH_CACHE, ()) in given.grants_for("team/app")

    def test_anywhere_include_all_that_apply_somewhere(self) -> None:
        assert Grant(PULL_THROUGH_CACHE, ()) in settings().all_grants()
        given = settings(PULL_THROUGH_CACHE_REPOSITORIES="docker-hub/*")
        assert Grant(PULL_THROUGH_CACHE, (ROLE,)) in given.all_grants()

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            ("*", "wildcard"),
            ("222222222222", "whole account"),
            ("arn:aws:sts::222222222222:assumed-role/proxy/session", "is a session of a role"),
            (f"none,{ROLE}", "is only a name"),
        ],
    )
    def test_reject_a_describe_role_that_is_no_role(self, value: str, hint: str) -> None:
        message = error_message(DESCRIBE_ROLE_ARNS=value)

        assert message.startswith(f"DESCRIBE_ROLE_ARNS is {value!r}: ")
        assert hint in message

    @pytest.mark.parametrize("value", ["", "Docker-Hub/*", "!docker-hub/*", "docker-hub//*"])
    def test_reject_a_cache_pattern_that_can_match_nothing(self, value: str) -> None:
        message = error_message(PULL_THROUGH_CACHE_REPOSITORIES=value)

        assert message.startswith(f"PULL_THROUGH_CACHE_REPOSITORIES is {value!r}: ")
