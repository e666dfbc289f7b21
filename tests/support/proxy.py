"""A TCP proxy between two programs that can be cut and can go deaf."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards connections to `target` until told otherwise. Every socket and thread ends with the `with` block.

    `cut` closes what is open and refuses what comes; `go_deaf` accepts and swallows, and neither forwards nor
    closes anything; `mend` makes new connections work again.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # the acceptor, the pumps and the test share the lists
        self._closed = False
        self._refusing = False
        self._hearing = threading.Event()
        self._hearing.set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        self._refusing = True
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def go_deaf(self) -> None:
        self._hearing.clear()

    def mend(self) -> None:
        self._refusing = False
        self._hearing.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.cut()
        self._hearing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(10)
        for connection in self._open:
            connection.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open += [near, far]
            self._start(self._pump, near, far)
            self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._hearing.wait()
                if self._closed:
                    break
                sink.sendall(data)
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
