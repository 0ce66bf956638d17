"""The fake ECR answers as ECR does: by botocore's model of the API, AWS's documentation, and like moto."""

import json
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session
from botocore.validate import ParamValidator
from moto import mock_aws

from devstack.fake_ecr import ACCOUNT, DELETE, LIST, READ, READ_REGISTRY, REGION, WRITE, FakeEcr
from tests.unit.policies import DENY, FOREIGN_POLICY, A, document, grant, push

MISSING = "arn:aws:iam::222222222222:role/missing"
INVALID = (
    "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided'"
)
NOT_FOUND = "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Principal not found'"


@pytest.fixture
def ecr() -> FakeEcr:
    ecr = FakeEcr()
    ecr.create_role(A)
    ecr.create_repository("team/app", policy=FOREIGN_POLICY)
    ecr.create_repository("team/new")
    return ecr


def call(ecr: FakeEcr, operation: str, **parameters: object) -> tuple[int, dict[str, Any]]:
    """Send a call as it is: the SDK would refuse many of these."""
    return send(ecr, operation, json.dumps(parameters).encode())


def send(ecr: FakeEcr, operation: str, body: bytes) -> tuple[int, dict[str, Any]]:
    response = ecr.handle_request(f"AmazonEC2ContainerRegistry_V20150921.{operation}", body)
    assert response
    return response[0], json.loads(response[1])


def error(ecr: FakeEcr, operation: str, **parameters: object) -> str:
    status, answer = call(ecr, operation, **parameters)
    assert status == 400, answer
    return str(answer["__type"])


def write(ecr: FakeEcr, policy: object) -> str | None:
    """Return the message of a rejected policy."""
    text = policy if isinstance(policy, str) else json.dumps(policy)
    status, answer = call(ecr, WRITE, repositoryName="team/new", policyText=text)
    assert answer.get("__type") == (None if status == 200 else "InvalidParameterException")
    return answer.get("message")


class TestACallThatIsNoCall:
    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'"text"', b"[" * 100_000])
    @pytest.mark.parametrize("operation", [READ, WRITE, LIST])
    def test_is_a_serialization_exception(self, ecr: FakeEcr, operation: str, body: bytes) -> None:
        status, answer = send(ecr, operation, body)

        assert (status, answer["__type"]) == (400, "SerializationException")

    @pytest.mark.parametrize("operation", ["", "NoSuchOperation", "PutImage"])
    def test_of_an_unknown_operation_is_rejected(self, ecr: FakeEcr, operation: str) -> None:
        parameters = {"repositoryName": "team/app", "imageManifest": "x"}

        assert error(ecr, operation, **parameters) == "UnknownOperationException"


class TestARepositoryName:
    @pytest.mark.parametrize("operation", [READ, WRITE, DELETE])
    @pytest.mark.parametrize(
        "name", [None, "", "a", "x" * 257, "Team/app", "team//app", "/app", "app/", "a b", "-app", "app\n"]
    )
    def test_that_breaks_the_model_is_an_invalid_parameter(
        self, ecr: FakeEcr, operation: str, name: str | None
    ) -> None:
        assert error(ecr, operation, repositoryName=name, policyText="{}") == "InvalidParameterException"

    @pytest.mark.parametrize(
        "name", ["ab", "x" * 256, "team__a/b--c.d_e/0", "1.dkr.ecr.eu.amazonaws.com/eks"]
    )
    def test_of_the_models_form_is_looked_up(self, ecr: FakeEcr, name: str) -> None:
        assert error(ecr, READ, repositoryName=name) == "RepositoryNotFoundException"

    @pytest.mark.parametrize("name", [1, ["team/app"], {"a": 1}, True])
    def test_that_is_no_string_is_a_serialization_exception(self, ecr: FakeEcr, name: object) -> None:
        assert error(ecr, READ, repositoryName=name) == "SerializationException"
        assert error(ecr, LIST, repositoryNames=[name]) == "SerializationException"


class TestARegistryId:
    @pytest.mark.parametrize("parameters", [{}, {"registryId": ACCOUNT}])
    def test_of_the_own_account_can_be_omitted(self, ecr: FakeEcr, parameters: dict[str, str]) -> None:
        assert call(ecr, READ, repositoryName="team/app", **parameters)[0] == 200
        assert call(ecr, LIST, **parameters)[0] == 200

    @pytest.mark.parametrize("operation", [READ, WRITE, DELETE, LIST])
    def test_of_another_account_is_denied(self, ecr: FakeEcr, operation: str) -> None:
        parameters = {"repositoryName": "team/app", "policyText": "{}", "registryId": "999999999999"}

        assert error(ecr, operation, **parameters) == "AccessDeniedException"

    def test_that_is_no_account_id_is_an_invalid_parameter(self, ecr: FakeEcr) -> None:
        assert error(ecr, LIST, registryId="example") == "InvalidParameterException"


