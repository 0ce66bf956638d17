"""Tests that the package is built from the pinned dependencies only."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.host import PROJECT


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Return a function that builds the copy of `src` in `tmp_path`, as `sam build` does."""
    source, artifacts = tmp_path / "src", tmp_path / "artifacts"
    shutil.copytree(PROJECT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))

    def run() -> subprocess.CompletedProcess[str]:
        shutil.rmtree(artifacts, ignore_errors=True)
        artifacts.mkdir()
        command = ["make", "build-Function", f"ARTIFACTS_DIR={artifacts}"]
        # The shims of a version manager work in the project's folder only.
        path = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(  # noqa: S603 - the project's Makefile
            command, cwd=source, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )

    return run


def test_holds_every_module_of_the_handler(
    build: Callable[[], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    completed = build()

    assert completed.returncode == 0, completed.stderr
    built, sources = tmp_path / "artifacts/handler", PROJECT / "src/handler"
    modules = {path.relative_to(sources) for path in sources.rglob("*.py")}
    assert {path.relative_to(built) for path in built.rglob("*.py")} == modules
    assert Path("reconcile/reconciler.py") in modules


@pytest.mark.parametrize(
    ("hash_in_lock_file", "error"),
    [
        (" --hash=sha256:" + 64 * "0", "DO NOT MATCH THE HASHES"),
        ("", "Hashes are required"),
    ],
)
def test_fails_if_a_dependency_has_a_wrong_hash_or_none(
    build: Callable[[], subprocess.CompletedProcess[str]], tmp_path: Path, hash_in_lock_file: str, error: str
) -> None:
    lock_file = tmp_path / "src/requirements.txt"
    without_hashes = re.sub(r" *\\\n +--hash=\S+", "", lock_file.read_text())
    assert "--hash" not in without_hashes
    lock_file.write_text(
        re.sub(r"^([a-z0-9-]+==\S+)", rf"\1{hash_in_lock_file}", without_hashes, flags=re.MULTILINE)
    )

    completed = build()

    assert completed.returncode != 0
    assert error in completed.stderr
