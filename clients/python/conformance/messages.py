"""How a driver's messages travel, and what they are made of; the same with and without asyncio."""

import importlib.metadata
import platform
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, Final, cast

import grpc
from google.protobuf import duration_pb2, message_factory
from google.protobuf.message import Message

from conformance.v1 import conformance_pb2
from trustlayer import CallFailed, Mode, SessionDenied, Validation, ValidatorUnavailable, aio
from trustlayer.client import Client
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, validator_pb2

_LENGTH_BYTES: Final = 4
_NS_PER_SECOND: Final = 1_000_000_000
_SERVICES: Final = {
    service.full_name: (service, attribute)
    for service, attribute in (
        (validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"], "validator"),
        (identity_pb2.DESCRIPTOR.services_by_name["IdentityService"], "identity"),
        (session_pb2.DESCRIPTOR.services_by_name["SessionService"], "sessions"),
        (trust_token_pb2.DESCRIPTOR.services_by_name["TrustTokenService"], "trust_tokens"),
    )
}

Result = Validation | Message


def read_request(source: BinaryIO) -> conformance_pb2.DriverRequest | None:
    """Wait for the next request; `None` at the end of the input."""
    length = source.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        return None
    return conformance_pb2.DriverRequest.FromString(source.read(int.from_bytes(length, "big")))


def write_response(sink: BinaryIO, response: conformance_pb2.DriverResponse) -> None:
    """Write a response."""
    data = response.SerializeToString()
    sink.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    sink.flush()


def describe() -> conformance_pb2.DriverResponse:
    """Say what this driver is."""
    return conformance_pb2.DriverResponse(
        description=conformance_pb2.Description(
            language="python",
            client_version=importlib.metadata.version("trustlayer"),
            runtime=f"{platform.python_implementation()} {platform.python_version()}, grpcio {grpc.__version__}",
        )
    )


def prepared(client: Client | aio.Client, request: conformance_pb2.DriverRequest) -> Callable[[], Any]:
    """Give the call that is asked for; it returns a result, or what is to be awaited for one."""
    timeout = seconds(request.timeout) if request.HasField("timeout") else None
    if request.HasField("validate"):
        asked = request.validate
        return lambda: client.validate(
            asked.session_id,
            mode=cast("Mode", asked.mode),  # also one that is none
            client_ip=asked.context.client_ip,
            device_fingerprint=asked.context.device_fingerprint,
            user_agent=asked.context.user_agent,
            min_revision=asked.min_revision,
            route=asked.route,
            http_method=asked.http_method,
            path=asked.path,
            timeout=timeout,
        )
    service, _, name = request.rpc.method.partition("/")
    descriptor, attribute = _SERVICES[service]
    message = message_factory.GetMessageClass(descriptor.methods_by_name[name].input_type)
    call = getattr(getattr(client, attribute), name)
    return lambda: call(message.FromString(request.rpc.request), timeout=timeout)


def seconds(duration: duration_pb2.Duration) -> float:
    """Give a duration in seconds."""
    return duration.seconds + duration.nanos / _NS_PER_SECOND


def answered(result: Result) -> conformance_pb2.DriverResponse:
    """Tell of a result."""
    if isinstance(result, Validation):
        return conformance_pb2.DriverResponse(
            active=conformance_pb2.Active(session=result.session, freshness=result.freshness)
        )
    return conformance_pb2.DriverResponse(response=result.SerializeToString())


def failed(error: Exception) -> conformance_pb2.DriverResponse:
    """Tell of an error; one that is none of the client's own is the driver's, and its words go to standard error."""
    shown = _shown(error)
    if isinstance(error, SessionDenied):
        return conformance_pb2.DriverResponse(
            denied=conformance_pb2.Denied(reason=int(error.reason), message=error.message), shown=shown
        )
    if isinstance(error, ValidatorUnavailable):
        return conformance_pb2.DriverResponse(unavailable=_failure(error), shown=shown)
    if isinstance(error, CallFailed):
        return conformance_pb2.DriverResponse(failure=_failure(error), shown=shown)
    traceback.print_exception(error)
    return conformance_pb2.DriverResponse(broken=type(error).__name__)


def _shown(error: Exception) -> str:
    """All that is printed of it anywhere: `traceback` follows the causes."""
    return "\n".join((*traceback.format_exception(error), repr(error), repr(vars(error))))


def _failure(error: ValidatorUnavailable | CallFailed) -> conformance_pb2.Failure:
    failure = conformance_pb2.Failure(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        fields=error.fields,
        request_id=error.request_id,
    )
    if error.retry_after is not None:
        failure.retry_after.FromNanoseconds(round(error.retry_after * _NS_PER_SECOND))
    return failure
