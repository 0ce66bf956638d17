"""Fixtures of the unit tests: a fake ECR, the function that uses it, and its log."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.fake_aws import FakeAws
from devstack.fake_ecr import FakeEcr
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.command_line import Run, runner
from tests.unit.function import Function
from tests.unit.policies import CI, ROLES, VENDOR, A, B, C


@pytest.fixture
def ecr() -> FakeEcr:
    ecr = FakeEcr()
    ecr.create_repository(ROLE_CHECK_REPOSITORY)
    ecr.create_role(*ROLES, A, B, C, CI, VENDOR)
    return ecr


@pytest.fixture
def function(ecr: FakeEcr) -> Function:
    return Function(ecr)


@pytest.fixture
def run(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run a command of the command line on the fake AWS of the module."""
    return runner(aws, monkeypatch, capsys, tmp_path)


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Read the log lines of the function, as CloudWatch receives them."""
    logger, stream = logging.getLogger("ecr-allow-pull"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logger.handlers[0].formatter)
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
