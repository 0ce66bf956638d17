"""The claims about AWS that the code relies on, each with the test that would notice if it is false."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "claims.toml"
NOT_YET = "not yet"
# Where a claim comes from. A source is one of these, or names a page of AWS after "AWS: ".
SOURCES = ("botocore model", "emulator", "users' reports", "not documented")


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: its name.
        claim: what AWS does, in a sentence.
        source: who says so.
        test: the test that would notice if the code did not cope, as pytest names it.
        fact: the name of a report's fact that shows whether it is true; a glob; empty if no run can show it.
        expected: what the fact must be: see `acceptance.compare.matches`.
        survives: `both` if the code also works if the claim is false.
        confirmed: `not yet`, or where and when a run confirmed it.
    """

    id: str
    claim: str
    source: str
    test: str
    fact: str = ""
    expected: Any = None
    survives: str = ""
    confirmed: str = NOT_YET


def load() -> list[Claim]:
    """Return the claims."""
    content = tomllib.loads(_FILE.read_text())
    return [Claim(id=name, **fields) for name, fields in content.items()]
