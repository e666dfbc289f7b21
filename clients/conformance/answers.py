"""What a driver answered, as plain values; and whether its words hold a secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from clients.conformance.methods import METHODS, VALIDATE
from clients.conformance.plain import enum_name, plain
from conformance.v1.conformance_pb2 import Denied, DriverResponse, Failure
from trust_core.identifiers import SECRET_PATTERN
from trustlayer.v1 import types_pb2

_ERRORS: Final = frozenset({"denied", "unavailable", "failure"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An outcome, and its values by the names that cases use.

    `text` is what of it a person may come to read; `shown`, all that the language prints of the error.
    """

    outcome: str
    values: Mapping[str, Any]
    text: str = ""
    shown: str = ""

    @property
    def tells_a_secret(self) -> bool:
        """Whether a session id or a token stands in its words: no error may hold one."""
        return SECRET_PATTERN.search(self.text + self.shown) is not None

    @property
    def hides_its_error(self) -> bool:
        """Whether it was an error and the driver does not say how that is printed: nothing is known of it then."""
        return self.outcome in _ERRORS and not self.shown


def answer_of(response: DriverResponse, method: str) -> Answer:
    """Turn a driver's answer to a call of the method into plain values."""
    outcome = response.WhichOneof("result") or "broken"
    match outcome:
        case "active":
            values = plain(response.active)
        case "denied":
            values = _denied(response.denied)
        case "unavailable":
            values = _failure(response.unavailable)
        case "failure":
            values = _failure(response.failure)
        case "response" if method != VALIDATE:
            return _response(response.response, method)
        case "broken":
            values = {"broken": response.broken}
        case _:
            values = {}
    text = "" if outcome == "active" else str(values)
    return Answer(outcome=outcome, values=values, text=text, shown=response.shown)


def _denied(denied: Denied) -> dict[str, Any]:
    return {"reason": enum_name(types_pb2.DenialReason.DESCRIPTOR, denied.reason), "message": denied.message}


def _failure(failure: Failure) -> dict[str, Any]:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return {**plain(failure), "code": names.get(failure.code, failure.code)}


def _response(data: bytes, method: str) -> Answer:
    message = message_factory.GetMessageClass(METHODS[method].output_type)()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return Answer(outcome="broken", values={"broken": "the response is no message of the method"})
    return Answer(outcome="response", values=plain(message))
