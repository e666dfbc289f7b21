"""Look into errors as a client sees them."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from trust_core.grpc_edge import STATUS_DETAILS_KEY

M = TypeVar("M", bound=Message)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status of a failed call, of `grpc` or `grpc.aio`; empty when it carries none."""
    trailing = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in trailing or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def detail(error: grpc.RpcError, kind: type[M]) -> M | None:
    """The error's detail of this kind; fails when there is more than one."""
    found = [packed for packed in status_of(error).details if packed.Is(kind.DESCRIPTOR)]
    assert len(found) <= 1
    if not found:
        return None
    message = kind()
    found[0].Unpack(message)
    return message


def reason(error: grpc.RpcError) -> str:
    """The error's reason in our vocabulary; empty when it carries none of ours."""
    info = detail(error, error_details_pb2.ErrorInfo)
    return str(info.reason) if info is not None and info.domain == "trustlayer" else ""
