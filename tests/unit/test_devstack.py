"""The parts of the demo and the playground: what they print, and what they keep on this machine."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.text import Text

from devstack import loopback
from devstack.activity import Activity, event_line, log_line
from devstack.aws import ACCOUNT, STACK, LocalAws, at_port, clean_environment
from devstack.data_plane import DATA_PLANE_ACCOUNT, ROLE_ARN
from devstack.docker_bridge import reachable_from_containers
from devstack.host import PROJECT, free_port
from devstack.loopback import Answer
from devstack.playground_commands import ARCHITECTURE, DEFAULT_PORT, prepare, steps

HOSTILE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_CA_BUNDLE": "/missing",
    "AWS_CONFIG_FILE": "/missing",
    "AWS_DEFAULT_OUTPUT": "text",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_ECR": "http://127.0.0.1:1",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_MAX_ATTEMPTS": "9",
    "AWS_PROFILE": "missing",
    "AWS_REGION": "eu-west-1",
    "AWS_SESSION_TOKEN": "token",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "ALL_PROXY": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "NO_PROXY": "example.com",
    "all_proxy": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "no_proxy": "example.com",
}


class TestCleanEnvironment:
    @pytest.fixture(autouse=True)
    def hostile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in HOSTILE_ENVIRONMENT.items():
            monkeypatch.setenv(name, value)

    def test_has_no_setting_of_the_sdk_and_no_proxy(self) -> None:
        environment = clean_environment()

        kept = {name for name in environment if name.startswith("AWS_") or name.upper().endswith("_PROXY")}
        assert {name: environment[name] for name in kept} == {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "PIP_PROXY": "http://127.0.0.1:1",
        }

    def test_keeps_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_PROXY", "http://127.0.0.1:2")

        environment = clean_environment()

        assert environment["PATH"] == os.environ["PATH"]
        assert environment["PIP_PROXY"] == "http://127.0.0.1:2"


def test_tests_do_not_depend_on_the_environment_of_the_person_who_runs_them() -> None:
    other = {
        "WORKER_ROLE_ARNS": "x",
        "MODE": "remove",
        "REPOSITORIES": "x",
        "FORCE_COLOR": "1",
        "COLUMNS": "20",
    }
    tests = ("test_cli_credentials.py::TestPlan", "test_cli_input.py::TestColors")

    completed = subprocess.run(  # noqa: S603 - the project's tests
        [sys.executable, "-m", "pytest", "-q", *(f"tests/unit/{test}" for test in tests)],
        cwd=PROJECT, env=os.environ | HOSTILE_ENVIRONMENT | other,
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert completed.returncode == 0, completed.stdout
    assert "7 passed" in completed.stdout


class TestEvent:
    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("created-by-api", "event CreateRepository team/app"),
            ("created-by-service", "event CreateRepository docker-hub/library/alpine by ECR itself"),
            (
                "creation-failed",
                "event CreateRepository team/app failed: RepositoryAlreadyExistsException",
            ),
            ("policy-set", "event SetRepositoryPolicy team/app"),
            ("policy-deleted", "event DeleteRepositoryPolicy team/app"),
            ("image-pushed", "event ECR Image Action team/app"),
            ("image-cached", "event ECR Pull Through Cache Action ecr-public/docker/library/alpine"),
            ("image-replicated", "event ECR Replication Action team/app"),
            ("deployed", "event Stack ecr-allow-pull UPDATE_COMPLETE"),
        ],
    )
    def test_is_one_line_that_names_the_repository(
        self, saved_event: Callable[[str], dict[str, Any]], name: str, line: str
    ) -> None:
        assert shown(event_line(saved_event(name), "function")) == line

    def test_of_the_function_itself_is_dim(self, saved_event: Callable[[str], dict[str, Any]]) -> None:
        event: Any = saved_event("policy-set")
        event["detail"]["userIdentity"]["arn"] = "arn:aws:sts::012345678912:assumed-role/role/ecr-allow-pull"

        own, other = event_line(event, "ecr-allow-pull"), event_line(event, "another-function")

        assert shown(own) == "event SetRepositoryPolicy team/app by the function itself: not delivered to it"
        assert shown(other) == "event SetRepositoryPolicy team/app"
        assert (style(own), style(other)) == ("dim", "cyan")

    def test_of_another_stack_is_not_shown(self, saved_event: Callable[[str], dict[str, Any]]) -> None:
        event: Any = saved_event("deployed")
        event["detail"]["stack-id"] = "arn:aws:cloudformation:us-east-1:012345678912:stack/other/1"

        assert event_line(event, "function") is None


class Log:
    """A function's log. A line may appear in it later than its time says."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def filter_log_events(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - as the SDK's
        assert request["logGroupName"] == f"/aws/lambda/{STACK}"
        return {"events": [each for each in self.events if each["timestamp"] >= request["startTime"]]}

    def add(self, repository: str, milliseconds: int) -> None:
        record = {"level": "INFO", "message": "reconciled", "outcome": "attached", "repository": repository}
        self.events.append({"timestamp": milliseconds, "message": json.dumps(record)})


