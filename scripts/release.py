"""Makes dist/, the files of a release: `make release`.

The files depend only on the commit and on the patch version of Python 3.13, which compiles the bytecode.
There is one package for both architectures: it contains Python modules only. A template can't choose a
local file by a parameter, so a dependency with compiled modules stops the release.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from devstack.host import PROJECT
from devstack.target import SamError, sam
from scripts.bill_of_materials import bill_of_materials
from scripts.version import VersionError, read_version

DIST = PROJECT / "dist"
CHECKSUMS = "SHA256SUMS"
# The template names the license and the readme, and samconfig.toml has the options of `sam deploy`.
_COPIED = ("LICENSE", "README.md", "samconfig.toml")
_COMPILED = {".dll", ".dylib", ".pyd", ".so"}
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can store
_UNIX = 3
_READABLE_FILE = 0o100644 << 16  # Lambda's user must be able to read the files
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\(((?!https:)[^)]*)\)")


class ReleaseError(Exception):
    """The release can't be made; the message says why."""


def main() -> int:
    """Make the release, and return the exit code."""
    parser = argparse.ArgumentParser(prog="release", description="Makes the files of a release in dist/.")
    parser.add_argument("--tag", help="refuse if the project doesn't have the version of this tag")
    try:
        release(parser.parse_args().tag)
    except (ReleaseError, VersionError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the script's output
        return 1
    for path in sorted(DIST.iterdir()):
        print(path.relative_to(PROJECT))  # noqa: T201 - the script's output
    return 0


def release(tag: str | None = None) -> None:
    """Replace dist/ by the files of a release.

    Raises:
        VersionError: the files of the project, or the tag, have different versions.
        ReleaseError: the build failed, or the package contains compiled modules.
    """
    version = read_version(PROJECT, tag)
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    package = DIST / f"ecr-allow-pull-{version}.zip"
    with tempfile.TemporaryDirectory() as folder:
        write_package(_build(Path(folder)), package)
    template = (PROJECT / "template.yaml").read_text()
    (DIST / "template.yaml").write_text(template_for(template, package.name))
    lock_file = (PROJECT / "src/requirements.txt").read_text()
    bill = bill_of_materials(lock_file, version, _sha256(package))
    (DIST / f"ecr-allow-pull-{version}.cdx.json").write_text(json.dumps(bill, indent=2) + "\n")
    (DIST / "NOTES.md").write_text(notes((PROJECT / "CHANGELOG.md").read_text(), version))
    for name in _COPIED:
        shutil.copyfile(PROJECT / name, DIST / name)
    (DIST / CHECKSUMS).write_text(checksums(DIST))


def write_package(folder: Path, package: Path) -> None:
    """Write a folder to a zip whose bytes depend only on the names and the contents of the files.

    The zip isn't compressed: different versions of zlib compress to different bytes.

    Raises:
        ReleaseError: the folder contains compiled modules, which run on one architecture only.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if compiled := [name for name in names if _COMPILED & {*Path(name).suffixes}]:
        raise ReleaseError(f"Compiled modules need a package for each architecture: {', '.join(compiled)}")
    with ZipFile(package, "w") as archive:
        for name in names:
            entry = ZipInfo(name, _EARLIEST)
            entry.create_system = _UNIX
            entry.external_attr = _READABLE_FILE
            archive.writestr(entry, (folder / name).read_bytes())


def template_for(template: str, package: str) -> str:
    """Return a template that deploys a package next to it, without a build.

    Raises:
        ReleaseError: the template doesn't contain what has to be replaced.
    """
    changes = {
        "      CodeUri: src/\n": f"      CodeUri: {package}\n",
        "      BuildMethod: makefile # src/Makefile\n": "",
    }
    for text, replacement in changes.items():
        if template.count(text) != 1:
            raise ReleaseError(f"template.yaml must contain this line once: {text.strip()}")
        template = template.replace(text, replacement)
    return template


def notes(changelog: str, version: str) -> str:
    """Return the changelog's section of a version. A release page can't resolve relative links."""
    section = changelog.partition(f"\n## {version} (")[2].partition("\n")[2].partition("\n## ")[0]
    return _RELATIVE_LINK.sub(r"\1 (\2)", section).strip() + "\n"


def checksums(folder: Path) -> str:
    """Return the checksums of all files of a folder, in the format of `sha256sum`."""
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))


def _build(folder: Path) -> Path:
    """Build the package with `sam build`, and return its folder."""
    try:
        sam(["build", "--build-dir", str(folder)], os.environ)
    except SamError as error:
        raise ReleaseError(str(error)) from None
    return folder / "Function"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
