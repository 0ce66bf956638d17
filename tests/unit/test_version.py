"""The version: all places of the project have the same, and a release refuses any other."""

import re
import shutil
from pathlib import Path

import pytest

from devstack.host import PROJECT
from scripts.version import VersionError, read_version

FILES = ("pyproject.toml", "template.yaml", "README.md", "CHANGELOG.md")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the files that contain the version."""
    for name in FILES:
        shutil.copyfile(PROJECT / name, tmp_path / name)
    return tmp_path


def replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def test_all_places_have_the_same_version() -> None:
    version = read_version(PROJECT)

    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert read_version(PROJECT, tag=f"v{version}") == version


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "place"),
    [
        ("template.yaml", r"SemanticVersion: .*", "SemanticVersion: 9.9.9", "SemanticVersion: 9.9.9"),
        ("template.yaml", r"^    Value: [0-9.]+$", "    Value: 9.9.9", "output Version: 9.9.9"),
        ("README.md", r"\[!\[Version [0-9.]+", "[![Version 9.9.9", "text of the badge: 9.9.9"),
        ("README.md", r"badge/version-[0-9.]+", "badge/version-9.9.9", "image of the badge: 9.9.9"),
        ("README.md", r"^\[!\[Version .*\n", "", "text of the badge: none"),
        ("CHANGELOG.md", r"^## ", "## 9.9.9 (2026-01-31)\n\n## ", "first section: 9.9.9"),
        ("CHANGELOG.md", r"^(## [0-9.]+) \(.*", r"\1 (unreleased)", "first section: "),
    ],
)
def test_a_place_with_another_version_is_named(
    project: Path, file: str, pattern: str, replacement: str, place: str
) -> None:
    version = read_version(project)
    replace(project / file, pattern, replacement)

    with pytest.raises(VersionError, match=f"{file}, {place}.*, expected {version}"):
        read_version(project)


@pytest.mark.parametrize("tag", ["v9.9.9", "", "main", read_version(PROJECT)])
def test_a_tag_of_another_version_or_form_is_refused(tag: str) -> None:
    with pytest.raises(VersionError, match=f"  tag: {tag or 'none'}, expected v{read_version(PROJECT)}$"):
        read_version(PROJECT, tag)


def test_the_version_of_pyproject_counts(project: Path) -> None:
    replace(project / "pyproject.toml", r'^version = ".*"', 'version = "9.9.9"')

    with pytest.raises(VersionError) as error:
        read_version(project, "v9.9.9")

    assert str(error.value).splitlines()[0] == "pyproject.toml has the version 9.9.9. Others differ:"
    assert str(error.value).count("expected 9.9.9") == 5
    assert "tag" not in str(error.value)
