"""A TCP proxy between two programs that can be cut, go deaf, be slow, and lose one direction."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards connections to `target` until told otherwise. Every socket and thread ends with the `with` block.

    - `cut` closes what is open and refuses what comes.
    - `go_deaf` accepts and swallows, and neither forwards nor closes anything; what it swallowed is forwarded when it
      is mended, as a network does that has only been slow.
    - `delay` forwards each piece that much later.
    - `half_close` shuts the way back to who connected: an end of the stream is seen there, while what is said still
      arrives at the target. So it goes for connections that come, too.
    - `mend` makes new connections work again, and open ones as far as they still are.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: dict[socket.socket, socket.socket] = {}  # who connected, and the connection on to the target
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()  # the acceptor, the pumps and the test share both
        self._closed = False
        self._refusing = False
        self._one_way = False
        self._delay_seconds = 0.0
        self._hurry = threading.Event()  # ends every delay that is under way
        self._hearing = threading.Event()
        self._hearing.set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def cut(self) -> None:
        self._refusing = True
        with self._lock:
            for near, far in self._open.items():
                _shut(near, socket.SHUT_RDWR)
                _shut(far, socket.SHUT_RDWR)

    def go_deaf(self) -> None:
        self._hearing.clear()

    def delay(self, seconds: float) -> None:
        self._hurry.clear()
        self._delay_seconds = seconds

    def half_close(self) -> None:
        self._one_way = True
        with self._lock:
            for near in self._open:
                _shut(near, socket.SHUT_WR)

    def mend(self) -> None:
        self._refusing = self._one_way = False
        self._delay_seconds = 0.0
        self._hurry.set()
        self._hearing.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.mend()
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            # A thread of its own: a target that hangs must not keep others from being refused.
            self._start(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        """Carry one connection to its end, and leave nothing of it."""
        try:
            if not self._refusing:
                self._carry(near)
        finally:
            near.close()
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _where(self) -> tuple[str, int]:
        return self._target

    def _carry(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._where(), 5)
        except OSError:
            return
        with far:
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open[near] = far
            if self._refusing:  # cut while it was being made
                _shut(near, socket.SHUT_RDWR)
            if self._one_way:
                _shut(near, socket.SHUT_WR)
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()
            with self._lock:
                del self._open[near]

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self._delay_seconds:
                    self._hurry.wait(self._delay_seconds)
                self._hearing.wait()
                if self._closed:
                    break
                try:
                    sink.sendall(data)
                except OSError:
                    if not self._one_way:
                        break  # otherwise what goes the shut way is lost, and the other way goes on
        for connection in (source, sink):
            _shut(connection, socket.SHUT_RDWR)


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        connection.shutdown(how)
