"""A sidecar that answers as a test says, on a socket: for what no real one of this version does."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from tests.support.system import BROWSER

METHOD_PREFIX = "/trustlayer.v1."
CLIENT_IP = BROWSER.client_ip


class ScriptedSidecar:
    """Answers each call by the next step of its script, the last of which is repeated; without one, never."""

    def __init__(self, *script: Callable[[grpc.ServicerContext], bytes]) -> None:
        self._script = list(script) or [self.hang]
        self._lock = threading.Lock()
        self.calls = 0
        self.ended_with: list[bool] = []
        """For each call that hung: whether it was ended by its caller."""

    def answer(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        """Do the next step."""
        with self._lock:
            step = self._script[min(self.calls, len(self._script) - 1)]
            self.calls += 1
        return step(context)

    def hang(self, context: grpc.ServicerContext) -> bytes:
        """Never answer; note when the caller is gone."""
        gone = threading.Event()
        context.add_callback(gone.set)
        self.ended_with.append(gone.wait(30))
        return b""

    @contextmanager
    def serving(self, socket: Path) -> Iterator[str]:
        """Serve on the socket, and give its path."""
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self.answer)

        class Everything(grpc.GenericRpcHandler):
            def service(self, _call: grpc.HandlerCallDetails) -> Any:
                return handler

        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((Everything(),))
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        try:
            yield str(socket)
        finally:
            server.stop(grace=None).wait()


def answering(message: Message) -> Callable[[grpc.ServicerContext], bytes]:
    """Answer with a message."""
    return lambda _context: message.SerializeToString()


def failing(code: grpc.StatusCode, *details: Message, text: str = "no") -> Callable[[grpc.ServicerContext], bytes]:
    """Fail, with details."""

    def fail(context: grpc.ServicerContext) -> bytes:
        packed = []
        for detail in details:
            item = any_pb2.Any()
            item.Pack(detail)
            packed.append(item)
        status = status_pb2.Status(code=code.value[0], message=text, details=packed)
        if details:
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, text)

    return fail
