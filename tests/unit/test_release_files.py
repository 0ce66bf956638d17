"""The files of a release: the package, its template, the notes, the checksums and the bill of materials."""

import hashlib
import re
import stat
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import pytest
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT
from scripts.bill_of_materials import bill_of_materials
from scripts.release import ReleaseError, checksums, notes, template_for, write_package
from scripts.version import read_version

NAMES = ["a.py", "b/__pycache__/c.pyc", "b/c.py", "b_c.py", "d.dist-info/METADATA", "z/a.py"]


def folder_with(parent: Path, names: list[str], *, mode: int = 0o644) -> Path:
    for name in names:
        path = parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(mode)
    return parent


def test_equal_files_give_equal_packages_whatever_their_order_times_and_modes(tmp_path: Path) -> None:
    first = folder_with(tmp_path / "first", NAMES)
    second = folder_with(tmp_path / "second", NAMES[::-1], mode=0o600)
    (second / "empty").mkdir()

    write_package(first, tmp_path / "first.zip")
    write_package(second, tmp_path / "second.zip")

    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_the_package_contains_each_file_in_a_fixed_order_readable_by_all_users(tmp_path: Path) -> None:
    write_package(folder_with(tmp_path / "folder", NAMES, mode=0o600), tmp_path / "package.zip")

    with ZipFile(tmp_path / "package.zip") as package:
        entries = package.infolist()
        assert {name: package.read(name).decode() for name in package.namelist()} == {
            name: f"content of {name}" for name in NAMES
        }
    assert [entry.filename for entry in entries] == sorted(NAMES)
    assert {stat.filemode(entry.external_attr >> 16) for entry in entries} == {"-rw-r--r--"}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {ZIP_STORED}


def test_other_contents_give_another_package(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "folder", NAMES)
    write_package(folder, tmp_path / "first.zip")
    (folder / NAMES[0]).write_text("changed")
    write_package(folder, tmp_path / "second.zip")

    assert (tmp_path / "first.zip").read_bytes() != (tmp_path / "second.zip").read_bytes()


@pytest.mark.parametrize("name", ["lib/_speed.cpython-313-x86_64-linux-gnu.so", "lib/a.so.1", "a.pyd"])
def test_compiled_modules_are_refused_because_they_run_on_one_architecture(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path / "folder", [*NAMES, name])

    with pytest.raises(ReleaseError, match=f"a package for each architecture: {name}$"):
        write_package(folder, tmp_path / "package.zip")


def test_the_released_template_differs_only_in_the_code_and_needs_no_build() -> None:
    text = (PROJECT / "template.yaml").read_text()
    expected = yaml_parse(text)
    del expected["Resources"]["Function"]["Metadata"]["BuildMethod"]
    expected["Resources"]["Function"]["Properties"]["CodeUri"] = "package.zip"

    assert yaml_parse(template_for(text, "package.zip")) == expected


@pytest.mark.parametrize("missing", ["CodeUri: src/", "BuildMethod: makefile"])
def test_a_template_without_the_code_or_the_build_method_is_refused(missing: str) -> None:
    text = (PROJECT / "template.yaml").read_text().replace(missing, "Other: 1")

    with pytest.raises(ReleaseError, match=missing):
        template_for(text, "package.zip")


CHANGELOG = """# Changelog

Introduction.

## 1.10.0 (2026-03-01)

### Added

- A [thing](docs/thing.md#thing), by the [standard](https://example.com/a).

## 1.1.0 (2026-02-01)

- The first thing.
"""


def test_the_notes_are_the_section_of_the_version_with_the_paths_of_relative_links() -> None:
    assert notes(CHANGELOG, "1.10.0") == (
        "### Added\n\n- A thing (docs/thing.md#thing), by the [standard](https://example.com/a).\n"
    )


def test_the_notes_of_the_last_section_end_with_the_changelog() -> None:
    assert notes(CHANGELOG, "1.1.0") == "- The first thing.\n"


def test_the_changelog_has_notes_for_the_current_version() -> None:
    assert len(notes((PROJECT / "CHANGELOG.md").read_text(), read_version(PROJECT)).splitlines()) > 1


def test_there_is_a_checksum_for_each_file(tmp_path: Path) -> None:
    folder_with(tmp_path, ["b", "a"])
    a, b = (hashlib.sha256(f"content of {name}".encode()).hexdigest() for name in "ab")

    assert checksums(tmp_path) == f"{a}  a\n{b}  b\n"


def test_the_bill_of_materials_has_the_version_and_the_hashes_of_each_locked_package() -> None:
    lock_file = f"""# generated
first-package==1.2.3 \\
    --hash=sha256:{64 * "a"} \\
    --hash=sha256:{64 * "b"}
    # via second
second==4.5 ; python_version < '4' \\
    --hash=sha256:{64 * "c"}
"""

    bill = bill_of_materials(lock_file, "9.9.9", 64 * "d")

    assert bill["components"] == [
        {
            "type": "library",
            "bom-ref": "pkg:pypi/first-package@1.2.3",
            "name": "first-package",
            "version": "1.2.3",
            "purl": "pkg:pypi/first-package@1.2.3",
            "hashes": [{"alg": "SHA-256", "content": 64 * each} for each in "ab"],
        },
        {
            "type": "library",
            "bom-ref": "pkg:pypi/second@4.5",
            "name": "second",
            "version": "4.5",
            "purl": "pkg:pypi/second@4.5",
            "hashes": [{"alg": "SHA-256", "content": 64 * "c"}],
        },
    ]


def test_the_bill_of_materials_names_the_package_by_version_and_checksum() -> None:
    component = bill_of_materials("", "9.9.9", 64 * "d")["metadata"]["component"]

    assert (component["name"], component["version"]) == ("ecr-allow-pull", "9.9.9")
    assert component["hashes"] == [{"alg": "SHA-256", "content": 64 * "d"}]


def test_the_bill_of_materials_lists_every_line_of_the_lock_file() -> None:
    lock_file = (PROJECT / "src/requirements.txt").read_text()
    pinned = [line.split()[0] for line in lock_file.splitlines() if re.match(r"\S+==", line)]

    components = bill_of_materials(lock_file, "1.0.0", "")["components"]

    assert [f"{each['name']}=={each['version']}" for each in components] == pinned
    assert sum(len(each["hashes"]) for each in components) == lock_file.count("sha256:")
