"""The Prometheus port of either program. Imported only where it is configured: its library costs memory.

The answer is prometheus_client's; what the collector does in the threads here, it must do by reading only. The server
is not: that one gives every connection a thread for as long as its peer likes, so that who reaches the port, which
asks for no credential, takes all threads and file descriptors of the program. Here there are a few places. Who comes
when all are taken is given that of the one who has been there longest: a scrape takes milliseconds, so those who only
hold a place lose it first, and Prometheus is answered meanwhile.
"""

import io
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final, TextIO, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.registry import Collector

from trust_core import logs

MAX_CONNECTIONS: Final = 16
_SILENCE_SECONDS: Final = 5.0
_REFUSED: Final = "400 Bad Request"


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_SECONDS

    def log_message(self, *_: object) -> None:
        """Write nothing of requests."""

    def get_stderr(self) -> TextIO:
        """Swallow what wsgiref would say of a peer that went away: it writes past our logs."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which there are few."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        # Of the threads for connections and of the one that accepts.
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__(cast("tuple[str, int]", address), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                longest = next(iter(self._open))
                del self._open[longest]
                _hang_up(longest)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Say nothing: a peer that is slow, or talks no HTTP, is no fault of ours."""


def _hang_up(connection: socket.socket) -> None:
    """End the connection; its thread, which waits for it, then closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # its peer was faster


def _guarded(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Refuse what prometheus_client fails on, such as a version in `Accept` that is none."""

    def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception as error:  # noqa: BLE001 - this is the boundary
            logs.get_logger("metrics").debug("metrics were not told", **logs.describe_exception(error))
        start_response(_REFUSED, [("Content-Type", "text/plain")])
        return [b"refused\n"]

    return answer


class MetricsServer:
    """Serves what the collector says until `stop`."""

    def __init__(self, *, host: str, port: int, collector: Collector) -> None:
        """Begin to serve; port 0 takes a free one. Raises OSError when the address cannot be had."""
        registry = CollectorRegistry()
        registry.register(collector)
        # Of the process itself (memory, file descriptors, processor time, start) it reads what Linux says.
        ProcessCollector(registry=registry)
        self._server = _Server(host, port)
        self._server.set_app(_guarded(make_wsgi_app(registry)))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._server.server_port}"

    def stop(self) -> None:
        """Stop serving. Waits for the server's thread, half a second at most: not for the event loop's thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
