"""The contenders for an event: their packages, laid out as Lambda lays out a deployed zip."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.places import BENCH, BUILT, CUSTODIAN, WORK

if TYPE_CHECKING:
    from pathlib import Path

OURS, FLOOR, CUSTODIAN_NAME = "ecr-allow-pull", "bare boto3", "Cloud Custodian"


@dataclass(frozen=True)
class Contender:
    """One that does the job of an event.

    Attributes:
        name: what the tables call it.
        handler: what Lambda calls.
        package: the zip that is deployed.
        folder: the zip unpacked; holds bytecode only if the zip does.
    """

    name: str
    handler: str
    package: Path
    folder: Path


def contenders() -> list[Contender]:
    """Make the packages and unpack them."""
    WORK.mkdir(parents=True, exist_ok=True)
    floor = WORK / "floor-source"
    shutil.rmtree(floor, ignore_errors=True)
    floor.mkdir()
    shutil.copy(BENCH / "floor/app.py", floor)
    subprocess.run(  # noqa: S603 - our own script
        [
            CUSTODIAN / "python",
            BENCH / "custodian/archive.py",
            BENCH / "custodian/event.yaml",
            WORK / "custodian.zip",
        ],
        check=True,
    )
    return [
        _unpacked(OURS, "handler.app.lambda_handler", _zipped(BUILT, WORK / "ours.zip")),
        _unpacked(FLOOR, "app.lambda_handler", _zipped(floor, WORK / "floor.zip")),
        _unpacked(CUSTODIAN_NAME, "custodian_policy.run", WORK / "custodian.zip"),
    ]


def _zipped(folder: Path, package: Path) -> Path:
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as made:
        for file in sorted(folder.rglob("*")):
            made.write(file, file.relative_to(folder))
    return package


def _unpacked(name: str, handler: str, package: Path) -> Contender:
    folder = package.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(package) as made:
        made.extractall(folder)
    return Contender(name, handler, package, folder)
