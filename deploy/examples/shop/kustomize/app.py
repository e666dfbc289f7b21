"""The smallest app that knows its users: it asks the sidecar beside it about the session id of each request.

It holds no secret. GET / welcomes whoever the session id in the cookie `session_id` belongs to; /healthz is for
probes.
Settings: PORT, and BRIDGE_SOCKET, the sidecar's socket.
"""

import os
import signal
import sys
import threading
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

from trustlayer.v1 import types_pb2, validator_pb2, validator_pb2_grpc


def answer(stub: "validator_pb2_grpc.ValidatorServiceStub", session_id: str, client_ip: str) -> tuple[int, str]:
    """Say with which status and words a request is answered. Whatever is not a clear yes is none."""
    if not session_id:
        return 401, "who are you? log in first"
    request = validator_pb2.ValidateRequest(
        session_id=session_id,
        mode=types_pb2.VALIDATION_MODE_STANDARD,
        context=types_pb2.RequestContext(client_ip=client_ip),
    )
    try:
        said = stub.Validate(request, timeout=2)
    except grpc.RpcError as error:
        status = 400 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 503
        return status, "cannot know who you are now" if status == 503 else "that is no session id"
    if said.HasField("session"):
        return 200, f"welcome, {said.session.user.name}"
    return 401, f"no: {types_pb2.DenialReason.Name(said.denial.reason)}"


class Handler(BaseHTTPRequestHandler):
    """One request at a time of one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    stub: "validator_pb2_grpc.ValidatorServiceStub"

    def do_GET(self) -> None:
        """Answer; the client IP is that of the connection, so put no proxy before this app as it is."""
        if self.path == "/healthz":
            status, text = 200, "ok"
        else:
            status, text = answer(self.stub, self._session_id(), self.client_address[0])
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _session_id(self) -> str:
        try:
            cookie = SimpleCookie(self.headers.get("cookie", ""))
        except CookieError:
            return ""
        return cookie["session_id"].value if "session_id" in cookie else ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing: a log of requests is no place for what stands in them."""


def main() -> None:
    """Serve until SIGTERM."""
    socket = os.environ.get("BRIDGE_SOCKET", "/run/bridge-sidecar/bridge.sock")
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        Handler.stub = validator_pb2_grpc.ValidatorServiceStub(channel)
        server = ThreadingHTTPServer((os.environ.get("HOST", ""), int(os.environ.get("PORT", "8000"))), Handler)
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"shop listening on port {server.server_port}", flush=True)
        server.serve_forever()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