class TestActivity:
    @pytest.fixture
    def log(self) -> Log:
        return Log()

    @pytest.fixture
    def activity(self, log: Log) -> Activity:
        sqs = SimpleNamespace(create_queue=lambda **_: {"QueueUrl": "url"}, receive_message=lambda **_: {})
        events = SimpleNamespace(put_rule=lambda **_: None, put_targets=lambda **_: None)
        aws = SimpleNamespace(logs=lambda: log, sqs=lambda: sqs, events=lambda: events)
        return Activity(cast("LocalAws", aws), "function")

    def test_shows_each_result_once_also_one_that_appears_late_in_the_log(
        self, log: Log, activity: Activity
    ) -> None:
        now = 1_700_000_000_000
        log.add("team/first", now)
        assert [shown(line).split()[2] for line in activity.poll()] == ["team/first"]
        assert list(activity.poll()) == []

        log.add("team/second", now + 1)
        log.add("team/late", now - 59_000)

        assert [shown(line).split()[2] for line in activity.poll()] == ["team/second", "team/late"]

    def test_reads_only_the_end_of_the_log_again(self, log: Log, activity: Activity) -> None:
        now = 1_700_000_000_000
        log.add("team/first", now)
        list(activity.poll())

        log.add("team/of-another-day", now - 86_400_000)

        assert list(activity.poll()) == []


class TestLogLine:
    @pytest.mark.parametrize(
        ("record", "line", "color"),
        [
            (
                {"outcome": "attached", "added": {"AllowPull": [ROLE_ARN]}},
                f"result attached team/app + AllowPull {ROLE_ARN}",
                "green",
            ),
            (
                {"outcome": "removed", "removed": {"AllowPull": ["AROA1"]}, "level": "WARNING"},
                "result removed team/app - AllowPull AROA1",
                "yellow",
            ),
            (
                {"outcome": "unchanged", "denied_by": [{"statement": "NoPulls"}]},
                "result unchanged team/app denied by NoPulls",
                "green",
            ),
            (
                {"outcome": "failed", "reason": "too long", "level": "ERROR"},
                "result failed team/app too long",
                "bold red",
            ),
        ],
        ids=lambda value: value.get("outcome", "") if isinstance(value, dict) else "",
    )
    def test_of_a_result_says_what_changed_and_why_not(
        self, record: dict[str, Any], line: str, color: str
    ) -> None:
        shown_line = log_line({"level": "INFO", "message": "reconciled", "repository": "team/app"} | record)

        assert shown(shown_line) == line
        assert style(shown_line) == color

    def test_of_a_report_has_the_counts(self) -> None:
        report = {
            "level": "INFO",
            "message": "report",
            "checked": 3,
            "outcomes": {"attached": 1, "unchanged": 2},
        }

        assert shown(log_line(report)) == "report 3 checked 1 attached, 2 unchanged"
        ignored = report | {"checked": 0, "outcomes": {}, "ignored": "a failed call"}
        assert shown(log_line(ignored)) == "report 0 checked ignored: a failed call"

    def test_of_another_error_has_its_fields(self) -> None:
        line = log_line({"level": "ERROR", "message": "invalid input", "reason": "no name", "service": "x"})

        assert shown(line) == 'log invalid input {"reason": "no name"}'
        assert style(line) == "bold red"

    def test_of_metrics_is_not_shown(self) -> None:
        assert log_line({"_aws": {}}) is None


