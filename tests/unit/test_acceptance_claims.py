"""The claims about AWS are well-formed, have a test each, and are compared with the facts of a report."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from acceptance.app import main
from acceptance.claims import NOT_YET, SOURCES, Claim, load
from acceptance.compare import compare, matches
from devstack.host import PROJECT
from scripts import evidence_page

CLAIMS = load()
# What the end-to-end tests record on AWS.
FACTS = {
    "missing_principal", "deleted_principal_id", "policy_form", "policy_length", "read_lag", "throttling",
    "repository_not_found_after_create", "recreated_role", "source_function_arn",
    "delay:created", "delay:pushed", "delay:policy_changed",
}  # fmt: skip


def has(test: str) -> bool:
    """Return whether a test exists, as pytest names it."""
    file, *names = test.split("::")
    path = PROJECT / file
    body: list[ast.stmt] = ast.parse(path.read_text()).body if path.exists() else []
    for name in names:
        found = [
            each for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name
        ]
        if not found:
            return False
        body = found[0].body
    return path.exists()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
class TestEachClaim:
    def test_has_a_test_that_exists(self, claim: Claim) -> None:
        assert has(claim.test)

    def test_is_one_sentence_with_a_source(self, claim: Claim) -> None:
        assert claim.claim.endswith(".")
        assert claim.source in SOURCES or claim.source.startswith("AWS: ")

    def test_is_not_confirmed_or_says_where_and_when(self, claim: Claim) -> None:
        assert claim.confirmed == NOT_YET or re.fullmatch(
            r"AWS, \d{4}-\d\d-\d\d, [a-z0-9-]+", claim.confirmed
        )

    def test_that_a_run_can_show_names_a_recorded_fact_and_what_it_must_be(self, claim: Claim) -> None:
        assert (claim.fact == "") == (claim.expected is None)
        assert not claim.fact or claim.fact in FACTS or claim.fact.startswith("event:")
        assert claim.survives in {"", "both"}


def test_every_recorded_fact_has_a_claim() -> None:
    assert {claim.fact for claim in CLAIMS} >= FACTS


def test_the_page_of_the_evidence_is_current() -> None:
    assert evidence_page.PAGE.read_text() == evidence_page.page(), "run `make docs`"


def test_the_page_of_the_evidence_has_every_claim_once() -> None:
    claims = re.findall(r"^- (.+?\.)(?: \*.+?\*)* \(", evidence_page.page(), re.MULTILINE)

    assert sorted(claims) == sorted(claim.claim for claim in CLAIMS)


@pytest.mark.parametrize(
    ("expected", "found", "result"),
    [
        (0, 0, True),
        (0, False, False),
        (10240, 10241, False),
        (["a", "b"], "b", True),
        (["a", "b"], "c", False),
        ({"matches": "not found"}, "Principal not found", True),
        ({"matches": "not found"}, None, False),
        ({"max": 60}, 59.5, True),
        ({"max": 60}, 61, False),
        ({"max": 60}, "soon", False),
        ({"present": True}, "team/app", True),
        ({"present": True}, None, False),
        ({"present": False}, "AccessDenied", False),
    ],
)
def test_a_value_is_as_expected(expected: Any, found: Any, result: bool) -> None:  # noqa: ANN401, FBT001
    assert matches(expected, found) is result


def claim(name: str, expected: Any, **fields: str) -> Claim:  # noqa: ANN401 - JSON
    return Claim(
        name, "AWS does this.", "not documented", "tests/unit/test_x.py::test", name, expected, **fields
    )


class TestComparison:
    def test_confirms_a_claim_of_which_every_fact_is_as_expected(self) -> None:
        rejected = claim("missing", {"code": "Invalid", "message": {"matches": "not found"}})

        found = compare([rejected], [("missing", {"code": "Invalid", "message": "not found"})] * 2)

        assert found.confirmed == [rejected]

    def test_names_what_contradicts_a_claim(self) -> None:
        length = claim("length", {"counts": "characters", "longest": 10240})

        ((_, expected, value),) = compare(
            [length], [("length", {"counts": "bytes", "longest": 10240})]
        ).contradicted

        assert (expected, value) == ('counts = "characters"', 'counts = "bytes"')

    def test_of_a_fact_without_the_field_is_a_contradiction(self) -> None:
        event = claim("event", {"detail.responseElements.name": {"present": True}})

        found = compare([event], [("event", {"detail": {"responseElements": None}})])

        assert [each.claim for each in found.contradicted] == [event]

    def test_one_wrong_fact_of_two_is_a_contradiction(self) -> None:
        lag = claim("lag", {"max": 5})

        found = compare([lag], [("lag", 1), ("lag", 9)])

        assert [each.found for each in found.contradicted] == ["9"]
        assert found.confirmed == []

    def test_of_a_claim_that_may_be_false_is_learned(self) -> None:
        form = claim("form", {"pretty": True}, survives="both")

        found = compare([form], [("form", {"pretty": False})])

        assert [each.claim for each in found.learned] == [form]
        assert found.contradicted == []

    def test_lists_claims_without_a_fact_and_facts_without_a_claim(self) -> None:
        event = claim("event:*", {"a": 1})

        found = compare([event], [("surprise", 1)])

        assert (found.not_measured, found.unknown) == ([event], ["surprise"])

    def test_knows_the_facts_that_a_glob_names(self) -> None:
        event = claim("event:*", {"a": 1})

        assert compare([event], [("event:x:y", {"a": 1})]).confirmed == [event]


class TestCompareCommand:
    def test_succeeds_if_nothing_contradicts(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        facts = [{"name": "recreated_role", "value": {"access": False}, "test": "t"}]

        assert main(["compare", self.saved(tmp_path, facts)]) == 0

        assert "recreated-role-has-no-access" in capsys.readouterr().out

    def test_fails_with_a_contradiction_and_names_the_test_to_change(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        facts = [{"name": "recreated_role", "value": {"access": True}, "test": "t"}]

        assert main(["compare", self.saved(tmp_path, facts)]) == 1

        output = " ".join(capsys.readouterr().out.split())
        assert "expected access = false, found access = true" in output
        assert "test to change: tests/unit/test_role_check.py::TestARecreatedRole" in output

    @pytest.mark.parametrize(
        "text",
        ["", "no JSON", "[]", "{}", '{"project": "other", "facts": []}', '{"project": "ecr-allow-pull"}',
         '{"project": "ecr-allow-pull", "facts": [1]}', '{"project": "ecr-allow-pull", "facts": 1}', "\xff"],
    )  # fmt: skip
    def test_of_another_file_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
    ) -> None:
        path = tmp_path / "report.json"
        path.write_text(text, encoding="latin-1")

        assert main(["compare", str(path)]) == 2

        assert "✗" in capsys.readouterr().err

    def test_of_a_missing_file_is_an_error(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", str(tmp_path / "none.json")]) == 2

        assert "cannot be read" in capsys.readouterr().err

    @staticmethod
    def saved(folder: Path, facts: list[dict[str, Any]]) -> str:
        path = folder / "report.json"
        path.write_text(json.dumps({"project": "ecr-allow-pull", "facts": facts}))
        return str(path)


def test_the_end_to_end_tests_record_each_fact() -> None:
    sources = "".join(path.read_text() for path in (PROJECT / "tests/e2e").glob("test_*.py"))

    assert FACTS
    for fact in FACTS:
        assert f'"{fact}"' in sources or f'"fact:{fact}"' in sources, fact
