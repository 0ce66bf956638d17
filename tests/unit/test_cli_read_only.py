"""The clients of the command line refuse every call that is not a listed read, before anything is sent."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from botocore import xform_name
from botocore.session import get_session

from cli.aws import Aws, CallRefused
from cli.permissions import READS
from devstack.fake_aws import FakeAws
from devstack.fake_ecr import READ
from handler.ecr.registry import Registry
from handler.events.request import Request
from handler.reconcile.result import Outcome
from handler.reconcile.sweep import Sweep
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.command_line import GRANT, ROLE, policy

if TYPE_CHECKING:
    from botocore.client import BaseClient

CLIENTS = {
    "ecr": lambda aws: aws.ecr(),
    "ecr of the function": lambda aws: aws.ecr_of_the_function(),
    "cloudtrail": lambda aws: aws.cloudtrail(),
    "iam": lambda aws: aws.iam(),
    "sts": lambda aws: aws.sts(),
}


def operations(service: str) -> set[str]:
    return {*get_session().get_service_model(service).operation_names}


@pytest.fixture
def fake() -> Iterator[FakeAws]:
    with FakeAws().serving() as fake:
        yield fake


@pytest.fixture
def aws(fake: FakeAws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in {"ENDPOINT_URL": fake.url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return Aws(None, "us-east-1")


@pytest.mark.parametrize("name", CLIENTS)
def test_every_operation_that_is_not_a_listed_read_is_refused(fake: FakeAws, aws: Aws, name: str) -> None:
    client: BaseClient = CLIENTS[name](aws)
    service = client.meta.service_model.service_name
    refused = sorted(operations(service) - {*READS[service]})

    assert len(refused) > 5
    for operation in refused:
        with pytest.raises(CallRefused, match=f"refuses {service}:{operation}:"):
            getattr(client, xform_name(operation))()
    assert not fake.calls
    assert not fake.ecr.call_log


def test_the_tested_clients_are_all() -> None:
    created = {name for name in vars(Aws) if not name.startswith("_")}

    assert created - {"region", "partition", "account"} == {name.replace(" ", "_") for name in CLIENTS}


def test_every_listed_read_exists_and_reads() -> None:
    for service, names in READS.items():
        assert {*names} <= operations(service)
        assert all(name.startswith(("Describe", "Get", "List", "Simulate")) for name in names)


def test_a_registry_with_such_a_client_cannot_write(fake: FakeAws, aws: Aws) -> None:
    fake.ecr.create_repository("team/app")

    with pytest.raises(CallRefused, match="refuses ecr:SetRepositoryPolicy"):
        Registry(aws.ecr_of_the_function()).set_policy("team/app", json.dumps(policy(GRANT)))

    assert fake.ecr.get_policy("team/app") is None


def test_a_sweep_that_is_no_dry_run_fails_instead_of_writing(fake: FakeAws, aws: Aws) -> None:
    fake.ecr.create_repository("team/app")
    settings = Settings.from_environment(REQUIRED | {"WORKER_ROLE_ARNS": ROLE})
    registry = Registry(aws.ecr_of_the_function())

    (result,) = Sweep(Request(("team/app",)), settings, registry, None, lambda: 60.0).run()

    assert result.outcome is Outcome.FAILED
    assert "CallRefused" in result.reason
    assert {operation for operation, *_ in fake.ecr.call_log} == {READ}