def shown(line: Text | None) -> str:
    assert line
    return " ".join(line.plain.split()[1:])  # without the time


def style(line: Text | None) -> str:
    assert line
    return str(line.spans[-1].style)


class TestPlaygroundCommands:
    @pytest.fixture
    def aws(self, tmp_path: Path) -> LocalAws:
        (tmp_path / "build").mkdir()
        (tmp_path / "build/template.yaml").write_text((PROJECT / "template.yaml").read_text())
        aws = at_port(4999, tmp_path)
        prepare(aws)
        return aws

    def test_name_only_files_that_exist(self, aws: LocalAws) -> None:
        commands = "\n".join(
            command for step in steps(aws, docker=True, sweep="") for command in step.commands
        )
        words = {word.removeprefix("file://") for word in commands.replace("=", " ").split()}
        files = {word for word in words if word.startswith((str(aws.folder), "events/"))}

        assert len(files) > 5
        assert {file for file in files if not (PROJECT / file).exists()} == set()

    def test_run_the_function_in_docker_against_this_playground(self, aws: LocalAws) -> None:
        template = json.loads((aws.folder / "build/local.yaml").read_text())
        function = template["Resources"]["Function"]["Properties"]
        variables = json.loads((aws.folder / "playground.json").read_text())["Function"]

        assert function["Architectures"] == [ARCHITECTURE]
        # `sam local invoke` sets only the variables that the template has.
        assert variables.keys() <= function["Environment"]["Variables"].keys()
        assert variables["AWS_ENDPOINT_URL"] == "http://host.docker.internal:4999"

    def test_on_the_default_port_use_the_saved_environment(self, tmp_path: Path) -> None:
        aws = at_port(DEFAULT_PORT, tmp_path)
        saved = json.loads((PROJECT / "events/playground.json").read_text())["Function"]

        assert "--env-vars events/playground.json" in steps(aws, docker=True, sweep="")[-1].commands[1]
        assert saved["AWS_ENDPOINT_URL"] == f"http://host.docker.internal:{DEFAULT_PORT}"

    def test_reach_the_playground_and_its_containers_without_a_proxy_and_its_aws_cli_before_others(
        self, aws: LocalAws
    ) -> None:
        prepared = "\n".join(steps(aws, docker=True, sweep="")[0].commands)

        printed = subprocess.run(  # noqa: S603 - what the playground prints
            ["/bin/sh", "-c", f'{prepared}\necho "$NO_PROXY $no_proxy $(command -v aws)"'],
            env={"NO_PROXY": "example.com", "HTTP_PROXY": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip

        assert printed == ["127.0.0.1,localhost", "127.0.0.1,localhost", str(aws.folder / "bin/aws")]

    def test_need_no_docker_where_there_is_none(self, aws: LocalAws) -> None:
        with_docker, without = (steps(aws, docker=docker, sweep="") for docker in (True, False))

        assert with_docker[:-1] == without
        assert all("sam local" not in command for step in without for command in step.commands)

    def test_have_a_profile_for_each_account(self, aws: LocalAws) -> None:
        configuration = (aws.folder / "config").read_text()

        assert f"[profile registry]\naws_access_key_id = {ACCOUNT}\n" in configuration
        assert f"[profile data-plane]\naws_access_key_id = {DATA_PLANE_ACCOUNT}\n" in configuration

    def test_run_version_1_of_the_aws_cli_with_options_of_version_2(self, aws: LocalAws) -> None:
        program = aws.folder / "bin/aws"
        installed = str(PROJECT / ".tools/awscli/bin/aws")
        assert installed in program.read_text()
        program.write_text(program.read_text().replace(installed, "printf '%s\\n'"))

        printed = subprocess.run(  # noqa: S603 - what the playground wrote
            [program, "lambda", "invoke", "--cli-binary-format", "raw-in-base64-out", "--payload", "a b"],
            env={"AWS_ENDPOINT_URL": "http://127.0.0.1:4999", "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip

        assert printed == ["--endpoint-url", "http://127.0.0.1:4999", "lambda", "invoke", "--payload", "a b"]


def post(url: str, body: bytes, **headers: str) -> tuple[int, str, bytes]:
    """Return the status, the content type and the content of the response."""
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


class TestLoopbackServer:
    def test_sends_the_answer_to_a_request_and_stops_with_the_block(self) -> None:
        with loopback.serving(lambda headers, body: Answer(418, headers["Kind"], body[::-1])) as url:
            assert url.startswith("http://127.0.0.1:")
            assert post(url, b"abc", Kind="text/x") == (418, "text/x", b"cba")
        with pytest.raises(urllib.error.URLError, match="refused"):
            post(url, b"abc")

    def test_breaks_the_connection_without_an_answer(self) -> None:
        with loopback.serving(lambda *_: None) as url, pytest.raises(RemoteDisconnected):
            post(url, b"abc")


class TestDockerBridge:
    @staticmethod
    def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        """Put a `docker` on PATH."""
        program = folder / "docker"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    @pytest.mark.skipif(sys.platform != "linux", reason="uses a second loopback address")
    @pytest.mark.parametrize(
        "configuration",
        [{"Subnet": "127.9.0.0/16", "Gateway": "127.9.0.1"}, {"Subnet": "127.9.0.0/16"}],
        ids=["with its gateway", "before the first container"],
    )
    def test_forwards_the_port_until_the_block_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: dict[str, str]
    ) -> None:
        self.docker(tmp_path, monkeypatch, f"echo '{json.dumps([configuration])}'")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,127.9.0.1")
        content = b"x" * 200_000 + b"y"
        with loopback.serving(lambda _, body: Answer(200, "text/plain", body[::-1])) as url:
            forwarded = url.replace("127.0.0.1", "127.9.0.1")
            with reachable_from_containers(int(url.rpartition(":")[2])) as reachable:
                assert reachable
                assert post(forwarded, content) == (200, "text/plain", content[::-1])
            with pytest.raises(urllib.error.URLError, match="refused"):
                post(forwarded, content)

    @pytest.mark.skipif(sys.platform != "linux", reason="uses a second loopback address")
    def test_whose_port_another_program_uses_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.docker(tmp_path, monkeypatch, 'echo \'[{"Subnet": "127.9.0.0/16"}]\'')
        with socket.create_server(("127.9.0.1", 0)) as other:
            port = other.getsockname()[1]

            with pytest.raises(OSError, match="in use"), reachable_from_containers(port):
                pass

    def test_of_docker_desktop_needs_no_forwarding(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The address of the bridge is in Docker's virtual machine, not on this one."""
        self.docker(tmp_path, monkeypatch, 'echo \'[{"Subnet": "192.0.2.0/24"}]\'')

        with reachable_from_containers(free_port()) as reachable:
            assert reachable

    @pytest.mark.parametrize("script", ["exit 1", "exec /missing"])
    def test_is_not_there_if_docker_does_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
    ) -> None:
        self.docker(tmp_path, monkeypatch, script)

        with reachable_from_containers(free_port()) as reachable:
            assert not reachable
