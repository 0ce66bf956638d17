"""Tests that a release is reproducible, and deploys without a build."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from devstack import data_plane
from devstack.aws import clean_environment, local_aws
from devstack.host import PROJECT
from devstack.target import SAM
from scripts.version import read_version

FOLDERS = ("devstack", "scripts", "src")
FILES = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "samconfig.toml", "template.yaml")
VERSION = read_version(PROJECT)
PACKAGE = f"ecr-allow-pull-{VERSION}.zip"


def release(project: Path, *, umask: int, hash_seed: int, modified: int) -> Path:
    """Make a release in a copy of the project, as another machine would, and return its dist folder.

    Args:
        project: the folder of the copy.
        umask: the mode bits that new files don't get.
        hash_seed: the order of Python's sets.
        modified: when all files were modified, a Unix time in seconds.
    """
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(PROJECT / name, project / name)
    for path in project.rglob("*"):
        os.utime(path, (modified, modified))
    (project / ".tools").symlink_to(PROJECT / ".tools")
    completed = subprocess.run(  # noqa: S603 - the project's script
        [sys.executable, "-m", "scripts.release", "--tag", f"v{VERSION}"],
        cwd=project, env=clean_environment() | {"PYTHONHASHSEED": str(hash_seed)}, umask=umask,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return project / "dist"


@pytest.fixture(scope="module")
def dist() -> Iterator[Path]:
    """Make a release, and return its files in a folder without the project."""
    with TemporaryDirectory() as project, TemporaryDirectory() as unpacked:
        made = release(Path(project), umask=0o022, hash_seed=1, modified=1_000_000_000)
        yield Path(shutil.copytree(made, unpacked, dirs_exist_ok=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_release_of_another_machine_is_equal_byte_for_byte(dist: Path, tmp_path: Path) -> None:
    other = release(tmp_path, umask=0o077, hash_seed=2, modified=1_700_000_000)

    first, second = contents(dist), contents(other)
    assert first.keys() == {
        "LICENSE",
        "NOTES.md",
        "README.md",
        "SHA256SUMS",
        PACKAGE,
        f"ecr-allow-pull-{VERSION}.cdx.json",
        "samconfig.toml",
        "template.yaml",
    }
    assert [name for name in first if first[name] != second.get(name)] == []


def test_the_checksums_cover_all_files_and_are_right(dist: Path) -> None:
    completed = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"],  # noqa: S607
        cwd=dist, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert completed.returncode == 0, completed.stderr
    checked = {line.removesuffix(": OK") for line in completed.stdout.splitlines()}
    assert checked == contents(dist).keys() - {"SHA256SUMS"}


def test_sam_deploys_the_unpacked_release_without_a_build(dist: Path) -> None:
    with local_aws() as aws:
        data_plane.create_role(aws)
        override = f"WorkerRoleArns={data_plane.ROLE_ARN}"
        completed = subprocess.run(  # noqa: S603 - the project's SAM CLI
            [str(SAM / "sam"), "deploy", "--no-confirm-changeset", "--parameter-overrides", override],
            cwd=dist, env=aws.environment() | {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.2"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stdout + completed.stderr

        (function,) = aws.lambda_().list_functions()["Functions"]
        aws.ecr().create_repository(repositoryName="app")
        response = aws.lambda_().invoke(
            FunctionName=function["FunctionName"], Payload=b'{"repositories":["*"]}'
        )

    assert function["CodeSize"] == (dist / PACKAGE).stat().st_size
    assert json.load(response["Payload"])["outcomes"] == {"attached": 1}
