"""A policy document: parsed from the text that ECR returns, and serialized for ECR."""

import json
from typing import cast

type Statement = dict[str, object]
type Policy = dict[str, object]

# `policyText` of SetRepositoryPolicy, from the ECR API reference.
MAX_CHARACTERS = 10_240
_ELEMENTS = {"Version", "Id", "Statement"}


class InvalidPolicy(ValueError):
    """A policy that cannot be parsed, and so must not be rewritten."""


def parse(text: str | None) -> Policy | None:
    """Parse a repository's policy text; no text is no policy.

    Raises:
        InvalidPolicy: it is not a policy document; says what is wrong.
    """
    if text is None or not text.strip():
        return None
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_float=_exact, parse_int=_exact)
        # What could not be written back as it was read is left unchanged: lone surrogates, NaN, 1e999, ...
        render(document).encode()
    except InvalidPolicy:
        raise
    except (ArithmeticError, ValueError, RecursionError):
        raise InvalidPolicy("the policy cannot be parsed, or not written back, as JSON") from None
    if not isinstance(document, dict):
        raise InvalidPolicy("the policy is not a JSON object")
    if document.keys() - _ELEMENTS:
        raise InvalidPolicy("the policy has unknown elements: only Version, Id and Statement are known")
    if not all(isinstance(statement, dict) for statement in _as_list(document.get("Statement"))):
        raise InvalidPolicy('"Statement" in the policy is neither an object nor a list of objects')
    return document


def render(policy: Policy) -> str:
    """Serialize a policy as compactly as JSON allows."""
    return json.dumps(policy, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def statements(policy: Policy | None) -> list[Statement]:
    """Return a policy's statements, which it may hold as a list or as one object."""
    return cast("list[Statement]", _as_list((policy or {}).get("Statement", [])))


def strings(value: object) -> list[str] | None:
    """Return as a list what a policy may hold as one string or as a list of them; None if it is neither."""
    values = _as_list(value)
    texts = [item for item in values if isinstance(item, str)]
    return texts if texts and len(texts) == len(values) else None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object, and lose no value to another one with the same key."""
    built = dict(pairs)
    if len(built) < len(pairs):
        raise InvalidPolicy("the policy has an object with the same key twice")
    return built


def _exact(text: str) -> object:
    number: object = json.loads(text)
    if json.dumps(number) != text:
        raise InvalidPolicy("the policy holds a number that cannot be written back unchanged")
    return number


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
