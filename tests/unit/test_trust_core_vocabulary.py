"""The programs' words are the proto's words: enums agree by name and number, errors by name and code."""

import re
from collections.abc import Sequence

import pytest

from tests.support.proto_standard import PROTO, compile_protos
from trust_core.errors import CODES, DEFAULT_RETRY_SECONDS, Reason, TrustError, Violation, invalid
from trust_core.modes import DenialReason, ValidationMode
from trustlayer.v1 import errors_pb2, types_pb2

_ENUM, _VALUE = 5, 2


def _without_prefix(names: Sequence[tuple[str, int]], prefix: str) -> dict[str, int]:
    """Names and numbers of a proto enum, without its UNSPECIFIED."""
    assert all(name.startswith(prefix) for name, _ in names)
    return {name.removeprefix(prefix): number for name, number in names if number}


def _comments_of_error_reasons() -> dict[str, str]:
    file = next(f for f in compile_protos(PROTO).file if f.name == "trustlayer/v1/errors.proto")
    (enum,) = file.enum_type
    comments = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
    return {
        value.name.removeprefix("ERROR_REASON_"): " ".join(comments[_ENUM, 0, _VALUE, i].split())
        for i, value in enumerate(enum.value)
        if value.number
    }


def test_validation_modes_have_the_numbers_of_the_proto() -> None:
    proto = _without_prefix(types_pb2.ValidationMode.items(), "VALIDATION_MODE_")
    assert {mode.name: mode.value for mode in ValidationMode} == proto


def test_denial_reasons_have_the_numbers_of_the_proto() -> None:
    proto = _without_prefix(types_pb2.DenialReason.items(), "DENIAL_REASON_")
    assert {reason.name: reason.value for reason in DenialReason} == proto


def test_error_reasons_have_the_names_of_the_proto() -> None:
    proto = _without_prefix(errors_pb2.ErrorReason.items(), "ERROR_REASON_")
    assert {reason.value for reason in Reason} == set(proto)
    assert all(reason.name == reason.value for reason in Reason)


def test_every_error_reason_has_the_code_that_its_comment_in_the_proto_starts_with() -> None:
    documented = {name: re.match(r"[A-Z_]+", comment) for name, comment in _comments_of_error_reasons().items()}
    assert {reason.value: CODES[reason].value for reason in Reason} == {
        name: code[0] if code else None for name, code in documented.items()
    }


def test_retry_advice_is_given_exactly_where_the_proto_says_so() -> None:
    documented = {name for name, comment in _comments_of_error_reasons().items() if "RetryInfo" in comment}
    assert {reason.value for reason in DEFAULT_RETRY_SECONDS} == documented
    assert all(seconds > 0 for seconds in DEFAULT_RETRY_SECONDS.values())


@pytest.mark.parametrize("reason", Reason)
def test_an_error_knows_its_code_and_retry_advice_from_its_reason_alone(reason: Reason) -> None:
    error = TrustError(reason, "text")
    assert error.code is CODES[reason]
    assert error.retry_after == DEFAULT_RETRY_SECONDS.get(reason)
    assert str(error) == error.message == "text"


def test_an_invalid_request_names_every_field_and_what_it_takes() -> None:
    error = invalid(Violation("email", "is required"), Violation("password", "12 to 256 characters"))
    assert error.reason is Reason.INVALID_FIELD
    assert error.message == "email: is required; password: 12 to 256 characters"
    assert [violation.field for violation in error.violations] == ["email", "password"]
