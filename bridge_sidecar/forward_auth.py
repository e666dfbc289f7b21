"""Forward-auth over plain HTTP, for proxies that ask with a request of their own: nginx, Caddy, Traefik.

The proxy says in headers what it knows of the client's request, and obeys the answer's status; on 200 it hands the
answer's headers on to the app. An answer cannot take a header away from the client's request, so one that still holds
an identity header is refused: a proxy that was not told to remove them closes the app rather than opening it.

Only loopback and Unix sockets: who may ask here is believed about method, URI and client IP. The protocol is h11's. A
connection holds one request at a time; those that a client sends ahead wait in buffers of bounded size.
"""

import asyncio
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import h11

from bridge_sidecar.gate import IDENTITY_HEADER_SENT, Decision, Gate, GateRequest, refused, unavailable
from bridge_sidecar.gate_config import UNIX
from bridge_sidecar.http_requests import Headers, lines_of
from bridge_sidecar.identity_headers import guarded
from trust_core import logs, request_ids
from trust_core.modes import DenialReason
from trust_core.tracing import TRACEPARENT, Tracer
from trust_core.unix_socket import UnixSocket

PATH: Final = "/forward-auth"
REASON_HEADER: Final = "x-denial-reason"
MAX_CONNECTIONS: Final = 512
"""Those on top are closed at once, without an answer: the proxy refuses its request."""
MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_BODY_BYTES: Final = 16 * 1024
"""Nothing needs a body here. A small one is read and dropped, a larger one ends the connection."""
_READ_BYTES: Final = 16 * 1024
_BACKLOG: Final = 512
_IDLE_SECONDS: Final = 75.0
"""For the next request on a connection; longer than nginx keeps one, so that it is nginx that closes."""
_REQUEST_SECONDS: Final = 5.0
"""From the first byte of a request to its last, and for an answer to be taken."""
_DECISION_SECONDS: Final = 10.0


