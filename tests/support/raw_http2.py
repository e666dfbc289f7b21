"""An HTTP/2 client without manners: it opens streams, sends no message, and reads nothing unless it wants to.

Only what attacks need of RFC 9113: literal header fields, SETTINGS and PING acknowledged so that the connection stays
alive.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


class RawHttp2:
    """One connection. `window` is what each stream may be sent: 0 reads nothing."""

    def __init__(self, address: str, *, window: int = 65_535) -> None:
        if address.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)), 10)
        self._socket.settimeout(None)
        self._next = 1
        self._mute = False
        self._lock = threading.Lock()
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self._socket.sendall(preface + _frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))
        self.ended = threading.Event()
        """Set when the other side has closed the connection."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"", *, cut_at: int | None = None) -> None:
        """Send a frame, whatever sense it makes, or only its beginning."""
        with self._lock:
            self._socket.sendall(_frame(kind, flags, stream, payload)[:cut_at])

    def mute(self) -> None:
        """Answer no SETTINGS and no PING any more."""
        self._mute = True

    def open(self, path: str, *, message: bytes | None = None, credential: str = "") -> int:
        """Begin a call with headers alone, or with one message; the stream, whose number it gives, stays open."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
                  ("content-type", "application/grpc"), ("te", "trailers")]  # fmt: skip
        if credential:
            fields.append(("authorization", f"Bearer {credential}"))
        block = b"".join(_literal(name) + _literal(value, first=b"") for name, value in fields)
        with self._lock:
            stream, self._next = self._next, self._next + 2
            self._socket.sendall(_frame(HEADERS, END_HEADERS, stream, block))
            if message is not None:
                self._socket.sendall(_frame(DATA, 0, stream, b"\0" + struct.pack(">I", len(message)) + message))
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._socket.close()

    def _read(self) -> None:
        with ended(self.ended), suppress(OSError, EOFError):
            while True:
                head = self._receive(9)
                kind, flags = head[3], head[4]
                payload = self._receive(int.from_bytes(head[:3]))
                if kind in (SETTINGS, PING) and not flags & ACK and not self._mute:
                    with self._lock:
                        self._socket.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


@contextmanager
def ended(event: threading.Event) -> Iterator[None]:
    """Set the event at the end."""
    try:
        yield
    finally:
        event.set()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal(text: str, *, first: bytes = b"\0") -> bytes:
    """A header string as RFC 7541 writes it without index and Huffman code; short ones only."""
    data = text.encode()
    assert len(data) < 127
    return first + bytes([len(data)]) + data
