"""Shared test setup: no access to the real AWS, and a fixture for the events in `events/`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from devstack.aws import clean_environment
from devstack.host import PROJECT

_environment = clean_environment()
os.environ.clear()
os.environ.update(_environment)
# The template sets this variable to the stack's name.
os.environ["POWERTOOLS_SERVICE_NAME"] = "ecr-allow-pull"

EVENTS = Path(__file__).parent.parent / "events"


class NoManagedPolicies:
    """The template attaches no managed policy."""

    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="session")
def processed_template() -> dict[str, Any]:
    """Return the template as CloudFormation receives it, after the SAM transform."""
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    # `sam package` replaces the local path by an S3 URL.
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/key"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        processed: dict[str, Any] = transform(template, {}, NoManagedPolicies())
    return processed


@pytest.fixture
def saved_event() -> Callable[[str], dict[str, object]]:
    def load(name: str) -> dict[str, object]:
        event: dict[str, object] = json.loads((EVENTS / f"{name}.json").read_text())
        return event

    return load
