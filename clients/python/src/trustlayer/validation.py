"""The question whether a session is valid, and what its answer means; the same for every way to ask it."""

from dataclasses import dataclass
from enum import IntEnum

import grpc

from trustlayer.errors import CallFailed, DenialReason, Failure, SessionDenied, ValidatorUnavailable
from trustlayer.v1 import types_pb2, validator_pb2


class Mode(IntEnum):
    """How much of the request context is checked."""

    DEFAULT = 0
    """What the sidecar's rule for the route, or its configuration, says."""
    STANDARD = 1
    """The session and the client IP."""
    ADVANCED = 2
    """And the device fingerprint."""
    STRICT = 3
    """And the user agent."""


@dataclass(frozen=True, slots=True)
class Validation:
    """A yes."""

    session: types_pb2.Session
    """The session, with its user."""
    freshness: types_pb2.Freshness
    """How fresh the answer is, and who knew it."""


def question(
    session_id: str,
    *,
    mode: Mode = Mode.DEFAULT,
    client_ip: str = "",
    device_fingerprint: str = "",
    user_agent: str = "",
    min_revision: int = 0,
    route: str = "",
    http_method: str = "",
    path: str = "",
) -> validator_pb2.ValidateRequest:
    """Put the question into a message.

    Raises `SessionDenied` where the session id is no text that can be sent, and `CallFailed` where another part is
    not.
    """
    try:
        return validator_pb2.ValidateRequest(
            session_id=session_id,
            mode=types_pb2.ValidationMode.ValueType(mode),
            context=types_pb2.RequestContext(
                client_ip=client_ip, device_fingerprint=device_fingerprint, user_agent=user_agent
            ),
            min_revision=min_revision,
            route=route,
            http_method=http_method,
            path=path,
        )
    except ValueError:
        # A lone surrogate, as which frameworks hand on bytes that are not UTF-8, or a number that is too large.
        # protobuf's own error shows the value, so it goes nowhere, not even as the cause of ours.
        error = _refused(session_id)
    raise error


def _refused(session_id: str) -> SessionDenied | CallFailed:
    """Say what cannot be sent: the session id, or another part."""
    try:
        validator_pb2.ValidateRequest(session_id=session_id)
    except ValueError:
        return SessionDenied(DenialReason.MALFORMED, "not a session id")
    return CallFailed(Failure(grpc.StatusCode.INVALID_ARGUMENT, message="a part of the question cannot be sent"))


def verdict(answer: validator_pb2.ValidateResponse) -> Validation:
    """Give the yes, or raise the no. An answer that is neither is no answer, and nor is a session of nobody."""
    if answer.HasField("session"):
        if not answer.session.handle or not answer.session.user.id:
            raise ValidatorUnavailable(
                Failure(grpc.StatusCode.UNKNOWN, message="the answer holds a session of nobody")
            )
        return Validation(session=answer.session, freshness=answer.freshness)
    if answer.HasField("denial"):
        raise SessionDenied(DenialReason(answer.denial.reason), answer.denial.message)
    raise ValidatorUnavailable(Failure(grpc.StatusCode.UNKNOWN, message="neither a session nor a denial came"))


def no_verdict(error: CallFailed) -> CallFailed | ValidatorUnavailable:
    """Say what a validation that failed means: unavailable, unless a sidecar calls the question itself wrong."""
    is_wrong = error.code is grpc.StatusCode.INVALID_ARGUMENT and error.failure.is_answer
    return error if is_wrong else ValidatorUnavailable(error.failure)
