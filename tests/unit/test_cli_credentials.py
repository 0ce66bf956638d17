"""The credentials of the command line: each request carries those of the chosen profile."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.fake_aws import FakeAws
from tests.unit.command_line import (
    DATA_PLANE,
    GRANT,
    IMAGE,
    PLAN,
    REGISTRY,
    ROLE,
    Run,
    assert_one_sentence,
    policy,
)

OTHER_ACCOUNT = "333333333333"
WITHOUT_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
DIAGNOSE = ("diagnose", IMAGE, "--role", ROLE)


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    with FakeAws(roles={ROLE: "AROAEXAMPLEEXISTING1"}).serving() as aws:
        aws.ecr.create_role(ROLE)
        aws.ecr.create_repository("team/app", policy=policy(GRANT))
        aws.images["team/app", "v1"] = "ACTIVE"
        yield aws


def callers(aws: FakeAws) -> set[str]:
    """Return the accounts whose keys the requests carried, and forget the requests."""
    accounts = {account for account, _ in aws.calls}
    aws.calls.clear()
    return accounts


class TestPlan:
    def test_uses_the_profile_rather_than_the_keys_of_the_environment(self, aws: FakeAws, run: Run) -> None:
        for profile, account in {"data-plane": DATA_PLANE, "registry": REGISTRY}.items():
            assert run(*PLAN, "--profile", profile, AWS_ACCESS_KEY_ID=OTHER_ACCOUNT).code == 0
            assert callers(aws) == {account}

    def test_uses_the_environment_without_a_profile(self, aws: FakeAws, run: Run) -> None:
        assert run(*PLAN, AWS_ACCESS_KEY_ID=OTHER_ACCOUNT).code == 0
        assert callers(aws) == {OTHER_ACCOUNT}
        assert run(*PLAN, **WITHOUT_KEYS, AWS_PROFILE="data-plane").code == 0
        assert callers(aws) == {DATA_PLANE}

    def test_reads_the_region_of_the_profile_unless_one_is_given(self, aws: FakeAws, run: Run) -> None:
        profile = {**WITHOUT_KEYS, "AWS_REGION": None, "AWS_PROFILE": "european"}

        assert run(*PLAN, "--json", **profile).json["region"] == "eu-west-1"
        assert run(*PLAN, "--json", "--region", "us-west-2", **profile).json["region"] == "us-west-2"
        assert callers(aws) == {OTHER_ACCOUNT}


class TestDiagnose:
    def test_asks_each_side_with_its_own_profile(self, aws: FakeAws, run: Run) -> None:
        profiles = ("--profile", "registry", "--role-profile", "data-plane")

        assert run(*DIAGNOSE, *profiles, AWS_ACCESS_KEY_ID=OTHER_ACCOUNT).code == 0

        of_role = {(DATA_PLANE, "GetRole"), (DATA_PLANE, "SimulatePrincipalPolicy")}
        of_both = {(REGISTRY, "GetCallerIdentity"), (DATA_PLANE, "GetCallerIdentity")}
        assert of_role | of_both < {*aws.calls}
        assert {account for account, _ in {*aws.calls} - of_role - of_both} == {REGISTRY}

    def test_uses_the_environment_without_a_profile(self, aws: FakeAws, run: Run) -> None:
        run(*DIAGNOSE, AWS_ACCESS_KEY_ID=REGISTRY)

        assert callers(aws) == {REGISTRY}


class TestSingleSignOn:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for provider in ("credentials.SSOProvider", "tokens.SSOTokenProvider"):
            monkeypatch.setattr(f"botocore.{provider}._SSO_TOKEN_CACHE_DIR", str(tmp_path))

    @pytest.mark.parametrize("command", [PLAN, DIAGNOSE], ids=["plan", "diagnose"])
    @pytest.mark.parametrize(
        ("profile", "key"), [("sso", "acme"), ("old-sso", "https://acme.awsapps.com/start")]
    )
    @pytest.mark.parametrize("cached", [True, False], ids=["expired", "none"])
    def test_that_has_expired_is_an_error_that_says_how_to_log_in(
        self, run: Run, tmp_path: Path, command: tuple[str, ...], profile: str, key: str, *, cached: bool
    ) -> None:
        if cached:
            token = {"accessToken": "x", "expiresAt": "2020-01-01T00:00:00Z"}
            name = hashlib.sha1(key.encode()).hexdigest()  # noqa: S324 - as the SDK names it
            (tmp_path / f"{name}.json").write_text(json.dumps(token))

        output = run(*command, "--profile", profile, **WITHOUT_KEYS)

        assert_one_sentence(output, "have expired: log in again, for example with `aws sso login`")
