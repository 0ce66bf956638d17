"""The project structure: module imports, pinned dependencies, and the settings of the tools."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from devstack.playground_commands import DEFAULT_PORT
from tests.unit.cloudformation import deployed

PROJECT = Path(__file__).parent.parent.parent
HANDLER = PROJECT / "src/handler"

# The layers, from top to bottom, and the layers that each may import besides itself. Imports run one way.
LAYERS = {
    "app": {"report", "reconcile", "events", "settings", "ecr", "telemetry"},
    "report": {"reconcile", "events", "settings", "policy", "telemetry"},
    "reconcile": {"events", "settings", "policy", "ecr", "telemetry"},
    "events": {"policy"},
    "settings": {"policy"},
    "policy": set(),
    "ecr": set(),
    "telemetry": set(),
}
MODULES = sorted(path.relative_to(HANDLER).with_suffix("").as_posix() for path in HANDLER.rglob("*.py"))
EXTERNAL = {
    "app": {"aws_lambda_powertools"},
    "reconcile/continuation": {"boto3", "botocore"},
    "reconcile/creation_events": {"boto3", "botocore"},
    "telemetry": {"aws_lambda_powertools"},
    "ecr/errors": {"botocore"},
    "ecr/registry": {"boto3", "botocore", "mypy_boto3_ecr"},
}


def imports(module: str) -> set[str]:
    tree = ast.parse((HANDLER / f"{module}.py").read_text())
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }


def pins(lock_file: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Read the version and the hashes of each package."""
    text = (PROJECT / lock_file).read_text()
    return {
        match["name"]: (match["version"], frozenset(re.findall(r"sha256:[0-9a-f]{64}", match["rest"])))
        for match in re.finditer(
            r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<rest>(?:.*\\\n)*.*)$", text, re.MULTILINE
        )
    }


CLI = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "cli").rglob("*.py"))
PURE_CLI = [
    path
    for path in CLI
    if (ast.get_docstring(ast.parse((PROJECT / path).read_text())) or "").endswith("Pure.")
]


@pytest.mark.parametrize("path", CLI)
def test_a_file_of_the_command_line_has_one_purpose(path: str) -> None:
    text = (PROJECT / path).read_text()

    assert len(text.splitlines()) <= 230
    assert len((ast.get_docstring(ast.parse(text)) or "").splitlines()) == 1


@pytest.mark.parametrize("path", PURE_CLI)
def test_a_pure_file_of_the_command_line_knows_no_aws_sdk(path: str) -> None:
    tree = ast.parse((PROJECT / path).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not {name for name in imported if name.startswith(("boto", "cli.aws", "handler.ecr", "rich"))}


def test_the_decisions_of_the_command_line_are_pure() -> None:
    assert {
        "cli/access.py",
        "cli/diagnose/diagnosis.py",
        "cli/diagnose/policy_checks.py",
        "cli/diagnose/registry_checks.py",
        "cli/diagnose/role_checks.py",
        "cli/diagnose/simulation.py",
        "cli/plan/today.py",
        "cli/plan/trail.py",
    } <= {*PURE_CLI}


def layer(module: str) -> str:
    return module.split("/", maxsplit=1)[0]


def test_every_module_lies_in_a_layer_and_every_layer_has_a_module() -> None:
    assert {layer(module) for module in MODULES} == {*LAYERS, "__init__"}


def test_every_layer_says_what_is_in_it() -> None:
    folders = [module for module in MODULES if module.endswith("/__init__")]

    assert len(folders) == 5
    for module in folders:
        assert ast.get_docstring(ast.parse((HANDLER / f"{module}.py").read_text()))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("handler.")}

    assert ours - {layer(module)} <= LAYERS.get(layer(module), set())


@pytest.mark.parametrize("module", MODULES)
def test_only_the_listed_modules_import_external_packages(module: str) -> None:
    packages = {name.split(".")[0] for name in imports(module)} - {"handler", "__future__"}

    assert packages - sys.stdlib_module_names == EXTERNAL.get(module, set())


def test_packaged_dependencies_are_the_tested_versions_and_are_pinned_with_hashes() -> None:
    packaged, development = pins("src/requirements.txt"), pins("requirements/dev.txt")

    assert packaged
    assert packaged.items() <= development.items()
    assert all(hashes for _, hashes in packaged.values())


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of the packages that are installed for requirements on the runtime's Linux."""
    found: set[str] = set()
    pending = [*requirements]
    while pending:
        requirement = Requirement(pending.pop())
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and (
            requirement.name not in found
        ):
            found.add(requirement.name)
            pending += requires(requirement.name) or []
    return {name.replace("_", "-") for name in found}


def test_the_package_has_the_declared_dependencies_and_what_these_need_and_no_other() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    assert project["dependencies"]
    assert pins("src/requirements.txt").keys() == closure(project["dependencies"])


def test_every_file_names_the_same_version_of_python(processed_template: dict[str, Any]) -> None:
    (minimum,) = re.findall(
        r">=(\d\.\d+),", tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    makefiles = [(PROJECT / name).read_text() for name in ("Makefile", "src/Makefile")]

    assert deployed(processed_template)["Function"]["Runtime"] == f"python{minimum}"
    assert (PROJECT / ".python-version").read_text().strip() == minimum
    assert [
        {*re.findall(r"(?:python|Python |--python(?:-version)? |find )(3\.\d+)", text)} for text in makefiles
    ] == [{minimum}] * 2


@pytest.mark.parametrize(
    "group", ["dev", "sam", "emulator", "awscli", "audit", "rigor", "runtime", "custodian", "uv"]
)
def test_the_lock_files_satisfy_the_project_requirements(group: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    required = project["dependency-groups"][group] + (
        project["project"]["dependencies"] if group == "dev" else []
    )

    pinned = pins(f"requirements/{group}.txt")

    for requirement in filter(lambda each: isinstance(each, str), required):
        name, minimum = re.fullmatch(r"([a-z0-9-]+)(?:\[.*\])?>=([0-9.]+)", requirement).groups()  # type: ignore[union-attr]
        version, hashes = pinned[name]
        assert hashes
        assert [int(part) for part in version.split(".")] >= [int(part) for part in minimum.split(".")]


def test_boto3_is_not_packaged_because_the_runtime_includes_it() -> None:
    assert not {"boto3", "botocore"} & pins("src/requirements.txt").keys()


def test_sam_local_has_the_settings_of_the_template_and_reaches_the_playground_only(
    saved_event: Callable[[str], dict[str, object]], processed_template: dict[str, Any]
) -> None:
    """Without the endpoint, `sam local invoke` would write to the real registry."""
    variables = deployed(processed_template)["Function"]["Environment"]["Variables"]
    settings = {name: value for name, value in variables.items() if not name.startswith("POWERTOOLS_")}

    assert saved_event("playground") == {
        "Function": settings
        | {
            "AWS_ENDPOINT_URL": f"http://host.docker.internal:{DEFAULT_PORT}",
            "ROLE_NAME": "ecr-allow-pull-Role",
            "ROLE_CHECK_REPOSITORY": "ecr-allow-pull-role-check/playground",
            "CREATION_RULE": "ecr-allow-pull-created-playground",
        }
    }


def test_sam_deploy_asks_before_it_changes_anything() -> None:
    configuration = tomllib.loads((PROJECT / "samconfig.toml").read_text())

    assert configuration["default"]["deploy"]["parameters"] == {
        "capabilities": "CAPABILITY_IAM",
        "confirm_changeset": True,
        "fail_on_empty_changeset": False,
        "resolve_s3": True,
    }
