"""A driver of the conformance cases over bare stubs, wrong on purpose: `python -m tests.support.broken_driver WRONG`.

It shows that the runner finds what is wrong with a client: with `nothing` it is right, else wrong in one way.
"""

import functools
import struct
import sys
import threading
import time
from enum import StrEnum
from typing import Any, BinaryIO

import grpc
from google.protobuf import descriptor_pb2, message_factory
from google.rpc import error_details_pb2

from clients.conformance.methods import METHODS, full_name
from conformance.v1.conformance_pb2 import (
    Active,
    Cancelled,
    Denied,
    Description,
    DriverRequest,
    DriverResponse,
    Failure,
)
from tests.support.rpc import status_of
from trustlayer.v1 import types_pb2, validator_pb2

_DELAYS = (0.02, 0.06, 0.18)
_BY_PATH = {full_name(name): method for name, method in METHODS.items()}
_LENGTH = struct.Struct(">I")


class Wrong(StrEnum):
    """What is wrong with it."""

    NOTHING = "nothing"
    ALMOST_TOO_LATE = "almost-too-late"
    """Right, too: it takes as long to connect anew as the runner bears, and more than a sidecar to start."""
    ACTIVE_FOR_A_DENIAL = "active-for-a-denial"
    ACTIVE_FOR_NEITHER = "active-for-neither"
    ACTIVE_FOR_NOBODY = "active-for-nobody"
    FAILURE_OF_OTHERS = "failure-of-others"
    DENIED_FOR_UNAVAILABLE = "denied-for-unavailable"
    SWALLOWS_ERRORS = "swallows-errors"
    RETRIES_LOGIN = "retries-login"
    RETRIES_ANSWERS = "retries-answers"
    NEVER_RETRIES = "never-retries"
    RETRIES_FOR_EVER = "retries-for-ever"
    RETRIES_AT_ONCE = "retries-at-once"
    NEW_DEADLINE = "new-deadline"
    IGNORES_DEADLINES = "ignores-deadlines"
    IGNORES_CANCELLING = "ignores-cancelling"
    NO_DEFAULT_DEADLINE = "no-default-deadline"
    SESSION_ID_IN_ERRORS = "session-id-in-errors"
    SESSION_ID_IN_CAUSES = "session-id-in-causes"
    HIDES_ERRORS = "hides-errors"
    FORGETS_FIELDS = "forgets-fields"
    ONE_CONNECTION = "one-connection"
    DIES = "dies"
    GARBAGE = "garbage"
    SAYS_BROKEN = "says-broken"


