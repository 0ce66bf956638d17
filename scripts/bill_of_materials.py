"""Generates the bill of materials of a release, in CycloneDX's JSON format, from the function's lock file."""

import re
from typing import Any

_PINNED = re.compile(r"^([a-z0-9-]+)==(\S+)((?:.*\\\n)*.*)$", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of_materials(lock_file: str, version: str, package_sha256: str) -> dict[str, Any]:
    """Return the bill of materials of a package.

    It has no serial number and no time, which are optional: the same commit always gives the same bill.
    Format: https://cyclonedx.org/docs/1.6/json/

    Args:
        lock_file: pinned requirements with hashes, in pip's format.
        version: the version of the package.
        package_sha256: the checksum of the package.
    """
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "ecr-allow-pull",
                "name": "ecr-allow-pull",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": _hashes(package_sha256),
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{name}@{pinned}",
                "name": name,
                "version": pinned,
                "purl": f"pkg:pypi/{name}@{pinned}",
                # One for each file of this version that pip accepts.
                "hashes": _hashes(*_HASH.findall(rest)),
            }
            for name, pinned, rest in _PINNED.findall(lock_file)
        ],
    }


def _hashes(*sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": each} for each in sha256]
