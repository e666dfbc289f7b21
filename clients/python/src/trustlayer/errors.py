"""The errors that an app sees: denied, unavailable, and a call that failed. None of them ever holds a session id.

All can be pickled, so that they cross from a worker process to its parent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DOMAIN: Final = "trustlayer"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_NS_PER_SECOND: Final = 1_000_000_000

M = TypeVar("M", bound=Message)


class DenialReason(IntEnum):
    """Why a definite "no" is a no: the standard's `DenialReason`.

    A number that this version does not know, from a newer sidecar, becomes a member too: `DenialReason(99)` is 99,
    and called `UNRECOGNIZED_99`.
    """

    UNSPECIFIED = 0
    MALFORMED = 1
    UNKNOWN = 2
    EXPIRED = 3
    IDLE = 4
    REVOKED = 5
    USER_DISABLED = 6
    CONTEXT_MISSING = 7
    CONTEXT_NOT_BOUND = 8
    IP_MISMATCH = 9
    DEVICE_MISMATCH = 10
    USER_AGENT_MISMATCH = 11
    ROLE_MISSING = 12
    AUTHENTICATION_TOO_OLD = 13
    ROUTE_NOT_COVERED = 14

    @classmethod
    def _missing_(cls, value: object) -> "DenialReason | None":
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNRECOGNIZED_{value}"
        member._value_ = value
        return member

    def __reduce_ex__(self, _: object) -> tuple[type["DenialReason"], tuple[int]]:
        # Some versions of Python pickle a member by its name, and what is not known is not found by one.
        return type(self), (self.value,)


class TrustLayerError(Exception):
    """What all errors of this package are."""


class SessionDenied(TrustLayerError):
    """A definite no: the session is not valid, or not for this request."""

    def __init__(self, reason: DenialReason, message: str = "") -> None:
        super().__init__(reason, message)

    @property
    def reason(self) -> DenialReason:
        """Why, for programs."""
        reason: DenialReason = self.args[0]
        return reason

    @property
    def message(self) -> str:
        """Why, for people; not stable, and may be empty."""
        message: str = self.args[1]
        return message

    def __str__(self) -> str:
        return f"{self.reason.name}: {self.message}" if self.message else self.reason.name


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known of a call that failed."""

    code: grpc.StatusCode
    """gRPC's code."""
    reason: str = ""
    """A name of `ErrorReason`, without prefix; empty where no Flowless and no sidecar said one."""
    message: str = ""
    """For people; not stable."""
    retry_after: float | None = None
    """Seconds after which another attempt makes sense; `None` where nothing was said."""
    fields: tuple[str, ...] = ()
    """Names of the request's fields that are wrong."""
    request_id: str = ""
    """What to search the logs of sidecar and Flowless for."""

    @property
    def is_answer(self) -> bool:
        """Whether a sidecar or Flowless said so; else the call reached none, or gRPC itself ended it."""
        return bool(self.reason)


class _FailedError(TrustLayerError):
    """An error with a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)

    @property
    def failure(self) -> Failure:
        """All of it in one value."""
        failure: Failure = self.args[0]
        return failure

    @property
    def code(self) -> grpc.StatusCode:
        """See `Failure.code`."""
        return self.failure.code

    @property
    def reason(self) -> str:
        """See `Failure.reason`."""
        return self.failure.reason

    @property
    def message(self) -> str:
        """See `Failure.message`."""
        return self.failure.message

    @property
    def retry_after(self) -> float | None:
        """See `Failure.retry_after`."""
        return self.failure.retry_after

    @property
    def fields(self) -> tuple[str, ...]:
        """See `Failure.fields`."""
        return self.failure.fields

    @property
    def request_id(self) -> str:
        """See `Failure.request_id`."""
        return self.failure.request_id

    def __str__(self) -> str:
        said = [self.reason or self.code.name, self.message]
        about = [f"fields: {', '.join(self.fields)}"] * bool(self.fields) + [self.request_id] * bool(self.request_id)
        return ": ".join(part for part in said if part) + (f" ({'; '.join(about)})" if about else "")


class ValidatorUnavailable(_FailedError):
    """Nobody can know now whether the session is valid: never a yes, and never a no either."""


class CallFailed(_FailedError):
    """A call was refused or could not be made; `validate` raises it only for a question that is wrong itself."""


def closed() -> CallFailed:
    """Say that the client was closed, by the app itself: nobody can be asked any more."""
    return CallFailed(Failure(grpc.StatusCode.UNAVAILABLE, message="the client is closed"))


def read_failure(error: grpc.RpcError) -> Failure:
    """Read what a failed call says. Details that cannot be read, or are of kinds not known here, are passed over."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return Failure(code=grpc.StatusCode.UNKNOWN, message="the call failed without a status")
    status = _status(error.trailing_metadata())
    info = _detail(status, error_details_pb2.ErrorInfo)
    retry = _detail(status, error_details_pb2.RetryInfo)
    wrong = _detail(status, error_details_pb2.BadRequest)
    request = _detail(status, error_details_pb2.RequestInfo)
    return Failure(
        code=error.code(),
        reason=info.reason if info is not None and info.domain == _DOMAIN else "",
        message=error.details() or "",
        retry_after=None if retry is None else _seconds(retry),
        fields=() if wrong is None else tuple(violation.field for violation in wrong.field_violations),
        request_id="" if request is None else request.request_id,
    )


def _status(trailing: Iterable[tuple[str, Any]]) -> status_pb2.Status:
    for key, value in trailing:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            try:
                return kind.FromString(packed.value)
            except DecodeError:
                return None
    return None


def _seconds(retry: error_details_pb2.RetryInfo) -> float:
    delay = retry.retry_delay
    seconds: float = delay.seconds + delay.nanos / _NS_PER_SECOND
    return seconds
