"""Tests the package: exactly the locked dependencies and the handler, built with the runtime's Python."""

import hashlib
import marshal
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distributions
from importlib.util import MAGIC_NUMBER, cache_from_source
from io import BytesIO
from pathlib import Path

import pytest

from devstack.host import PROJECT
from tests.unit.test_project import pins

PYTHON = Path(sys.base_prefix, "bin/python3.13")
# The function does not use this part of Powertools.
LEFT_OUT = "aws_lambda_powertools/event_handler/"

UNCHECKED_HASH = (0b01).to_bytes(4, "little")  # flags of PEP 552


def copied_source(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PROJECT / "src", folder / "src", ignore=ignored))


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make(source: Path, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run the build as `sam build` does, with `artifacts` next to the source as the package's folder."""
    artifacts = source.parent / "artifacts"
    artifacts.mkdir(exist_ok=True)
    command = ["make", *options, "build-Function", f"ARTIFACTS_DIR={artifacts}"]
    environment = os.environ | {"PATH": f"{path}{os.environ['PATH']}"}
    return subprocess.run(  # noqa: S603 - the project's Makefile
        command, cwd=source, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package where another Python is first on PATH and has left its bytecode."""
    folder = tmp_path_factory.mktemp("package")
    source = copied_source(folder)
    (source / "handler/__pycache__").mkdir()
    (source / "handler/__pycache__/app.cpython-312.pyc").touch()
    for name in ("python", "python3", "pip", "pip3"):
        program(folder / "other" / name, "exit 1")

    # The lists of the installed files, with which the tests compare, are not part of the package.
    makefile, delete = source / "Makefile", '\trm "$(ARTIFACTS_DIR)"/*.dist-info/RECORD\n'
    assert makefile.read_text().count(delete) == 1
    makefile.write_text(makefile.read_text().replace(delete, ""))

    completed = make(source, path=f"{folder}/other:{PYTHON.parent}:")

    assert completed.returncode == 0, completed.stderr
    return folder / "artifacts"


def test_holds_exactly_the_locked_dependencies(package: Path) -> None:
    installed = {each.name.replace("_", "-"): each.version for each in distributions(path=[str(package)])}

    assert installed == {name: version for name, (version, _) in pins("src/requirements.txt").items()}
    assert "aws-lambda-powertools" in installed


def test_holds_the_files_of_the_dependencies_and_of_the_handler_and_no_others(package: Path) -> None:
    handler = {path.relative_to(PROJECT / "src") for path in (PROJECT / "src/handler").rglob("*.py")}
    recorded = {
        Path(line.split(",")[0])
        for record in package.glob("*.dist-info/RECORD")
        for line in record.read_text().splitlines()
    }
    used = {
        path for path in recorded if not str(path).startswith(("../", LEFT_OUT)) and path.suffix != ".pyc"
    }

    built = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}

    assert {path for path in built if path.suffix != ".pyc"} == handler | used
    assert Path("handler/reconcile/reconciler.py") in handler
    assert any(str(path).startswith(LEFT_OUT) for path in recorded)


def test_holds_bytecode_of_the_runtimes_python_for_each_module_and_no_other(package: Path) -> None:
    """Bytecode is unchecked, because zip and unzip change file times. It names the files of the runtime."""
    modules = set(package.rglob("*.py"))

    assert len(modules) > 50
    assert {Path(cache_from_source(path)) for path in modules} == {*package.rglob("*.pyc")}
    for module in modules:
        bytecode = Path(cache_from_source(module)).read_bytes()
        assert bytecode[:8] == MAGIC_NUMBER + UNCHECKED_HASH
        code = marshal.loads(bytecode[16:])  # noqa: S302 - built by this test
        assert Path(code.co_filename) == "/var/task" / module.relative_to(package)


@pytest.mark.parametrize(
    ("shim", "used"),
    [("echo runtime/python3.13", "runtime/python3.13"), ("exit 1", "python3")],
    ids=["that runs", "that fails"],
)
def test_is_built_with_python_3_13_unless_its_shim_fails_to_run(tmp_path: Path, shim: str, used: str) -> None:
    """A version manager's shim may be on PATH and fail in this folder."""
    program(tmp_path / "bin/python3.13", shim)

    commands = make(copied_source(tmp_path), "--dry-run", path=f"{tmp_path}/bin:").stdout

    assert f'"{used}" -m pip install' in commands
    assert f'"{used}" -m compileall' in commands


@pytest.mark.parametrize(
    ("hash_in_lock_file", "error"),
    [
        (" --hash=sha256:" + 64 * "0", "DO NOT MATCH THE HASHES"),
        ("", "Hashes are required"),
    ],
    ids=["wrong", "none"],
)
def test_build_fails_if_a_dependency_has_a_wrong_hash_or_none(
    tmp_path: Path, hash_in_lock_file: str, error: str
) -> None:
    source = copied_source(tmp_path)
    lock_file = source / "requirements.txt"
    without_hashes = re.sub(r" *\\\n +--hash=\S+", "", lock_file.read_text())
    assert "--hash" not in without_hashes
    lock_file.write_text(
        re.sub(r"^([a-z0-9-]+==\S+)", rf"\1{hash_in_lock_file}", without_hashes, flags=re.MULTILINE)
    )

    completed = make(source, path=f"{PYTHON.parent}:")

    assert completed.returncode != 0
    assert error in completed.stderr


def test_build_runs_no_code_of_a_dependency(tmp_path: Path) -> None:
    """A wheel only unpacks; a source distribution runs its build script."""
    marker, source = tmp_path / "ran", copied_source(tmp_path)
    archive = tmp_path / "other-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        for name, text in {
            "pyproject.toml": (
                '[build-system]\nrequires = []\nbuild-backend = "script"\nbackend-path = ["."]\n'
            ),
            "script.py": f"open({str(marker)!r}, 'w').close()\n",
            "PKG-INFO": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n",
        }.items():
            entry = tarfile.TarInfo(f"other-1.0/{name}")
            entry.size = len(text)
            files.addfile(entry, BytesIO(text.encode()))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    requirement = f"--no-index\n--find-links {tmp_path}\nother==1.0 --hash=sha256:{digest}\n"
    (source / "requirements.txt").write_text(requirement)

    completed = make(source, path=f"{PYTHON.parent}:")

    assert completed.returncode != 0
    assert "No matching distribution found for other==1.0" in completed.stderr
    assert not marker.exists()