class TestAListing:
    @pytest.mark.parametrize(
        "parameters",
        [
            {"maxResults": 0},
            {"maxResults": 1001},
            {"maxResults": 10, "repositoryNames": ["team/app"]},
            {"repositoryNames": []},
            {"repositoryNames": ["team/app"] * 101},
            {"nextToken": "team/app"},
            {"nextToken": ""},
        ],
    )
    def test_with_a_value_that_the_api_forbids_is_rejected(
        self, ecr: FakeEcr, parameters: dict[str, object]
    ) -> None:
        assert error(ecr, LIST, **parameters) == "InvalidParameterException"

    @pytest.mark.parametrize("size", ["10", True, 1.5])
    def test_with_a_size_that_is_no_integer_is_a_serialization_exception(
        self, ecr: FakeEcr, size: object
    ) -> None:
        assert error(ecr, LIST, maxResults=size) == "SerializationException"

    def test_returns_each_repository_once_by_its_own_tokens(self, ecr: FakeEcr) -> None:
        ecr.create_repository(*(f"app-{number}" for number in range(5)))

        pages = list(
            ecr.client().get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 3})
        )

        listed = [one["repositoryName"] for page in pages for one in page["repositories"]]
        assert [len(page["repositories"]) for page in pages] == [3, 3, 1]
        assert sorted(listed) == sorted(ecr.policies)

    def test_has_no_page_that_is_larger_than_the_largest(self, ecr: FakeEcr) -> None:
        ecr.create_repository(*(f"app-{number}" for number in range(5)))
        ecr.max_page_size = 4

        pages = list(ecr.client().get_paginator("describe_repositories").paginate())

        assert [len(page["repositories"]) for page in pages] == [4, 3]

    def test_does_not_accept_the_token_of_another_registry(self, ecr: FakeEcr) -> None:
        other = FakeEcr()
        other.create_repository("team/app", "team/new")
        token = call(other, LIST, maxResults=1)[1]["nextToken"]

        assert error(ecr, LIST, nextToken=token) == "InvalidParameterException"
        assert call(other, LIST, nextToken=token)[0] == 200


class TestAPolicy:
    STATEMENT = push(A)

    @pytest.mark.parametrize("text", ["", " ", "{", "null", "[]", "1", '"text"', "[" * 10_000, "{}"])
    def test_that_is_no_policy_is_invalid(self, ecr: FakeEcr, text: str) -> None:
        assert write(ecr, text) == INVALID

    @pytest.mark.parametrize(
        "change",
        [
            {"Statement": []},
            {"Statement": None},
            {"Statement": "text"},
            {"Statement": ["text"]},
            {"Version": "2020-01-01"},
            {"Id": 1},
            {"Comment": "unknown"},
        ],
    )
    def test_of_another_form_is_invalid(self, ecr: FakeEcr, change: dict[str, object]) -> None:
        assert write(ecr, document(self.STATEMENT) | change) == INVALID

    @pytest.mark.parametrize(
        "change",
        [
            {"Sid": 1},
            {"Effect": "allow"},
            {"Effect": None},
            {"Principal": None},
            {"Principal": {}},
            {"Principal": {"AWS": []}},
            {"Principal": {"AWS": [1]}},
            {"Principal": {"Everyone": "*"}},
            {"Principal": A},
            {"NotPrincipal": "*"},
            {"Action": []},
            {"Action": "s3:GetObject"},
            {"Action": ["ecr:BatchGetImage", "s3:*"]},
            {"Action": "BatchGetImage"},
            {"NotAction": "ecr:PutImage"},
            {"Resource": "*"},
            {"NotResource": "*"},
            {"Condition": []},
            {"Condition": {"Bool": "x"}},
            {"Comment": "unknown"},
        ],
        ids=str,
    )
    def test_with_a_statement_of_another_form_is_invalid(
        self, ecr: FakeEcr, change: dict[str, object]
    ) -> None:
        assert write(ecr, document(self.STATEMENT, self.STATEMENT | change)) == INVALID

    @pytest.mark.parametrize("missing", ["Effect", "Principal", "Action"])
    def test_with_a_statement_without_a_required_element_is_invalid(self, ecr: FakeEcr, missing: str) -> None:
        statement = {name: value for name, value in self.STATEMENT.items() if name != missing}

        assert write(ecr, document(statement)) == INVALID

    @pytest.mark.parametrize(
        "principal",
        [
            MISSING,
            f"{A}*",
            "arn:aws:iam::222222222222:group/x",
            "arn:aws:s3:::bucket",
            "222",
            "x",
            "AROAEXAMPLEDELETED01",
        ],
    )
    def test_with_a_principal_that_does_not_exist_is_rejected(self, ecr: FakeEcr, principal: str) -> None:
        assert write(ecr, document(push(A, principal))) == NOT_FOUND

    @pytest.mark.parametrize(
        "policy",
        [
            {"Statement": push(A)},
            document(push(A), push(A)) | {"Version": "2008-10-17", "Id": "x"},
            document(push(A, sid="new statement")),
            document(DENY | {"Condition": {"StringEquals": {"aws:PrincipalOrgID": ["o-1"]}}}),
            document({"Effect": "Deny", "NotPrincipal": {"AWS": A}, "NotAction": "ECR:*"}),
            document(push("*", "222222222222", "arn:aws:sts::222222222222:assumed-role/x/session")),
            document(
                DENY | {"Principal": {"Service": "lambda.amazonaws.com", "Federated": "accounts.example"}}
            ),
            document(DENY | {"Action": "*"}),
        ],
    )
    def test_of_a_valid_form_is_stored(self, ecr: FakeEcr, policy: dict[str, object]) -> None:
        assert write(ecr, policy) is None

    def test_has_at_most_10240_characters(self, ecr: FakeEcr) -> None:
        longest = json.dumps(document(self.STATEMENT)).ljust(10_240)

        assert write(ecr, longest) is None
        assert "less than or equal to 10240" in str(write(ecr, longest + " "))

    def test_that_is_rejected_changes_nothing(self, ecr: FakeEcr) -> None:
        before = ecr.get_policy("team/app")

        assert error(ecr, WRITE, repositoryName="team/app", policyText="{}") == "InvalidParameterException"
        assert ecr.get_policy("team/app") == before


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        (READ, {"repositoryName": "team/app"}),
        (WRITE, {"repositoryName": "team/new", "policyText": json.dumps(document(grant(A)))}),
        (DELETE, {"repositoryName": "team/app"}),
        (LIST, {"maxResults": 1}),
        (LIST, {"repositoryNames": ["team/app"]}),
        (READ_REGISTRY, {}),
    ],
)
def test_a_response_has_the_members_and_types_of_the_model(
    ecr: FakeEcr, operation: str, parameters: dict[str, object]
) -> None:
    ecr.registry_policy = FOREIGN_POLICY

    status, answer = call(ecr, operation, **parameters)

    shape = get_session().get_service_model("ecr").operation_model(operation).output_shape
    assert shape
    assert status == 200
    assert ParamValidator().validate(answer, shape).generate_report() == ""
    assert answer.keys() | {"nextToken"} >= shape.members.keys()


