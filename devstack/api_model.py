"""Checks a call of ECR by botocore's model of the API: its operations, types, lengths, ranges and patterns.

AWS documents no answers to calls that break the model. The assumption here: JSON of a wrong type is a
SerializationException, as in other services with the protocol JSON 1.1; anything else is an
InvalidParameterException, which the model lists for each operation. Unknown parameters are ignored.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from botocore.model import ServiceModel

_TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "list": list,
    "structure": dict,
}


class Violation(NamedTuple):
    """The error code and message of a call that breaks the model."""

    code: str
    message: str


def violation(operation: str, request: Mapping[str, Any]) -> Violation | None:
    """Return what is wrong with a call, or None."""
    model = _model()
    if operation not in model.operation_names:
        return Violation("UnknownOperationException", "")
    shape = model.operation_model(operation).input_shape
    return next(_violations(shape, request, ""), None) if shape else None


@cache
def _model() -> ServiceModel:
    # Imported here, because the function's process in the benchmark must not load the model.
    from botocore.session import get_session  # noqa: PLC0415

    return get_session().get_service_model("ecr")


def _violations(shape: Any, value: Any, name: str) -> Iterator[Violation]:  # noqa: ANN401 - a shape, and JSON
    if not _has_type(value, shape.type_name):
        yield Violation("SerializationException", f"{name} must be of the type {shape.type_name}")
        return
    if isinstance(value, dict):
        for required in shape.required_members:
            if value.get(required) is None:
                yield _invalid(required, "must not be null")
        for member, member_shape in shape.members.items():
            if value.get(member) is not None:
                yield from _violations(member_shape, value[member], member)
        return
    if not isinstance(value, bool):
        yield from _violations_of_constraints(shape, value, name)
    if isinstance(value, list):
        for element in value:
            yield from _violations(shape.member, element, name)


def _has_type(value: object, name: str) -> bool:
    expected = _TYPES[name]
    return isinstance(value, expected) and (expected is bool or not isinstance(value, bool))


def _violations_of_constraints(shape: Any, value: Any, name: str) -> Iterator[Violation]:  # noqa: ANN401
    measured, noun = (value, "a value") if isinstance(value, int) else (len(value), "a length")
    low, high, pattern = (shape.metadata.get(key) for key in ("min", "max", "pattern"))
    if low is not None and measured < low:
        yield _invalid(name, f"must have {noun} greater than or equal to {low}")
    if high is not None and measured > high:
        yield _invalid(name, f"must have {noun} less than or equal to {high}")
    if pattern and not re.fullmatch(pattern, value):
        yield _invalid(name, f"must satisfy regular expression '{pattern}'")


def _invalid(name: str, constraint: str) -> Violation:
    name = "PolicyText" if name == "policyText" else name  # as in ECR's messages
    return Violation(
        "InvalidParameterException",
        f"Invalid parameter at '{name}' failed to satisfy constraint: '{constraint}'",
    )
