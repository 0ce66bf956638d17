"""The acceptance report holds every promise, every fact and what remains."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acceptance import promises
from acceptance.aws import Aws
from acceptance.cleanup import Leftover
from acceptance.report import JSON, MARKDOWN, Run, document, project_version, write
from acceptance.run import KEPT, NOT_KEPT, exit_code

PREFIX = "ecr-allow-pull-acceptance-0a1b2c3d"
CALLER = Aws("us-east-1", "arn:aws:sts::918273645546:assumed-role/AliceAdmin/alice", "AROAZQ81ABCDEFGH:alice")
TEST = """
import json
import pytest

class TestFailedEvent:
    @pytest.mark.parametrize("kind", ["created"])
    def test_is_retried_3_times(self, kind, record_property):
        record_property("fact:read_lag", json.dumps({"reads": 20, "stale": 0}))
        record_property("other", "not a fact")

    def test_costs_nothing(self):
        assert False, "arn:aws:iam::918273645546:user/alice | denied"

def test_own_write_is_ignored():
    pytest.skip("no trail")
"""


@pytest.fixture
def results(tmp_path: Path) -> promises.Results:
    """Run the tests above with the command's options, in one process."""
    (tmp_path / "test_promises.py").write_text(TEST)
    junit = tmp_path / "junit.xml"
    options = [each.replace("4", "0") if each == "4" else each for each in promises.command(junit)[1:-1]]
    arguments = [
        sys.executable,
        *options,
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        str(tmp_path),
    ]
    assert (
        promises.run([*arguments, "--rootdir", str(tmp_path)], PREFIX, "us-east-1", os.environ, trail=False)
        == 1
    )
    return promises.read(junit)


def report(results: promises.Results, *leftovers: Leftover, interrupted: bool = False) -> dict[str, Any]:
    started = datetime(2026, 1, 15, 10, tzinfo=UTC)
    return document(CALLER, Run(PREFIX, started, 612.4, "none", interrupted), results, leftovers)


def test_names_each_promise_in_words_with_its_result_and_reason(results: promises.Results) -> None:
    kept, broken, skipped = report(results)["promises"]

    assert (kept["text"], kept["outcome"]) == ("Failed event is retried 3 times [created]", "passed")
    assert kept["test"] == "test_promises.py::TestFailedEvent::test_is_retried_3_times[created]"
    assert broken["text"], broken["outcome"] == ("Failed event costs nothing", "failed")
    assert "arn:aws:iam::111122223333:user/CALLER | denied" in broken["reason"]
    assert (skipped["text"], skipped["outcome"]) == ("Own write is ignored", "skipped")
    assert skipped["reason"] == "no trail"


def test_holds_the_facts_that_tests_recorded(results: promises.Results) -> None:
    (fact,) = report(results)["facts"]

    assert (fact["name"], fact["value"]) == ("read_lag", {"reads": 20, "stale": 0})


def test_says_what_was_tested_where_and_when() -> None:
    content = report(promises.Results())

    assert {name: content[name] for name in ("version", "date", "region", "target", "seconds", "trail")} == {
        "version": project_version(),
        "date": "2026-01-15",
        "region": "us-east-1",
        "target": "AWS",
        "seconds": 612,
        "trail": "none",
    }


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_LAMBDA"])
def test_of_a_run_on_an_emulator_says_so(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")

    assert report(promises.Results())["target"] == "emulator"


def test_is_written_for_people_and_for_programs_without_the_caller(
    results: promises.Results, tmp_path: Path
) -> None:
    write(
        report(results, Leftover("IAM roles", f"{PREFIX}-role", "DeleteConflict"), interrupted=True), tmp_path
    )

    text = (tmp_path / MARKDOWN).read_text()
    assert "1 promises kept, 1 not kept, 1 skipped. The run was interrupted." in text
    assert "| Failed event is retried 3 times [created] | passed |" in text
    assert "user/CALLER \\| denied" in text
    assert f"- IAM roles: {PREFIX}-role: DeleteConflict" in text
    for shown in (text, (tmp_path / JSON).read_text()):
        assert not any(personal in shown for personal in ("918273645546", "lice", "AROAZQ81"))
    assert json.loads((tmp_path / JSON).read_text())["project"] == "ecr-allow-pull"


def test_of_a_run_that_wrote_no_results_is_empty(tmp_path: Path) -> None:
    assert report(promises.read(tmp_path / "none.xml"))["promises"] == []


def test_of_an_interrupted_run_has_only_the_promises_that_ended(tmp_path: Path) -> None:
    case = '<testcase classname="tests.e2e.test_stack" name="test_ended" time="1.0"/>'
    (tmp_path / "junit.xml").write_text(f'<testsuite>{case}<testcase time="0.0"/></testsuite>')

    assert [each.text for each in promises.read(tmp_path / "junit.xml").promises] == ["Ended"]


@pytest.mark.parametrize(
    ("class_name", "name", "words"),
    [
        ("", "test_own_write_does_not_invoke", "Own write does not invoke"),
        ("TestEachTrigger", "test_policy_deleted", "Each trigger policy deleted"),
        ("TestAMissingRole", "test_is_named[a_b]", "A missing role is named [a_b]"),
    ],
)
def test_turns_the_name_of_a_test_into_words(class_name: str, name: str, words: str) -> None:
    assert promises.in_words(class_name, name) == words


@pytest.mark.parametrize(
    ("tests", "passed", "leftovers", "code"),
    [
        (0, 60, [], KEPT),
        (1, 59, [], NOT_KEPT),
        (0, 0, [], NOT_KEPT),
        (0, 60, [Leftover("queue", "q", "in use")], NOT_KEPT),
    ],
    ids=["all kept", "one not kept", "all skipped", "something is left"],
)
def test_a_run_succeeds_if_promises_were_kept_and_everything_was_deleted(
    tests: int, passed: int, leftovers: list[Leftover], code: int
) -> None:
    assert exit_code(tests, passed, leftovers) == code


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Make SIGINT an interrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_while_the_tests_start_leaves_no_process_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as Popen's
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("subprocess.Popen", Interrupted)
    script = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(20)"

    with pytest.raises(KeyboardInterrupt):
        promises.run([sys.executable, "-c", script], PREFIX, "us-east-1", os.environ, trail=True)

    assert [each.returncode for each in started] != [None]
    assert len(started) == 1


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path) -> None:
    # The tests start a child, as pytest starts workers, and then the user stops the run. The pipe ends with
    # the last process that can write to it. A child that is not stopped writes first.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = "import time; time.sleep(20); print('still there')"
    script = (
        "import os, signal, subprocess, sys, time\n"
        f"with open({str(pipe)!r}, 'wb') as pipe:\n"
        f"    subprocess.Popen([sys.executable, '-c', {child!r}], stdout=pipe)\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(20)\n"
    )
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(KeyboardInterrupt):
        promises.run([sys.executable, "-c", script], PREFIX, "us-east-1", os.environ, trail=True)

    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b""
    os.close(reader)
