"""What the README tells people to run: `make run` as they run it, and `sam` with the options it shows."""

import re
import subprocess
import sys
from functools import cache

import pytest

from local.aws import clean_environment
from local.machine import PROJECT
from tests.unit.test_docs import Command, commands

SAM = PROJECT / ".tools/sam/bin/sam"


def test_make_run_shows_two_repositories_becoming_pullable() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "local.demo"],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("a pull by the worker role is refused") == 2
    assert ran.stdout.count("a pull by the worker role is allowed") == 2
    assert "the other statement is untouched" in ran.stdout


@cache
def options_of(*words: str) -> set[str]:
    """Give the options that `sam` itself says a command has."""
    shown = subprocess.run(  # noqa: S603 - AWS's own tool
        [SAM, *words, "--help"],
        env=clean_environment() | {"SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", shown))


@pytest.mark.parametrize("command", commands("sam"), ids=str)
def test_a_command_of_sam_has_the_options_that_sam_has(command: Command) -> None:
    _, *words = command.words
    path = words[: 2 if words[0] in {"list", "local", "remote"} else 1]
    used = {word.partition("=")[0] for word in words[len(path) :] if re.match(r"--?[a-z]", word)}

    assert used <= options_of(*path)
