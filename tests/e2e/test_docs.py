"""Runs the README's commands: the demo, and the options of every documented `sam` command."""

import re
import subprocess
import sys
from functools import cache
from html import unescape

import pytest

from devstack.aws import clean_environment
from devstack.host import PROJECT
from tests.unit.test_docs import Command, commands

SAM = PROJECT / ".tools/sam/bin/sam"


def test_demo_shows_two_repositories_becoming_pullable() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "devstack.demo"],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("✗ a pull by the worker role is denied") == 2
    assert completed.stdout.count("✓ a pull by the worker role is allowed") == 2
    assert completed.stdout.count("✓ the image builder finds existing images") == 2
    assert completed.stdout.count("✓ the foreign statement is unchanged") == 1
    assert completed.stdout.count("✓ pullable") == 2
    assert "✓ Both repositories are pullable, with no manual step." in completed.stdout
    picture = (PROJECT / "docs/run.svg").read_text()
    text = unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", picture, flags=re.DOTALL))
    shown = characters(text).removeprefix("makerun")
    assert len(shown) > 500
    assert characters(completed.stdout).startswith(shown), "run `make docs`"


def characters(text: str) -> str:
    """Return a text without what differs between two runs or two widths: spaces, lines and durations."""
    return re.sub(r"[\s─]|\d+\.\d(?= s)", "", text.replace("\N{NO-BREAK SPACE}", " "))


@cache
def sam_options(*words: str) -> set[str]:
    """Return the options that `sam --help` lists for a command."""
    help_text = subprocess.run(  # noqa: S603 - AWS's SAM CLI
        [SAM, *words, "--help"],
        env=clean_environment() | {"SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", help_text))


@pytest.mark.parametrize("command", commands("sam"), ids=str)
def test_documented_sam_command_has_only_existing_options(command: Command) -> None:
    _, *words = command.words
    path = words[: 2 if words[0] in {"list", "local", "remote"} else 1]
    used = {word.partition("=")[0] for word in words[len(path) :] if re.match(r"--?[a-z]", word)}

    assert used <= sam_options(*path)
