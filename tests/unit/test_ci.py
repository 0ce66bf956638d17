"""The checks that run for each change: the CI workflow, `.ci/run`, the git hooks and the make targets."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from tests.environment import DOCKER_REQUIRED
from tests.unit.test_docs import make_targets

WORKFLOWS = sorted(PROJECT.glob(".github/workflows/*.y*ml"))
FOLDERS = (".ci", ".github", "bench", "cli", "devstack", "docs", "requirements", "scripts", "src", "tests")
TEXTS = [
    path
    for pattern in ("*", *(f"{folder}/**/*" for folder in FOLDERS))
    for path in PROJECT.glob(pattern)
    if path.is_file() and path.suffix in {"", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
]


TESTS, RELEASE = (PROJECT / ".github/workflows" / f"{name}.yml" for name in ("test", "release"))


def load(path: Path) -> dict[Any, Any]:
    """Read YAML, in which the key `on` means true."""
    loaded: dict[Any, Any] = yaml_parse(path.read_text())
    return loaded


def commands_of(target: str, *variables: str) -> list[str]:
    """Return the commands that `make` runs for a target, one a line."""
    command = ["make", "--dry-run", target, *variables]
    text = subprocess.run(  # noqa: S603 - the project's Makefile
        command, cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    return text.replace("\\\n", " ").splitlines()


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in load(workflow)["jobs"].values() for step in job["steps"]]


def commands(workflow: Path) -> list[str]:
    return [step["run"] for step in steps(workflow) if "run" in step]


def test_the_workflows_are_the_tests_and_the_release() -> None:
    assert {*WORKFLOWS} == {TESTS, RELEASE}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
class TestEachWorkflow:
    def test_fails_if_a_step_fails(self, workflow: Path) -> None:
        jobs = load(workflow)["jobs"].values()

        assert jobs
        for each in (*jobs, *steps(workflow)):
            assert not {"if", "continue-on-error"} & each.keys()
        assert all(job["timeout-minutes"] <= 20 for job in jobs)

    def test_can_only_read_by_default_and_keeps_no_credentials(self, workflow: Path) -> None:
        checkouts = [step["with"] for step in steps(workflow) if "actions/checkout" in step.get("uses", "")]

        assert load(workflow)["permissions"] == {"contents": "read"}
        assert "secrets" not in workflow.read_text()
        assert checkouts == [{"persist-credentials": False}] * 2

    def test_pins_each_action_to_one_commit_with_its_version(self, workflow: Path) -> None:
        used = re.findall(r"uses: *(.*)", workflow.read_text())
        pinned = [re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", each) for each in used]

        assert used
        assert all(pinned), used
        assert len({each[1] for each in pinned if each}) == len({*used})

    def test_uses_the_python_of_the_project(self, workflow: Path) -> None:
        setups = [step["with"] for step in steps(workflow) if "setup-python" in step.get("uses", "")]

        assert setups == [{"python-version-file": ".python-version"}] * 2

    def test_fails_if_the_tests_that_need_docker_are_skipped(self, workflow: Path) -> None:
        (tests,) = (step for step in steps(workflow) if step.get("run") == ".ci/run")

        assert tests["env"] == {DOCKER_REQUIRED: "1"}


class TestTheWorkflowOfTheTests:
    def test_runs_what_contributing_says(self) -> None:
        says = "CI runs `make test` (`.ci/run`) and `make audit`."
        assert says in " ".join((PROJECT / "CONTRIBUTING.md").read_text().split())

        assert commands(TESTS) == [".ci/run", "make audit"]

    def test_runs_for_each_change_of_main_for_each_pull_request_and_every_week(self) -> None:
        triggers = load(TESTS)[True]
        (weekly,) = triggers.pop("schedule")

        assert triggers == {"push": {"branches": ["main"]}, "pull_request": None}
        assert re.fullmatch(r"\d+ \d+ \* \* \d", weekly["cron"])

    def test_stops_only_an_older_run_of_the_same_branch(self) -> None:
        assert load(TESTS)["concurrency"]["group"] == "${{ github.workflow }}-${{ github.ref }}"

    def test_only_reads(self) -> None:
        assert all("permissions" not in job for job in load(TESTS)["jobs"].values())


class TestTheWorkflowOfTheRelease:
    def test_runs_for_each_tag_of_a_version(self) -> None:
        assert load(RELEASE)[True] == {"push": {"tags": ["v*"]}}

    def test_releases_only_after_the_tests_what_make_release_builds(self) -> None:
        jobs = load(RELEASE)["jobs"]

        assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == [".ci/run"]
        assert jobs["release"]["needs"] == "test"
        assert [step["run"] for step in jobs["release"]["steps"] if "run" in step] == [
            'make release TAG="$GITHUB_REF_NAME"',
            'gh release create "$GITHUB_REF_NAME" dist/* --notes-file dist/NOTES.md --verify-tag',
        ]

    def test_writes_only_the_release(self) -> None:
        jobs = load(RELEASE)["jobs"]

        assert "permissions" not in jobs["test"]
        assert jobs["release"]["permissions"] == {"contents": "write"}


@pytest.mark.parametrize("exit_code", [0, 2])
def test_the_script_of_the_ci_runs_all_tests_and_fails_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int
) -> None:
    (tmp_path / ".ci").mkdir()
    script = shutil.copy2(PROJECT / ".ci/run", tmp_path / ".ci/run")
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\necho "$PWD $*"\nexit {exit_code}\n')
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{make.parent}:/usr/bin:/bin")

    completed = subprocess.run([script], cwd="/", capture_output=True, text=True, check=False)  # noqa: S603

    assert completed.stdout == f"{tmp_path} test\n"
    assert completed.returncode == exit_code


class TestMakeTarget:
    def test_that_a_file_names_exists(self) -> None:
        named = {
            (target, path.name)
            for path in TEXTS
            for target in re.findall(
                r"(?:`|^|^\$ |^#    |=\w+ |run: )make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE
            )
        }

        rules = re.findall(r"^([a-z][a-z0-9 -]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        targets = {target for rule in rules for target in rule.split()}

        assert {("test", "run"), ("audit", "test.yml"), ("lock", "requirements.txt")} <= named
        assert {(target, name) for target, name in named if target not in targets} == set()

    @pytest.mark.parametrize(("exists", "option"), [(False, "--clear"), (True, "--allow-existing")])
    def test_that_installs_replaces_an_unfinished_environment_and_keeps_one_in_use(
        self, tmp_path: Path, *, exists: bool, option: str
    ) -> None:
        (tmp_path / "dev").mkdir()
        if exists:
            (tmp_path / "dev/.ready").touch()
            os.utime(tmp_path / "dev/.ready", (0, 0))

        (create,) = [each for each in commands_of("dev", f"TOOLS={tmp_path}") if " venv " in each]

        assert option in create.split()
        assert len({"--clear", "--allow-existing"} & set(create.split())) == 1

    def test_test_runs_every_check_and_all_tests(self) -> None:
        expected = (
            "ruff format --check", "ruff check", "mypy", "sam validate --lint",
            "pytest .* tests/unit", "pytest .* tests/e2e",
        )  # fmt: skip
        commands = commands_of("test")

        found = [sum(bool(re.search(rf"\b{each}$", command)) for command in commands) for each in expected]

        assert found == [1] * len(expected)

    def test_lock_takes_the_versions_that_ship_for_the_tests_and_those_of_the_tests_for_the_mutants(
        self,
    ) -> None:
        compiled = {
            Path(command.split(" -o ")[1]).stem: re.findall(r" -c (\S+)", command)
            for command in commands_of("lock")
            if " pip compile " in command
        }

        assert {name: files for name, files in compiled.items() if files} == {
            "dev": ["src/requirements.txt"],
            "rigor": ["requirements/dev.txt"],
        }

    def test_audit_runs_the_checks_that_contributing_lists(self) -> None:
        expected = (
            "scripts.check_template",
            "checkov --file template.yaml",
            "pip-audit",
            "scripts.check_links",
        )
        commands = commands_of("audit")

        assert all(any(each in command for command in commands) for each in expected)
        assert "--exit-zero" not in str(commands)

    @pytest.mark.parametrize("target", sorted(make_targets()))
    def test_ignores_no_failure(self, target: str) -> None:
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", (PROJECT / "Makefile").read_text(), re.MULTILINE)

        assert recipe
        assert not re.search(r"^\t@?-|\|\| true", recipe[1], re.MULTILINE)


class TestHooks:
    HOOKS = load(PROJECT / ".pre-commit-config.yaml")["repos"][0]["hooks"]

    def test_check_format_lint_types_and_docs_with_the_locked_tools(self) -> None:
        entries = [hook["entry"].split() for hook in self.HOOKS]

        assert len(load(PROJECT / ".pre-commit-config.yaml")["repos"]) == 1
        assert [entry[:2] for entry in entries] == [
            [".tools/dev/bin/ruff", "format"],
            [".tools/dev/bin/ruff", "check"],
            [".tools/dev/bin/mypy"],
            [".tools/dev/bin/pytest", "-q"],
        ]
        assert all(hook["language"] == "system" and "stages" not in hook for hook in self.HOOKS)
        assert "--exit-non-zero-on-fix" in entries[1]
        assert commands_of("hooks")[-1].endswith("pre-commit install")

    def test_run_for_the_files_that_they_check(self) -> None:
        *python, docs = self.HOOKS
        checked = (
            "README.md", "docs/operations.md", "template.yaml", "pyproject.toml", "requirements/dev.txt",
            "Makefile", "src/Makefile", ".ci/run", ".github/workflows/test.yml", ".pre-commit-config.yaml",
        )  # fmt: skip

        assert all(hook["types"] == ["python"] for hook in python)
        assert all((PROJECT / name).exists() and re.search(docs["files"], name) for name in checked)
        assert not re.search(docs["files"], "src/handler/app.py")
        tests = docs["entry"].split()[2:]
        assert {Path(test).name for test in tests} == {
            "test_ci.py", "test_docs.py", "test_docs_numbers.py", "test_project.py", "test_template.py"
        }  # fmt: skip
        assert all((PROJECT / test).exists() for test in tests)
