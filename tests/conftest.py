"""What all tests share: no way to a real AWS, and the events of `events/`."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from local.aws import clean_environment

_environment = clean_environment()
os.environ.clear()
os.environ.update(_environment)
# As the template sets it to the stack's name.
os.environ["POWERTOOLS_SERVICE_NAME"] = "ecr-allow-pull"

EVENTS = Path(__file__).parent.parent / "events"


@pytest.fixture
def saved_event() -> Callable[[str], dict[str, object]]:
    def load(name: str) -> dict[str, object]:
        event: dict[str, object] = json.loads((EVENTS / f"{name}.json").read_text())
        return event

    return load
