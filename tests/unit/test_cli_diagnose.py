"""Tests `diagnose` on the fake AWS: each check with its reason, the verdict and the exit code."""

import json
from typing import Any

import pytest

from devstack.fake_aws import FakeAws
from tests.unit.command_line import (
    DATA_PLANE,
    DENY,
    GRANT,
    HOST,
    IMAGE,
    REGISTRY,
    REPOSITORY_ARN,
    ROLE,
    VPC,
    Output,
    Run,
    policy,
)

CACHED = f"{HOST}/docker-hub/library/alpine"
BOTH_SIDES = ("--profile", "registry", "--role-profile", "data-plane")
NAME = ROLE.rpartition("/")[2]
DEAD_ID = "AROAEXAMPLEDELETED01"
RULE = {"ecrRepositoryPrefix": "docker-hub", "upstreamRegistryUrl": "registry-1.docker.io"}
IMPORT, CREATE = "ecr:BatchImportUpstreamImage", "ecr:CreateRepository"
OPTIONAL = "ecr:BatchCheckLayerAvailability"
REQUIRED_GRANT = GRANT | {"Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]}


@pytest.fixture
def aws() -> FakeAws:
    """A repository with an image and the grant, and a role that may pull."""
    aws = FakeAws(roles={ROLE: "AROAEXAMPLEEXISTING1"})
    aws.ecr.create_role(ROLE)
    aws.ecr.create_repository("team/app", policy=policy(GRANT))
    aws.images["team/app", "v1"] = "ACTIVE"
    return aws


@pytest.fixture
def diagnose(run: Run) -> Run:
    """Diagnose a pull with credentials of both sides."""

    def diagnose(image: str = IMAGE, role: str = ROLE, *options: str, **environment: str | None) -> Output:
        return run("diagnose", image, "--role", role, *(options or BOTH_SIDES), **environment)

    return diagnose


def set_policy(aws: FakeAws, *statements: object, repository: str = "team/app") -> None:
    aws.ecr.policies[repository] = policy(*statements)


def answers(**changes: Any) -> Any:  # noqa: ANN401 - a simulation
    """Return a simulation that allows everything, but changes the answers for an action."""
    changed = {name.replace("_", ":", 1): answer for name, answer in changes.items()}
    return lambda action, _: {"EvalDecision": "allowed"} | changed.get(action, {})


def test_a_pull_that_both_sides_allow(diagnose: Run) -> None:
    output = diagnose()

    assert output.code == 0, output
    assert "✓ repository: team/app exists in account 111122223333, us-east-1" in output.words
    assert "✓ image: the tag v1 exists" in output.words
    assert '✓ repository policy: statement "AllowPull" in the repository policy allows' in output.words
    assert "✓ registry policy: the registry has no policy" in output.words
    assert f"✓ role: {ROLE} exists" in output.words
    assert "✓ authorization token: the role's policies allow ecr:GetAuthorizationToken" in output.words
    assert "✓ role policies: the role is allowed ecr:BatchGetImage and" in output.words
    assert output.words.endswith("✓ Allowed: both sides allow every action that the pull needs")


def test_json_has_the_verdict_and_each_check(aws: FakeAws, diagnose: Run) -> None:
    set_policy(aws, GRANT, DENY)

    output = diagnose(IMAGE, ROLE, *BOTH_SIDES, "--json")

    assert output.code == 2
    assert output.json["verdict"] == "denied"
    assert output.json["reason"].startswith('statement "Quarantine" in the repository policy denies')
    assert (output.json["image"], output.json["role"], output.json["account"]) == (IMAGE, ROLE, REGISTRY)
    checks = {check["check"]: check["result"] for check in output.json["checks"]}
    assert checks["repository policy"] == "failed"
    assert checks["role"] == "ok"
    assert not output.err


class TestImage:
    def test_that_is_missing(self, diagnose: Run) -> None:
        output = diagnose(f"{HOST}/team/app:v2")

        assert output.code == 2
        assert "✗ Denied: the tag v2 does not exist in team/app" in output.words

    def test_without_a_tag_is_latest(self, diagnose: Run) -> None:
        assert "the tag latest does not exist" in diagnose(f"{HOST}/team/app").words

    def test_by_digest(self, aws: FakeAws, diagnose: Run) -> None:
        digest = f"sha256:{'a' * 64}"
        assert diagnose(f"{HOST}/team/app@{digest}").code == 2
        aws.images["team/app", digest] = "ACTIVE"

        assert diagnose(f"{HOST}/team/app@{digest}").code == 0
        assert diagnose(f"{HOST}/team/app:v9@{digest}").code == 0

    def test_that_is_archived(self, aws: FakeAws, diagnose: Run) -> None:
        aws.images["team/app", "v1"] = "ARCHIVED"

        output = diagnose()

        assert output.code == 2
        assert "✗ Denied: the tag v1 is archived: a pull gets 404" in output.words

    def test_in_a_repository_that_does_not_exist(self, diagnose: Run) -> None:
        output = diagnose(f"{HOST}/team/ap:v1")

        assert output.code == 2
        assert "✗ Denied: the repository team/ap does not exist in account 111122223333, us-east-1" in (
            output.words
        )

    def test_in_another_region(self, aws: FakeAws, diagnose: Run) -> None:
        aws.elsewhere["eu-west-1"] = {"team/elsewhere"}

        output = diagnose(f"{HOST}/team/elsewhere:v1", ROLE, *BOTH_SIDES, "--region", "eu-west-1")

        assert output.code == 2
        assert "does not exist in account 111122223333, us-east-1, and exists in eu-west-1" in output.words

    def test_with_the_dual_stack_address_is_the_same(self, diagnose: Run) -> None:
        output = diagnose(f"{REGISTRY}.dkr-ecr.us-east-1.on.aws/team/app:v1")

        assert output.code == 0
        assert "the dual-stack address is the same registry" in output.words

    def test_without_a_registry_is_that_of_the_credentials(self, diagnose: Run) -> None:
        output = diagnose("team/app:v1")

        assert output.code == 0
        assert f"a node pulls it from Docker Hub; checked instead: {IMAGE}" in output.words


class TestRepositoryPolicy:
    def test_without_a_statement_for_the_role(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.delete_policy("team/app")

        output = diagnose()

        assert output.code == 2
        assert "no statement allows ecr:BatchGetImage and ecr:GetDownloadUrlForLayer for arn" in output.words
        assert "Run the function for this repository" in output.words

    @pytest.mark.parametrize(
        "principal", [f"arn:aws:iam::{DATA_PLANE}:root", DATA_PLANE, "*", {"AWS": "*"}], ids=str
    )
    def test_with_a_statement_for_more_than_the_role(
        self, aws: FakeAws, diagnose: Run, principal: object
    ) -> None:
        named = principal if principal == "*" or isinstance(principal, dict) else {"AWS": principal}
        set_policy(aws, GRANT | {"Principal": named})

        assert diagnose().code == 0

    def test_that_allows_only_the_manifest(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, GRANT | {"Action": "ecr:BatchGetImage"})

        output = diagnose()

        assert output.code == 2
        assert "✗ Denied: no statement allows ecr:GetDownloadUrlForLayer for" in output.words

    def test_without_the_optional_action_still_allows_the_pull(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, REQUIRED_GRANT)

        output = diagnose()

        assert output.code == 0
        assert f"the registry's side does not allow {OPTIONAL}: Docker and containerd pull" in output.words

    def test_that_denies_only_the_optional_action_still_allows_the_pull(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        set_policy(aws, GRANT, DENY | {"Action": OPTIONAL})

        assert diagnose().code == 0

    @pytest.mark.parametrize("effect", ["Allow", "Deny"])
    def test_with_a_condition_is_undecided_and_names_it(
        self, aws: FakeAws, diagnose: Run, effect: str
    ) -> None:
        conditional = GRANT | VPC | {"Effect": effect, "Sid": "FromVpc"}
        set_policy(aws, *([] if effect == "Allow" else [GRANT]), conditional)

        output = diagnose()

        assert output.code == 3
        assert '? Undecided: statement "FromVpc" in the repository policy' in output.words
        assert "only under a condition: StringNotEquals aws:SourceVpc" in output.words

    def test_with_a_condition_that_another_statement_makes_unimportant(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        set_policy(aws, GRANT, GRANT | VPC | {"Sid": "FromVpc"})

        assert diagnose().code == 0

    def test_with_a_conditional_deny_and_no_allow_is_denied(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, DENY | VPC)

        assert diagnose().code == 2

    def test_with_not_principal_and_not_action(self, aws: FakeAws, diagnose: Run) -> None:
        deny = {"Sid": "Others", "Effect": "Deny", "NotAction": "ecr:PutImage"}
        exempt = {"NotPrincipal": {"AWS": [ROLE, f"arn:aws:iam::{DATA_PLANE}:root"]}}
        set_policy(aws, GRANT, deny | exempt)
        assert diagnose().code == 0

        set_policy(aws, GRANT, deny | {"NotPrincipal": {"AWS": f"arn:aws:iam::{REGISTRY}:root"}})
        output = diagnose()

        assert output.code == 2
        assert 'statement "Others" in the repository policy denies ecr:BatchGetImage' in output.words

    def test_with_not_principal_denies_a_role_with_a_boundary(self, aws: FakeAws, diagnose: Run) -> None:
        exempt = {"NotPrincipal": {"AWS": [ROLE, f"arn:aws:iam::{DATA_PLANE}:root"]}}
        set_policy(aws, GRANT, {"Sid": "Others", "Effect": "Deny", "Action": "ecr:*"} | exempt)
        aws.bounded = {ROLE}

        assert diagnose().code == 2

    def test_that_names_only_a_session_of_the_role_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        session = f"arn:aws:sts::{DATA_PLANE}:assumed-role/{NAME}/i-0123"
        set_policy(aws, GRANT | {"Principal": {"AWS": session}})

        output = diagnose()

        assert output.code == 3
        assert f"only under a condition: only the session {session}" in output.words

    def test_that_names_a_deleted_role(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, GRANT | {"Principal": {"AWS": DEAD_ID}})

        output = diagnose()

        assert output.code == 2
        assert f"the policy names {DEAD_ID}, the id of a deleted role" in output.words

    def test_that_names_the_role_with_another_path(self, aws: FakeAws, diagnose: Run) -> None:
        other = f"arn:aws:iam::{DATA_PLANE}:role/eks/{NAME}"
        aws.ecr.create_role(other)
        aws.ecr.set_policy("team/app", policy(GRANT | {"Principal": {"AWS": other}}))

        output = diagnose()

        assert output.code == 2
        assert f"the policy names {other}, which is another principal" in output.words

    def test_that_cannot_be_read_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        aws.denied = {"GetRepositoryPolicy"}

        output = diagnose()

        assert output.code == 3
        assert "the credentials have no permission ecr:GetRepositoryPolicy" in output.words

    def test_that_is_no_policy_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.policies["team/app"] = policy(GRANT) | {"Remarks": "mine"}

        assert "? Undecided: the repository policy is unknown: the policy has unknown elements" in (
            diagnose().words
        )


class TestRegistryPolicy:
    PULL = REQUIRED_GRANT | {"Sid": "Everywhere", "Resource": f"{REPOSITORY_ARN}/team/*"}

    def test_that_allows_the_pull_is_enough(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.delete_policy("team/app")
        aws.ecr.registry_policy = policy(self.PULL)

        output = diagnose()

        assert output.code == 0
        assert 'statement "Everywhere" in the registry policy allows' in output.words

    def test_for_other_repositories_does_not_matter(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.delete_policy("team/app")
        aws.ecr.registry_policy = policy(self.PULL | {"Resource": f"{REPOSITORY_ARN}/ml/*"})

        assert diagnose().code == 2

    def test_of_scope_v1_does_not_decide_on_pulls(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.delete_policy("team/app")
        aws.ecr.registry_policy = policy(self.PULL)
        aws.scope = "V1"

        output = diagnose()

        assert output.code == 2
        assert "its scope is V1, so it decides on replication and caches only" in output.words

    def test_of_an_unknown_scope_is_undecided_if_it_matters(self, aws: FakeAws, diagnose: Run) -> None:
        aws.denied = {"GetAccountSetting"}
        aws.ecr.registry_policy = policy(self.PULL)
        assert diagnose().code == 0

        aws.ecr.delete_policy("team/app")
        output = diagnose()

        assert output.code == 3
        assert "no permission ecr:GetAccountSetting" in output.words

    def test_that_denies_the_pull(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.registry_policy = policy(DENY | {"Resource": "*"})

        output = diagnose()

        assert output.code == 2
        assert '✗ Denied: statement "Quarantine" in the registry policy denies' in output.words

    def test_that_denies_other_resources_does_not_matter(self, aws: FakeAws, diagnose: Run) -> None:
        aws.ecr.registry_policy = policy(DENY | {"NotResource": f"{REPOSITORY_ARN}/team/*"})

        assert diagnose().code == 0

    def test_with_a_policy_variable_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        variable = f"{REPOSITORY_ARN}/${{aws:PrincipalTag/team}}/*"
        aws.ecr.registry_policy = policy(DENY | {"Resource": variable})

        output = diagnose()

        assert output.code == 3
        assert "a policy variable in Resource" in output.words

    def test_that_cannot_be_read_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        aws.denied = {"GetRegistryPolicy"}

        output = diagnose()

        assert output.code == 3
        assert (
            "? Undecided: the registry policy is unknown: the credentials have no permission" in output.words
        )


class TestPullThroughCache:
    @pytest.fixture(autouse=True)
    def cache(self, aws: FakeAws) -> None:
        aws.cache_rules = [RULE]
        aws.ecr.create_repository("docker-hub/library/alpine", policy=policy(GRANT))

    def test_with_a_cached_image_needs_no_import(self, aws: FakeAws, diagnose: Run) -> None:
        aws.images["docker-hub/library/alpine", "3"] = "ACTIVE"

        output = diagnose(f"{CACHED}:3")

        assert output.code == 0
        assert "this image is cached, so no import is needed" in output.words

    def test_with_a_new_tag_needs_the_import(self, aws: FakeAws, diagnose: Run) -> None:
        output = diagnose(f"{CACHED}:4")
        assert output.code == 2
        assert f"✗ Denied: no statement allows {IMPORT} for" in output.words
        assert "Add the repository to PullThroughCacheRepositories." in output.words

        imports = GRANT | {"Sid": "AllowPullThroughCache", "Action": IMPORT}
        set_policy(aws, GRANT, imports, repository="docker-hub/library/alpine")

        assert diagnose(f"{CACHED}:4").code == 0

    def test_with_a_new_tag_needs_the_import_on_the_roles_side_too(self, aws: FakeAws, diagnose: Run) -> None:
        imports = GRANT | {"Sid": "AllowPullThroughCache", "Action": IMPORT}
        set_policy(aws, GRANT, imports, repository="docker-hub/library/alpine")
        aws.simulate = answers(ecr_BatchImportUpstreamImage={"EvalDecision": "implicitDeny"})

        output = diagnose(f"{CACHED}:4")

        assert output.code == 2
        assert f"✗ Denied: {IMPORT} is denied: no policy of the role allows it" in output.words

    def test_with_a_new_repository_needs_a_registry_policy_also_of_scope_v1(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        image = f"{HOST}/docker-hub/library/debian:12"
        resource = {"Resource": f"{REPOSITORY_ARN}/docker-hub/*"}
        output = diagnose(image)
        assert output.code == 2
        assert "the first pull creates it" in output.words
        assert CREATE in output.words

        first_pull = {"Sid": "AllowFirstPull", "Action": [IMPORT, CREATE]}
        aws.ecr.registry_policy = policy(GRANT | resource | first_pull)
        aws.scope = "V1"
        assert "Give the new repository a policy with a creation template" in diagnose(image).words

        template = {"prefix": "docker-hub", "appliedFor": ["PULL_THROUGH_CACHE"]}
        aws.templates = [template | {"repositoryPolicy": '{"Version": "2012-10-17", "Statement": []}'}]
        assert diagnose(image).code == 2
        aws.templates = [template | {"repositoryPolicy": json.dumps(policy(GRANT))}]

        assert diagnose(image).code == 0

    @pytest.mark.parametrize(
        ("template", "code"),
        [
            ({"prefix": "ROOT", "appliedFor": ["REPLICATION", "PULL_THROUGH_CACHE"]}, 0),
            ({"prefix": "ROOT", "appliedFor": ["REPLICATION", "CREATE_ON_PUSH"]}, 2),
            ({"prefix": "docker", "appliedFor": ["PULL_THROUGH_CACHE"]}, 2),
        ],
        ids=["for all prefixes", "for other creations", "for another prefix"],
    )
    def test_with_a_new_repository_gets_the_policy_of_a_template_for_caches_and_its_prefix(
        self, aws: FakeAws, diagnose: Run, template: dict[str, object], code: int
    ) -> None:
        first_pull = {"Sid": "AllowFirstPull", "Action": [IMPORT, CREATE], "Resource": "*"}
        aws.ecr.registry_policy = policy(GRANT | first_pull)
        aws.templates = [template | {"repositoryPolicy": json.dumps(policy(GRANT))}]

        assert diagnose(f"{HOST}/docker-hub/library/debian:12").code == code

    def test_with_a_new_repository_prefers_the_template_with_a_prefix(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        first_pull = {"Sid": "AllowFirstPull", "Action": [IMPORT, CREATE], "Resource": "*"}
        aws.ecr.registry_policy = policy(GRANT | first_pull)
        aws.cache_rules = [RULE | {"ecrRepositoryPrefix": "hub"}]
        for_all, for_hub = (
            {"prefix": prefix, "appliedFor": ["PULL_THROUGH_CACHE"], "repositoryPolicy": json.dumps(each)}
            for prefix, each in (("ROOT", policy(DENY)), ("hub", policy(GRANT)))
        )
        aws.templates = [for_all, for_hub]

        assert diagnose(f"{HOST}/hub/library/debian:12").code == 0

    def test_of_a_longer_prefix_or_another_repository_does_not_apply(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        aws.ecr.create_repository("docker-hub2/x", policy=policy(GRANT))

        assert "the tag v1 does not exist" in diagnose(f"{HOST}/docker-hub2/x:v1").words

    def test_that_cannot_be_read_leaves_a_missing_image_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        aws.denied = {"DescribePullThroughCacheRules"}
        assert diagnose().code == 0

        output = diagnose(f"{CACHED}:4")

        assert output.code == 3
        assert "unless a pull-through cache imports it" in output.words


class TestRoleSide:
    def test_without_credentials_is_undecided_and_shows_the_command(self, diagnose: Run) -> None:
        output = diagnose(IMAGE, ROLE, "--profile", "registry")

        assert output.code == 3
        assert "? Undecided: the role's own side is unknown: no credentials for account 2222" in output.words
        assert f"aws iam simulate-principal-policy --policy-source-arn {ROLE} --action-names" in output.words

    def test_without_credentials_does_not_hide_a_denial(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, DENY)

        assert diagnose(IMAGE, ROLE, "--profile", "registry").code == 2

    def test_of_a_role_that_does_not_exist(self, aws: FakeAws, diagnose: Run) -> None:
        aws.roles = {}

        output = diagnose()

        assert output.code == 2
        assert f"✗ Denied: the role {NAME} does not exist in {DATA_PLANE}" in output.words

    def test_of_a_role_with_another_path(self, aws: FakeAws, diagnose: Run) -> None:
        aws.roles = {f"arn:aws:iam::{DATA_PLANE}:role/eks/{NAME}": "AROAEXAMPLEEXISTING1"}

        output = diagnose()

        assert output.code == 2
        assert f"its ARN is arn:aws:iam::{DATA_PLANE}:role/eks/{NAME}" in output.words

    def test_without_the_token(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = answers(ecr_GetAuthorizationToken={"EvalDecision": "implicitDeny"})

        output = diagnose()

        assert output.code == 2
        assert (
            "✗ Denied: ecr:GetAuthorizationToken is denied: no policy of the role allows it" in output.words
        )

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"EvalDecision": "implicitDeny"}, "no policy of the role allows it"),
            (
                {
                    "EvalDecision": "explicitDeny",
                    "MatchedStatements": [{"SourcePolicyId": "NoPulls", "SourcePolicyType": "IAM Policy"}],
                },
                "a Deny in the policy NoPulls",
            ),
            (
                {
                    "EvalDecision": "implicitDeny",
                    "PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": False},
                },
                "the role's permissions boundary does not allow it",
            ),
            (
                {
                    "EvalDecision": "explicitDeny",
                    "OrganizationsDecisionDetail": {"AllowedByOrganizations": False},
                },
                "a policy of the organization does not allow it",
            ),
            (
                {"EvalDecision": "implicitDeny", "EvalDecisionDetails": {"IAM Policy": "explicitDeny"}},
                "a Deny in a policy of the role",
            ),
        ],
        ids=["implicit", "explicit", "boundary", "organization", "details"],
    )
    def test_that_denies_the_pull_says_by_what(
        self, aws: FakeAws, diagnose: Run, answer: dict[str, Any], reason: str
    ) -> None:
        aws.simulate = answers(ecr_BatchGetImage=answer)

        output = diagnose()

        assert output.code == 2
        assert f"✗ Denied: ecr:BatchGetImage is denied: {reason}" in output.words

    @pytest.mark.parametrize(
        "answer",
        [
            {"EvalDecisionDetails": {"IAM Policy": "allowed", "Resource Policy": "implicitDeny"}},
            {"MatchedStatements": [{"SourcePolicyId": "Pull"}]},
        ],
        ids=["details", "statement"],
    )
    def test_that_is_only_denied_for_want_of_the_repository_policy_is_allowed(
        self, aws: FakeAws, diagnose: Run, answer: dict[str, Any]
    ) -> None:
        aws.simulate = lambda action, _: (
            {"EvalDecision": "allowed"}
            if action == "ecr:GetAuthorizationToken"
            else {"EvalDecision": "implicitDeny"} | answer
        )

        assert diagnose().code == 0

    def test_that_allows_the_action_on_every_repository_is_allowed(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = lambda _, resource: {"EvalDecision": "allowed" if resource == "*" else "implicitDeny"}

        assert diagnose().code == 0

    def test_that_depends_on_a_condition_is_undecided(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = answers(
            ecr_BatchGetImage={"EvalDecision": "implicitDeny", "MissingContextValues": ["aws:SourceVpce"]}
        )

        output = diagnose()

        assert output.code == 3
        assert "ecr:BatchGetImage depends on a condition: aws:SourceVpce" in output.words

    def test_that_depends_on_a_condition_for_the_repository_is_undecided(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        specific = {"EvalResourceName": REPOSITORY_ARN, "EvalResourceDecision": "implicitDeny"}
        aws.simulate = answers(
            ecr_BatchGetImage={
                "EvalDecision": "implicitDeny",
                "ResourceSpecificResults": [specific | {"MissingContextValues": ["aws:ResourceTag/team"]}],
            }
        )

        output = diagnose()

        assert output.code == 3
        assert "aws:ResourceTag/team" in output.words

    def test_without_the_optional_action_still_allows_the_pull(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = answers(ecr_BatchCheckLayerAvailability={"EvalDecision": "implicitDeny"})

        output = diagnose()

        assert output.code == 0
        assert f"the role's side does not allow {OPTIONAL}" in output.words

    @pytest.mark.parametrize(
        ("denied", "code", "words"),
        [
            ("SimulatePrincipalPolicy", 3, "no permission iam:SimulatePrincipalPolicy"),
            ("GetRole", 0, "exists was not checked: the credentials have no permission iam:GetRole"),
        ],
    )
    def test_that_cannot_be_read(
        self, aws: FakeAws, diagnose: Run, denied: str, code: int, words: str
    ) -> None:
        aws.denied = {denied}

        output = diagnose()

        assert output.code == code
        assert words in output.words


class TestOneAccount:
    """The role and the registry are in one account: either side is enough, but a Deny in any is not."""

    LOCAL_ROLE = f"arn:aws:iam::{REGISTRY}:role/node"
    NOT_ALLOWED = staticmethod(
        lambda action, _: {"EvalDecision": "allowed" if action.endswith("Token") else "implicitDeny"}
    )

    @pytest.fixture(autouse=True)
    def local_role(self, aws: FakeAws) -> None:
        aws.roles[self.LOCAL_ROLE] = "AROAEXAMPLELOCALROLE"
        aws.ecr.create_role(self.LOCAL_ROLE)
        aws.ecr.delete_policy("team/app")

    def verdict(self, diagnose: Run) -> int:
        return diagnose(IMAGE, self.LOCAL_ROLE, "--profile", "registry").code

    def test_the_roles_policies_are_enough(self, diagnose: Run) -> None:
        assert self.verdict(diagnose) == 0

    def test_a_statement_for_the_role_is_enough(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = self.NOT_ALLOWED
        assert self.verdict(diagnose) == 2
        set_policy(aws, REQUIRED_GRANT | {"Principal": {"AWS": self.LOCAL_ROLE}})

        assert self.verdict(diagnose) == 0

    def test_a_statement_for_the_account_is_not_enough(self, aws: FakeAws, diagnose: Run) -> None:
        aws.simulate = self.NOT_ALLOWED
        set_policy(aws, REQUIRED_GRANT | {"Principal": {"AWS": f"arn:aws:iam::{REGISTRY}:root"}})

        assert self.verdict(diagnose) == 2

    def test_a_deny_decides(self, aws: FakeAws, diagnose: Run) -> None:
        set_policy(aws, DENY)
        assert self.verdict(diagnose) == 2
        set_policy(aws, DENY | VPC)

        assert self.verdict(diagnose) == 3

    def test_a_conditional_statement_decides_only_without_the_roles_policies(
        self, aws: FakeAws, diagnose: Run
    ) -> None:
        set_policy(aws, REQUIRED_GRANT | VPC)
        assert self.verdict(diagnose) == 0
        aws.simulate = self.NOT_ALLOWED
        set_policy(aws, REQUIRED_GRANT | VPC | {"Principal": {"AWS": self.LOCAL_ROLE}})

        assert self.verdict(diagnose) == 3