class ForwardAuth:
    """The endpoint. Touched by the event loop only."""

    def __init__(
        self, *, listen: str, request_headers: tuple[str, str], gate: Gate, tracer: Tracer | None = None
    ) -> None:
        """`listen`: `host:port` or `unix:/path`; `request_headers`: names of those with the method and the URI."""
        self._listen = listen
        self._asker = _Asker(request_headers=request_headers, gate=gate, tracer=tracer)
        self._unix: UnixSocket | None = None
        self._server: asyncio.Server | None = None
        self._conversations: dict[asyncio.Task[None], _Conversation] = {}
        self.address = ""

    async def start(self) -> None:
        """Listen. Raises `SocketError` or OSError."""
        self._server = await asyncio.start_server(self._accept, sock=self._socket())

    def _socket(self) -> socket.socket:
        if not self._listen.startswith(UNIX):
            host, _, port = self._listen.rpartition(":")
            listener = socket.create_server(
                (host.strip("[]"), int(port)), family=_family(host), backlog=_BACKLOG, reuse_port=False
            )
            self.address = f"{host}:{listener.getsockname()[1]}"
            return listener
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._unix = UnixSocket(path=self._listen.removeprefix(UNIX))
            self._unix.claim(lambda address: listener.bind(address.removeprefix(UNIX)))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        self.address = self._listen
        return listener

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._conversations) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        conversation = _Conversation(reader=reader, writer=writer, asker=self._asker)
        task = asyncio.create_task(conversation.run())
        self._conversations[task] = conversation
        task.add_done_callback(lambda done: self._conversations.pop(done, None))

    async def stop(self, *, drain_seconds: float) -> None:
        """Accept nothing new, close what is idle, let answers under way finish for `drain_seconds`."""
        if self._server is not None:
            self._server.close()
        tasks = dict(self._conversations)
        for task, conversation in tasks.items():
            conversation.draining = True
            if conversation.idle:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=drain_seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._unix is not None:
            self._unix.release()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Asker:
    """Makes a gate's question of a proxy's request."""

    def __init__(self, *, request_headers: tuple[str, str], gate: Gate, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._method_header, self._uri_header = request_headers
        self._gate = gate
        self._log: Any = logs.get_logger("bridge-sidecar")

    async def ask(self, request: h11.Request) -> Decision | None:
        """Return the gate's decision; `None` when this is not its address."""
        if request.target.decode("latin-1").partition("?")[0] != PATH:
            return None
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        # One task answers all requests of a connection: each begins with an id of its own.
        known_as = request_ids.begin(request_ids.RequestId())
        known_as.prefer("".join(lines_of(headers, request_ids.METADATA_KEY)))
        if self._tracer is None:
            return await self._decide(headers)
        span = self._tracer.serve("forward-auth", "".join(lines_of(headers, TRACEPARENT)))
        try:
            return await self._decide(headers)
        finally:
            span.end()

    async def _decide(self, headers: Headers) -> Decision:
        if guarded(headers):
            return refused(IDENTITY_HEADER_SENT, HTTPStatus.FORBIDDEN)
        methods, uris = lines_of(headers, self._method_header), lines_of(headers, self._uri_header)
        # Said twice, a client may have said one of them. Not said, this endpoint's own path must not stand for it.
        if len(methods) != 1 or len(uris) != 1:
            return refused(DenialReason.ROUTE_NOT_COVERED.name, HTTPStatus.FORBIDDEN)
        question = GateRequest(method=methods[0], path=uris[0], headers=headers, peer=None)
        try:
            async with asyncio.timeout(_DECISION_SECONDS):
                return await self._gate.decide(question)
        except TimeoutError:
            return unavailable(None)
        except Exception as error:  # noqa: BLE001 - this is the boundary: its text must not leave
            self._log.error("forward-auth failed unexpectedly", **logs.describe_exception(error))
            return unavailable(None)


class _Conversation:
    """One connection, from its first byte to its last."""

    def __init__(self, *, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asker: _Asker) -> None:
        self._reader = reader
        self._writer = writer
        self._asker = asker
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.idle = True
        self.draining = False

    async def run(self) -> None:
        """Answer requests until either side ends it. Errors of the connection end it, and are nobody's business."""
        try:
            while await self._exchange():
                self._http.start_next_cycle()
        except (OSError, TimeoutError, h11.LocalProtocolError):
            pass
        except h11.RemoteProtocolError as error:
            with suppress(OSError, TimeoutError, h11.LocalProtocolError):
                await self._send(HTTPStatus(error.error_status_hint), [], b"")
        finally:
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()  # for a peer that takes nothing

    async def _exchange(self) -> bool:
        """Read one request and answer it; say whether another may follow."""
        self.idle = True
        async with asyncio.timeout(_IDLE_SECONDS):
            if not self._http.trailing_data[0] and not await self._read():
                return False
        self.idle = False
        async with asyncio.timeout(_REQUEST_SECONDS):
            request = await self._next_event()
            if not isinstance(request, h11.Request):
                return False
            await self._drop_body()
        decision = await self._asker.ask(request)
        if decision is None:
            await self._send(HTTPStatus.NOT_FOUND, [], b"")
        else:
            # nginx drops the body of a refusal, and can hand on a header.
            reason = [(REASON_HEADER, decision.reason)] if decision.reason else []
            body = b"" if request.method == b"HEAD" else decision.body
            await self._send(decision.status, [*decision.headers, *reason], body, length=len(decision.body))
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _read(self) -> bool:
        data = await self._reader.read(_READ_BYTES)
        self._http.receive_data(data)
        return bool(data)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            await self._read()
        return event

    async def _drop_body(self) -> None:
        """Read what follows the head. What is left unread keeps the connection from being used again."""
        dropped = 0
        while not self._http.they_are_waiting_for_100_continue and dropped <= _MAX_BODY_BYTES:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return
            dropped += len(event.data)

    async def _send(
        self, status: HTTPStatus, headers: list[tuple[str, str]], body: bytes, *, length: int | None = None
    ) -> None:
        reusable = self._http.their_state is h11.DONE and not self.draining
        answer = h11.Response(
            status_code=int(status),
            reason=status.phrase.encode("ascii"),
            headers=[
                *headers,
                ("content-length", str(len(body) if length is None else length)),
                *(() if reusable else (("connection", "close"),)),
            ],
        )
        parts = [self._http.send(answer)]
        if body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        async with asyncio.timeout(_REQUEST_SECONDS):
            await self._writer.drain()
