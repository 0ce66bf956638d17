"""The compared implementations: their deployment packages, and the commands that run their sweeps."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.paths import BENCH, BUILD, CUSTODIAN_BIN, RUNTIME_PYTHON, WORK
from bench.results import ADAPTIVE, BASELINE, CUSTODIAN, OURS

if TYPE_CHECKING:
    from pathlib import Path

CUSTODIAN_POLICIES = BENCH / "custodian/policies.yaml"
SWEEP_COMMANDS: dict[str, list[object]] = {
    OURS: ["env", f"PYTHONPATH={WORK / 'ours'}", RUNTIME_PYTHON, "-P", BENCH / "invoke.py"],
    BASELINE: [RUNTIME_PYTHON, BENCH / "baseline/sweep.py"],
    ADAPTIVE: ["env", "AWS_RETRY_MODE=adaptive", RUNTIME_PYTHON, BENCH / "baseline/sweep.py"],
    CUSTODIAN: [
        *(CUSTODIAN_BIN / "custodian", "run", "--region", "us-east-1", "--cache-period", "0"),
        *("--output-dir", WORK / "output.d", "--policies", "sweep", CUSTODIAN_POLICIES),
    ],
}


@dataclass(frozen=True)
class Implementation:
    """An implementation as a Lambda function: its name in the tables, its handler and its zip package."""

    name: str
    handler: str
    package: Path

    @property
    def folder(self) -> Path:
        """The folder of the unpacked package."""
        return self.package.with_suffix("")


def package_all() -> list[Implementation]:
    """Build the deployment packages, and unpack them as Lambda does."""
    ours = Implementation(OURS, "handler.app.lambda_handler", WORK / "ours.zip")
    baseline = Implementation(BASELINE, "app.lambda_handler", WORK / "baseline.zip")
    custodian = Implementation(CUSTODIAN, "custodian_policy.run", WORK / "custodian.zip")
    WORK.mkdir(parents=True, exist_ok=True)
    _zip(ours.package, BUILD, "*")
    _zip(baseline.package, BENCH / "baseline", "app.py")
    script = BENCH / "custodian/archive.py"
    subprocess.run(  # noqa: S603 - a script of this project
        [CUSTODIAN_BIN / "python", script, CUSTODIAN_POLICIES, "event", custodian.package], check=True
    )
    for implementation in (ours, baseline, custodian):
        shutil.rmtree(implementation.folder, ignore_errors=True)
        shutil.unpack_archive(implementation.package, implementation.folder)
    return [ours, baseline, custodian]


def _zip(package: Path, folder: Path, pattern: str) -> None:
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob(pattern)):
            archive.write(file, file.relative_to(folder))
