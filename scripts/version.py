"""Reads the project's version from pyproject.toml, and checks that all other places have the same."""

import re
import tomllib
from pathlib import Path

from samtranslator.yaml_helper import yaml_parse

_BADGE = re.compile(r"\[!\[Version (\S+)\]\(https://img\.shields\.io/badge/version-([^-]+)-")
_SECTION = re.compile(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", re.MULTILINE)


class VersionError(Exception):
    """The places have different versions; the message names the wrong ones."""


def read_version(project: Path, tag: str | None = None) -> str:
    """Return the version of the project.

    Args:
        project: the folder of the project.
        tag: the tag of the release, or None for no release.

    Raises:
        VersionError: a place has another version, or none.
    """
    version: str = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    template = yaml_parse((project / "template.yaml").read_text())
    badge = _BADGE.search((project / "README.md").read_text())
    section = _SECTION.search((project / "CHANGELOG.md").read_text())
    application = template["Metadata"]["AWS::ServerlessRepo::Application"]
    found = {
        "template.yaml, SemanticVersion": application["SemanticVersion"],
        "template.yaml, output Version": template["Outputs"]["Version"]["Value"],
        "README.md, text of the badge": badge and badge[1],
        "README.md, image of the badge": badge and badge[2],
        "CHANGELOG.md, first section": section and section[1],
    }
    expected = dict.fromkeys(found, version)
    if tag is not None:
        found["tag"], expected["tag"] = tag, f"v{version}"
    wrong = [
        f"  {place}: {found[place] or 'none'}, expected {expected[place]}"
        for place in found
        if found[place] != expected[place]
    ]
    if wrong:
        raise VersionError("\n".join([f"pyproject.toml has the version {version}. Others differ:", *wrong]))
    return version
