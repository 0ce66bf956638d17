"""The report of an acceptance run, redacted: as Markdown for people, and as JSON for `compare`."""

from __future__ import annotations

import getpass
import json
import re
import socket
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acceptance.promises import FAILED, PASSED, SKIPPED
from acceptance.redaction import Redactor
from devstack.host import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from acceptance.aws import Aws
    from acceptance.cleanup import Leftover
    from acceptance.promises import Results

MARKDOWN, JSON = "acceptance-report.md", "acceptance-report.json"
_MAX_REASON = 600  # characters


@dataclass(frozen=True)
class Run:
    """What is known of a run besides its results.

    Attributes:
        prefix: its prefix.
        started: when it started.
        seconds: how long it took.
        trail: whether a trail logs write management events: `logs`, `filtered`, `none` or `unknown`.
        interrupted: whether the user stopped it.
    """

    prefix: str
    started: datetime
    seconds: float
    trail: str
    interrupted: bool


def document(aws: Aws, run: Run, results: Results, leftovers: Sequence[Leftover]) -> dict[str, Any]:
    """Return the report as JSON, without what identifies an account, a person or a machine."""
    counts = {
        outcome: sum(each.outcome == outcome for each in results.promises)
        for outcome in (PASSED, FAILED, SKIPPED)
    }
    content = {
        "project": "ecr-allow-pull",
        "version": project_version(),
        "date": run.started.date().isoformat(),
        "region": aws.region,
        "target": aws.target,
        "prefix": run.prefix,
        "seconds": round(run.seconds),
        "trail": run.trail,
        "interrupted": run.interrupted,
        "counts": counts,
        "promises": [asdict(each) for each in results.promises],
        "facts": [asdict(each) for each in results.facts],
        "leftovers": [each._asdict() for each in leftovers],
    }
    redacted: dict[str, Any] = Redactor(run.prefix, aws.account, _personal(aws)).redact(content)
    return redacted


def write(content: dict[str, Any], folder: Path) -> None:
    """Write both files."""
    (folder / JSON).write_text(json.dumps(content, indent=2) + "\n")
    (folder / MARKDOWN).write_text(markdown(content))


def markdown(content: dict[str, Any]) -> str:
    """Return the report for people."""
    counts = content["counts"]
    about = [content[name] for name in ("version", "date", "region", "target")]
    interrupted = " The run was interrupted." if content["interrupted"] else ""
    lines = [
        "# Acceptance report",
        "",
        f"ecr-allow-pull {', '.join(about)}, {content['seconds']} seconds, trail: {content['trail']}.",
        "",
        f"{counts[PASSED]} promises kept, {counts[FAILED]} not kept, {counts[SKIPPED]} skipped.{interrupted}",
        "",
        "| Promise | Result | Seconds | Reason |",
        "|---|---|---|---|",
        *(
            f"| {_cell(each['text'])} | {each['outcome']} | {each['seconds']} | {_cell(each['reason'])} |"
            for each in content["promises"]
        ),
        "",
        "## Facts",
        "",
        *(
            line
            for each in content["facts"]
            for line in (f"`{each['name']}`:", "", "```json", json.dumps(each["value"], indent=2), "```", "")
        ),
        "## Leftovers",
        "",
        *(
            [f"- {each['kind']}: {each['name']}: {each['reason']}" for each in content["leftovers"]]
            or ["None."]
        ),
    ]
    return "\n".join(lines) + "\n"


def project_version() -> str:
    """Return the version of the project."""
    version: str = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    return version


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"


def _personal(aws: Aws) -> list[str]:
    """Return the names of the caller and of this machine: role, session, user, folder, host."""
    names = re.split(r"[:/]", f"{aws.caller.rpartition(':')[2]}/{aws.user_id}")
    kinds = {"assumed-role", "federated-user", "user", "root"}
    return [
        *({*names} - kinds - {aws.account}),
        str(Path.home()),
        str(PROJECT),
        getpass.getuser(),
        socket.gethostname(),
    ]
