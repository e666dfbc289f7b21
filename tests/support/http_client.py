"""HTTP/1.1 by hand: what is sent is exactly what a test says, and connections can be kept."""

import json
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import h11

Headers = Sequence[tuple[str, str]]
CALL_SECONDS = 20.0
HOST = "app.example.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response. Names of headers are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that is there at most once."""
        values = [value for found, value in self.headers if found == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Connection:
    """One connection to a port of this machine, or to a Unix socket."""

    def __init__(self, address: int | str, *, source: str = "127.0.0.1") -> None:
        """`source`: the address that the other side sees."""
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), CALL_SECONDS, source_address=(source, 0))
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(CALL_SECONDS)
            self.socket.connect(address)
        self._http = h11.Connection(h11.CLIENT)

    def send(self, method: str, target: str, headers: Headers = (), body: bytes = b"") -> None:
        """Send a request without waiting; nothing of it is checked or changed."""
        lines = [f"{method} {target} HTTP/1.1", f"host: {HOST}", *(f"{name}: {value}" for name, value in headers)]
        if body:
            lines.append(f"content-length: {len(body)}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def receive(self, method: str = "GET") -> Answer:
        """Read the answer to the oldest request."""
        self._http.send(h11.Request(method=method.upper(), target="/", headers=[("host", HOST)]))
        self._http.send(h11.EndOfMessage())
        response: h11.Response | None = None
        body = b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(self.socket.recv(65_536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise ConnectionResetError(str(event))
        assert response is not None
        if self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return Answer(
            status=response.status_code,
            headers=tuple((name.decode(), value.decode("latin-1")) for name, value in response.headers),
            body=body,
        )

    def exchange(self, method: str, target: str, headers: Headers = (), body: bytes = b"") -> Answer:
        """Send a request and read its answer."""
        self.send(method, target, headers, body)
        return self.receive(method)

    def is_closed(self) -> bool:
        """Whether the other side has closed it, now or soon."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exchange(
    address: int | str,
    method: str,
    target: str,
    headers: Headers = (),
    body: bytes = b"",
    *,
    source: str = "127.0.0.1",
) -> Answer:
    """Send one request on a connection of its own."""
    with closing(Connection(address, source=source)) as connection:
        return connection.exchange(method, target, headers, body)