def test_a_repository_is_described_with_its_address_and_its_creation(ecr: FakeEcr) -> None:
    ecr.create_repository("ml/train", created_at=1_768_471_201)

    response = ecr.client().describe_repositories(repositoryNames=["ml/train"])

    (repository,) = response["repositories"]
    assert repository["repositoryUri"] == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/ml/train"
    assert repository["createdAt"].timestamp() == 1_768_471_201


@pytest.mark.parametrize("serving", [False, True])
def test_each_response_has_another_request_id(ecr: FakeEcr, *, serving: bool) -> None:
    if serving:
        with ecr.serving():
            ids = request_ids(ecr)
    else:
        ids = request_ids(ecr)

    assert len(ids) == 3


def request_ids(ecr: FakeEcr) -> set[str]:
    client, ids = ecr.client(), set()
    for name in ("team/app", "team/app", "team/new"):
        try:
            ids.add(client.get_repository_policy(repositoryName=name)["ResponseMetadata"]["RequestId"])
        except ClientError as failed:
            ids.add(failed.response["ResponseMetadata"]["RequestId"])
    return ids


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("get_repository_policy", {"repositoryName": "team/app"}),
        ("get_repository_policy", {"repositoryName": "team/new"}),
        ("get_repository_policy", {"repositoryName": "no/such"}),
        ("set_repository_policy", {"repositoryName": "team/new", "policyText": json.dumps(FOREIGN_POLICY)}),
        ("set_repository_policy", {"repositoryName": "no/such", "policyText": json.dumps(FOREIGN_POLICY)}),
        ("set_repository_policy", {"repositoryName": "team/new", "policyText": "{}"}),
        ("set_repository_policy", {"repositoryName": "team/new", "policyText": "no JSON"}),
        ("delete_repository_policy", {"repositoryName": "team/app"}),
        ("delete_repository_policy", {"repositoryName": "team/new"}),
        ("delete_repository_policy", {"repositoryName": "no/such"}),
        ("describe_repositories", {}),
        ("describe_repositories", {"repositoryNames": ["team/app"]}),
        ("describe_repositories", {"repositoryNames": ["team/app", "no/such"]}),
        ("get_registry_policy", {}),
    ],
)
def test_the_answer_has_the_code_and_the_members_of_motos(
    ecr: FakeEcr, operation: str, parameters: dict[str, object]
) -> None:
    with mock_aws():
        client = boto3.client("ecr", REGION, config=Config(retries={"total_max_attempts": 1}))
        for name in ecr.policies:
            client.create_repository(repositoryName=name)
        client.set_repository_policy(repositoryName="team/app", policyText=json.dumps(FOREIGN_POLICY))
        expected = form(client, operation, parameters)

    assert form(ecr.client(), operation, parameters) == expected


def form(client: Any, operation: str, parameters: dict[str, object]) -> object:  # noqa: ANN401 - of both
    """Return the names of the members of a response, or the status and the code of an error."""
    try:
        response = getattr(client, operation)(**parameters)
    except ClientError as failed:
        return failed.response["ResponseMetadata"]["HTTPStatusCode"], failed.response["Error"]["Code"]
    return sorted(response), [sorted(one) for one in response.get("repositories", ())]
