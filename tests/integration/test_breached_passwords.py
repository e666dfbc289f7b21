"""The range service for breached passwords, a real one over HTTP, in good and in bad shape."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from flowless.adapters.passwords.breached import BreachedPasswordRanges

KNOWN = "correct horse battery staple"
HASHED = hashlib.sha1(KNOWN.encode()).hexdigest().upper()


class RangeService:
    """Answers every request with `answer`; `None`: with nothing at all."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
                await writer.drain()
        finally:
            writer.close()

    def say(self, body: str, *, status: str = "200 OK") -> None:
        self.answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.fixture
async def service() -> AsyncIterator[RangeService]:
    made = RangeService()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/range/"
    async with server:
        yield made


@pytest.fixture
async def ranges(service: RangeService) -> AsyncIterator[BreachedPasswordRanges]:
    made = BreachedPasswordRanges(url=service.url, timeout_seconds=5)
    yield made
    await made.close()


async def test_only_five_characters_of_the_digest_leave_and_the_rest_is_compared_here(
    service: RangeService, ranges: BreachedPasswordRanges
) -> None:
    service.say(f"{'0' * 35}:3\r\n{HASHED[5:]}:12\r\n")
    assert await ranges.is_known(KNOWN)
    (request,) = service.requests
    assert request.startswith(f"GET /range/{HASHED[:5]} HTTP/1.1\r\n")
    assert HASHED[5:] not in request
    assert "add-padding: true" in request.lower()


@pytest.mark.parametrize("body", ["", f"{'0' * 35}:3", f"{HASHED[5:]}:0", f"{HASHED[5:]}", f"x{HASHED[5:]}:1"])
async def test_what_is_not_in_the_range_or_is_padding_is_not_known(
    service: RangeService, ranges: BreachedPasswordRanges, body: str
) -> None:
    service.say(body)
    assert not await ranges.is_known(KNOWN)
    assert ranges.failures == 0


@pytest.mark.parametrize(
    "status", ["500 Internal Server Error", "429 Too Many Requests", "302 Found", "404 Not Found"]
)
async def test_a_refusal_counts_as_not_known(
    service: RangeService, ranges: BreachedPasswordRanges, status: str
) -> None:
    service.say(f"{HASHED[5:]}:12", status=status)
    assert not await ranges.is_known(KNOWN)
    assert ranges.failures == 1


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd"])
async def test_nonsense_counts_as_not_known(
    service: RangeService, ranges: BreachedPasswordRanges, answer: bytes
) -> None:
    service.answer = answer
    assert not await ranges.is_known(KNOWN)
    assert ranges.failures == 1


async def test_an_endless_answer_is_cut(service: RangeService, ranges: BreachedPasswordRanges) -> None:
    service.say("x" * 3_000_000)
    assert not await ranges.is_known(KNOWN)
    assert ranges.failures == 1


async def test_silence_is_waited_for_briefly_and_counts_as_not_known(service: RangeService) -> None:
    service.answer = None
    ranges = BreachedPasswordRanges(url=service.url, timeout_seconds=0.05)
    assert [await ranges.is_known(KNOWN), ranges.failures] == [False, 1]
    await ranges.close()


async def test_a_service_that_is_gone_counts_as_not_known() -> None:
    ranges = BreachedPasswordRanges(url="http://127.0.0.1:1/range/")
    assert [await ranges.is_known(KNOWN), ranges.failures] == [False, 1]
    await ranges.close()
