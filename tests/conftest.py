"""Shared test setup: no access to the real AWS, and a fixture for the events in `events/`."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore import loaders, session
from hypothesis import HealthCheck, settings

from cli.variables import OPTIONS
from devstack.aws import clean_environment

COLORS_AND_WIDTH = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
# No test reads the settings of the person who runs it: those of the SDK, the command line and its colors.
if "ACCEPTANCE_PREFIX" not in os.environ:  # only that run of the end-to-end tests may reach AWS
    _environment = clean_environment()
    os.environ.clear()
    os.environ.update(
        {name: value for name, value in _environment.items() if name not in {*OPTIONS, *COLORS_AND_WIDTH}}
    )
# The template sets this variable to the stack's name.
os.environ["POWERTOOLS_SERVICE_NAME"] = "ecr-allow-pull"

# No deadline: a busy machine is not a fault. HYPOTHESIS_PROFILE=quick is for `make mutants`.
settings.register_profile("thorough", deadline=None)
# It runs the tests again and again in one process, with new instances of the test classes.
settings.register_profile(
    "quick", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.differing_executors]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thorough"))

_loader = cache(loaders.create_loader)


def _shared_loader(search_path_string: str | None = None) -> loaders.Loader:
    """Return the loader of all sessions: to read the models takes most of the time of a new client."""
    loader = _loader(search_path_string)
    loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # each session of boto3 adds its own folder
    return loader


session.create_loader = _shared_loader

EVENTS = Path(__file__).parent.parent / "events"


@pytest.fixture(scope="session")
def processed_template() -> dict[str, Any]:
    # Imported here, because half a second of every test process is long for those that don't need it.
    from scripts.processed_template import processed_template as transformed  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        return transformed()


@pytest.fixture
def saved_event() -> Callable[[str], dict[str, object]]:
    def load(name: str) -> dict[str, object]:
        event: dict[str, object] = json.loads((EVENTS / f"{name}.json").read_text())
        return event

    return load
