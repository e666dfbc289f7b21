"""Unix sockets behind which there is no gRPC at all: one that says garbage, and one that says nothing."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_GARBAGE = b"SSH-2.0-nothing of HTTP/2\r\n" * 8
_MAX_CONNECTIONS = 1_000


class OddSocket:
    """Accepts connections for as long as the `with` block lasts; says garbage and closes, or says nothing."""

    def __init__(self, path: Path, *, says_garbage: bool) -> None:
        self.path = path
        self._says_garbage = says_garbage
        self._listener = socket.socket(socket.AF_UNIX)
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._held:
            connection.close()

    def _accept(self) -> None:
        while len(self._held) < _MAX_CONNECTIONS:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._says_garbage:
                self._held.append(connection)
                continue
            with connection, suppress(OSError):
                connection.sendall(_GARBAGE)
