"""Breaks the project on purpose, one place at a time, and lists the breaks that no test notices.

Mutation testing of the template, the saved events, the packaging and the edges of the code. mutmut does the
same with the core. The table is tests/breaks.toml: a text in a file, what to put in its place, and the tests
that should notice. `python -m scripts.breaks TEXT` applies only the breaks whose file or texts contain TEXT.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console
from rich.progress import track

from devstack.host import PROJECT

TABLE = PROJECT / "tests/breaks.toml"
_COPIES = 2
_TIMEOUT = 120  # seconds
_TESTS_FAILED = 1  # exit code of pytest


@dataclass(frozen=True)
class Break:
    """One break.

    Attributes:
        file: the file to break.
        find: the text to replace, which the file contains once.
        replace: the text to put in its place.
        tests: the tests that should notice.
        survives: why no test needs to notice, if so.
    """

    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def title(self) -> str:
        """The break in one line."""
        return f"{self.file}: {' '.join(self.find.split())!r} -> {' '.join(self.replace.split())!r}"

    @property
    def is_stale(self) -> bool:
        """Whether the file does not contain the text exactly once."""
        return (PROJECT / self.file).read_text().count(self.find) != 1

    def apply(self, project: Path) -> str:
        """Break a copy of the project; return the original text of the file."""
        path = project / self.file
        original = path.read_text()
        path.write_text(original.replace(self.find, self.replace))
        return original


def load() -> list[Break]:
    """Read the table."""
    table: dict[str, Any] = tomllib.loads(TABLE.read_text())
    default_tests = table["tests"]
    return [
        Break(
            file,
            one["find"],
            one["replace"],
            tuple(one.get("tests", default_tests[file])),
            one.get("survives", ""),
        )
        for file, breaks in table["breaks"].items()
        for one in breaks
    ]


def copy_project(folder: Path) -> Path:
    """Copy the files under version control; share the installed tools."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target)
    (folder / ".tools").symlink_to(PROJECT / ".tools")
    return folder


def is_noticed(one: Break, project: Path) -> bool:
    """Break a copy of the project, run the tests, and restore the copy.

    Raises:
        RuntimeError: the tests could not run; contains their output.
    """
    original = one.apply(project)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *one.tests]
    try:
        completed = subprocess.run(  # noqa: S603 - the project's tests
            command, cwd=project, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        (project / one.file).write_text(original)
    # 2: a test module could not be imported, because the handler does not start.
    if completed.returncode not in {0, _TESTS_FAILED, 2}:
        raise RuntimeError(f"{one.title}:\n{completed.stdout[-2000:]}{completed.stderr[-2000:]}")
    return completed.returncode != 0


def main() -> int:
    """Apply each break, and list those that survive."""
    console = Console(soft_wrap=True)
    text = sys.argv[1] if len(sys.argv) > 1 else ""
    breaks = [one for one in load() if text in one.title]
    if stale := [one for one in breaks if one.is_stale]:
        for one in stale:
            console.print(f"the file does not contain the text exactly once: {one.title}", markup=False)
        return 1
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_COPIES) as threads:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(_COPIES):
            copies.put(copy_project(Path(folder) / str(number)))

        def notice(one: Break) -> bool:
            project = copies.get()
            try:
                return is_noticed(one, project)
            finally:
                copies.put(project)

        survivors = 0
        results = track(threads.map(notice, breaks), "Breaking", len(breaks), console=console)
        for one, was_noticed in zip(breaks, results, strict=True):
            if was_noticed and one.survives:
                console.print(f"noticed, against the table: {one.title}", markup=False)
            elif not was_noticed:
                survivors += not one.survives
                console.print(f"survived: {one.title} {one.survives}", markup=False)
    console.print(f"{survivors} of {len(breaks)} breaks survived without a reason")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