class Calls:
    """Makes calls as a client should, but for what is wrong."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong

    @functools.cache  # noqa: B019 - one per process
    def _channel(self, socket: str) -> grpc.Channel:
        first, last = {Wrong.ONE_CONNECTION: (30_000, 30_000), Wrong.ALMOST_TOO_LATE: (2_000, 2_000)}.get(
            self._wrong, (50, 500)
        )
        options = [
            ("grpc.initial_reconnect_backoff_ms", first),
            ("grpc.min_reconnect_backoff_ms", first),
            ("grpc.max_reconnect_backoff_ms", last),
        ]
        return grpc.insecure_channel(f"unix:{socket}", options=options)

    def call(self, asked: DriverRequest, path: str, data: bytes) -> Any:
        """Make one call, again where that is safe; raises `grpc.RpcError` or `grpc.FutureCancelledError`."""
        method = _BY_PATH[path]
        stub: Any = self._channel(asked.socket).unary_unary(
            f"/{path}", response_deserializer=message_factory.GetMessageClass(method.output_type).FromString
        )
        default = 2.0 if "ValidatorService" in path else 10.0
        seconds: float | None = asked.timeout.ToTimedelta().total_seconds() if asked.HasField("timeout") else default
        if not asked.HasField("timeout") and self._wrong is Wrong.NO_DEFAULT_DEADLINE:
            seconds = 60.0
        assert seconds is not None
        deadline = time.monotonic() + (60.0 if self._wrong is Wrong.IGNORES_DEADLINES else seconds)
        level = method.GetOptions().idempotency_level
        safe = level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS or (
            self._wrong is Wrong.RETRIES_LOGIN and path.endswith("/Login")
        )
        delays = list(_DELAYS) if safe and self._wrong is not Wrong.NEVER_RETRIES else []
        if self._wrong is Wrong.RETRIES_FOR_EVER:
            delays *= 3
        while True:
            try:
                return self._once(stub, data, deadline, asked)
            except grpc.RpcError as raised:
                error: Any = raised  # it is a Call, too
                answered = bool(_failure(error).reason) and self._wrong is not Wrong.RETRIES_ANSWERS
                pause = delays.pop(0) if delays else None
                late = pause is None or time.monotonic() + pause > deadline
                if error.code() is not grpc.StatusCode.UNAVAILABLE or answered or late:
                    raise
                assert pause is not None
                time.sleep(0.0 if self._wrong is Wrong.RETRIES_AT_ONCE else pause)
                if self._wrong is Wrong.NEW_DEADLINE:
                    deadline = time.monotonic() + seconds

    def _once(self, stub: Any, data: bytes, deadline: float, asked: DriverRequest) -> Any:
        future = stub.future(data, timeout=max(deadline - time.monotonic(), 0.0))
        if asked.HasField("cancel_after") and self._wrong is not Wrong.IGNORES_CANCELLING:
            threading.Timer(asked.cancel_after.ToTimedelta().total_seconds(), future.cancel).start()
        return future.result()


def _failure(error: Any) -> Failure:
    status = status_of(error)
    failure = Failure(code=error.code().value[0], message=error.details() or "")
    for packed in status.details:
        _take(packed, failure)
    return failure


def _take(packed: Any, failure: Failure) -> None:
    info, wait = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    wrong, request = error_details_pb2.BadRequest(), error_details_pb2.RequestInfo()
    if packed.Unpack(info) and info.domain == "trustlayer":
        failure.reason = info.reason
    elif packed.Unpack(wait):
        failure.retry_after.CopyFrom(wait.retry_delay)
    elif packed.Unpack(wrong):
        failure.fields.extend(violation.field for violation in wrong.field_violations)
    elif packed.Unpack(request):
        failure.request_id = request.request_id


def validated(response: validator_pb2.ValidateResponse, wrong: Wrong) -> DriverResponse:
    """Turn an answer to Validate into what a client makes of it."""
    which = response.WhichOneof("result")
    if which == "session" and wrong is not Wrong.ACTIVE_FOR_NOBODY and not _is_somebodys(response.session):
        return DriverResponse(unavailable=Failure(code=2, message="the answer holds a session of nobody"))
    if which == "session" or (wrong is Wrong.ACTIVE_FOR_A_DENIAL and which == "denial"):
        return DriverResponse(active=Active(session=response.session, freshness=response.freshness))
    if which == "denial":
        denial = response.denial
        return DriverResponse(denied=Denied(reason=denial.reason, message=denial.message))
    if wrong is Wrong.ACTIVE_FOR_NEITHER:
        return DriverResponse(active=Active(session=types_pb2.Session()))
    return DriverResponse(unavailable=Failure(code=13, message="neither a session nor a denial"))


def _is_somebodys(session: types_pb2.Session) -> bool:
    return bool(session.handle and session.user.id)


def _failed(asked: DriverRequest, error: grpc.RpcError, wrong: Wrong) -> DriverResponse:
    failure = _failure(error)
    if wrong is Wrong.SWALLOWS_ERRORS:
        return DriverResponse(response=b"") if asked.HasField("rpc") else DriverResponse(active=Active())
    if wrong is Wrong.SESSION_ID_IN_ERRORS:
        failure.message += f" for {asked.validate.session_id}"
    if wrong is Wrong.FORGETS_FIELDS:
        del failure.fields[:]
    is_wrong = failure.reason == "INVALID_FIELD" or (wrong is Wrong.FAILURE_OF_OTHERS and failure.code == 3)
    if asked.HasField("validate") and not is_wrong:
        if wrong is Wrong.DENIED_FOR_UNAVAILABLE:
            return DriverResponse(denied=Denied(reason=2, message=failure.message))
        return DriverResponse(unavailable=failure)
    return DriverResponse(failure=failure)


def answer(asked: DriverRequest, calls: Calls, wrong: Wrong) -> DriverResponse:
    """Do what is asked."""
    if asked.HasField("describe"):
        runtime = f"python {sys.version_info.major}.{sys.version_info.minor}"
        return DriverResponse(
            description=Description(language="python", client_version=f"({wrong})", runtime=runtime)
        )
    if wrong is Wrong.SAYS_BROKEN:
        return DriverResponse(broken="on purpose")
    if asked.HasField("validate"):
        path, data = "trustlayer.v1.ValidatorService/Validate", asked.validate.SerializeToString()
    else:
        path, data = asked.rpc.method, asked.rpc.request
    try:
        response = calls.call(asked, path, data)
    except grpc.FutureCancelledError:
        return DriverResponse(cancelled=Cancelled())
    except grpc.RpcError as error:
        return _failed(asked, error, wrong)
    if asked.HasField("validate"):
        return validated(response, wrong)
    return DriverResponse(response=response.SerializeToString())


def _read(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Answer until the input ends."""
    wrong = Wrong(sys.argv[1])
    calls = Calls(wrong)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            (length,) = _LENGTH.unpack(_read(source, _LENGTH.size))
        except EOFError:
            return
        asked = DriverRequest.FromString(_read(source, length))
        if not asked.HasField("describe"):
            _misbehave(wrong, sink)
        response = answer(asked, calls, wrong)
        if response.WhichOneof("result") in {"denied", "unavailable", "failure"}:
            response.shown = _shown(asked, wrong)
        data = response.SerializeToString()
        sink.write(_LENGTH.pack(len(data)) + data)
        sink.flush()


def _shown(asked: DriverRequest, wrong: Wrong) -> str:
    """What this driver would print of an error."""
    if wrong is Wrong.HIDES_ERRORS:
        return ""
    return f"an error, caused by {asked.validate}" if wrong is Wrong.SESSION_ID_IN_CAUSES else "an error"


def _misbehave(wrong: Wrong, sink: BinaryIO) -> None:
    """Do what no driver may do."""
    if wrong is Wrong.DIES:
        sys.exit(3)
    if wrong is Wrong.GARBAGE:
        sink.write(b"Hello, world! This is no answer.\n")
        sink.flush()


if __name__ == "__main__":
    main()
