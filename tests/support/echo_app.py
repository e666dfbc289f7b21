"""An app behind a proxy: says what reached it, and echoes the bytes of a WebSocket. One thread, real sockets."""

import asyncio
import base64
import hashlib
import json
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import h11

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def websocket_accept(key: str) -> str:
    """What RFC 6455 has a server answer to `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


class EchoApp:
    """Answers every request with JSON: method, target, headers, length and SHA-256 of the body."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._converse(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        digest, length = hashlib.sha256(), 0
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Request):
                    request, digest, length = event, hashlib.sha256(), 0
                    self.requests += 1
                elif isinstance(event, h11.Data):
                    digest.update(event.data)
                    length += len(event.data)
                elif isinstance(event, h11.EndOfMessage) and request is not None:
                    headers = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
                    key = dict(headers).get("sec-websocket-key")
                    if key is not None:
                        await _echo_bytes(reader, writer, websocket_accept(key))
                        return
                    said = {
                        "method": request.method.decode(),
                        "target": request.target.decode(),
                        "headers": headers,
                        "length": length,
                        "sha256": digest.hexdigest(),
                    }
                    writer.write(_answer(http, json.dumps(said).encode(), is_head=request.method == b"HEAD"))
                    await writer.drain()
                    http.start_next_cycle()
                else:
                    return
        except (OSError, h11.ProtocolError):
            return
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


def _answer(http: h11.Connection, body: bytes, *, is_head: bool) -> bytes:
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    parts = [http.send(h11.Response(status_code=200, headers=headers))]
    if not is_head:
        parts.append(http.send(h11.Data(data=body)))
    return b"".join(part or b"" for part in [*parts, http.send(h11.EndOfMessage())])


async def _echo_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accept: str) -> None:
    """Shake hands and send every byte back; frames are the client's business."""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        + f"sec-websocket-accept: {accept}\r\n\r\n".encode()
    )
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
