"""A client misbehaves in many ways; it is cut off or refused, and the good client beside it is served."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import grpc
import pytest

from tests.support.flowless import Client, bearer, code_of, outcome
from tests.support.raw_http2 import CONTINUATION, HEADERS, PING, RESET, RawHttp2
from tests.support.system import App, prepared_flowless
from tools.processes import SidecarProcess, temporary_directory

pytestmark = pytest.mark.long

WAIT_SECONDS = 60.0
CONNECTIONS = 40
FLOWLESS, SIDECAR = "/trustlayer.v1.BridgeService/ValidateSession", "/trustlayer.v1.ValidatorService/Validate"
GARBAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """A listener, and the good client's way to it."""

    name: str
    address: str
    path: str
    secret: str
    ask: Callable[[], object]

    def serves(self) -> None:
        """The good client is answered, ten times in a row."""
        assert {outcome(self.ask) for _ in range(10)} == {("OK", "")}

    def dial(self) -> socket.socket:
        """A connection on which nothing was said."""
        if self.address.startswith("unix:"):
            dialled = socket.socket(socket.AF_UNIX)
            dialled.connect(self.address.removeprefix("unix:"))
        else:
            host, _, port = self.address.rpartition(":")
            dialled = socket.create_connection((host, int(port)), WAIT_SECONDS)
        dialled.settimeout(WAIT_SECONDS)
        return dialled


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    environment = {"FLOWLESS_MAX_CONNECTIONS": str(CONNECTIONS)}
    with temporary_directory() as directory, ExitStack() as stack:
        flowless, secret = stack.enter_context(prepared_flowless(directory, environment=environment))
        sidecar = SidecarProcess(directory=directory, upstream=flowless.address, secret=secret)
        stack.enter_context(sidecar)
        channels = [
            stack.enter_context(grpc.insecure_channel(address)) for address in (flowless.address, sidecar.address)
        ]
        app, client = App(channels[1]), Client(channels[0], secret)
        app.wait_for_lease()
        app.register("ada@example.org")
        session_id = app.log_in("ada@example.org").session_id
        yield {
            "flowless": Target("flowless", flowless.address, FLOWLESS, secret, lambda: client.denial("x")),
            "sidecar": Target("sidecar", sidecar.address, SIDECAR, secret, lambda: app.validate(session_id)),
        }


@pytest.fixture(params=["flowless", "sidecar"])
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Iterator[Target]:
    chosen = targets[request.param]
    chosen.serves()
    yield chosen
    for each in targets.values():
        each.serves()


def _cut(raw: RawHttp2, target: Target) -> None:
    """The attacker is cut off in the end, and the good client is served until then."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not raw.ended.is_set():
        assert time.monotonic() < deadline, "nobody cuts it off"
        target.serves()


def _while_open(raw: RawHttp2, act: Callable[[int], None], times: int) -> None:
    with suppress(OSError):
        for number in range(times):
            if raw.ended.is_set():
                return
            act(number)


def test_connections_that_say_nothing_or_nonsense_are_closed(target: Target) -> None:
    with ExitStack() as stack:
        silent, slow, nonsense = (stack.enter_context(target.dial()) for _ in range(3))
        nonsense.sendall(GARBAGE)
        slow.sendall(b"PRI * HTTP/2.0\r\n")
        for dialled in (nonsense, silent, slow):
            target.serves()
            with suppress(ConnectionResetError):
                while dialled.recv(65_536):  # what is said last, then the end; a timeout fails the test
                    pass


def test_a_client_that_pings_without_end_is_cut_off(target: Target) -> None:
    with RawHttp2(target.address) as raw:
        _while_open(raw, lambda number: raw.send(PING, 0, 0, number.to_bytes(8)), 100_000)
        _cut(raw, target)


def test_headers_without_end_are_not_collected(target: Target) -> None:
    with RawHttp2(target.address) as raw:
        field = b"\0\x01x" + b"\x7f\xa1\x1e" + b"a" * 4_000  # a literal of 4,000 bytes
        raw.send(HEADERS, 0, 1, field)
        _while_open(raw, lambda _: raw.send(CONTINUATION, 0, 1, field), 100_000)
        _cut(raw, target)


def test_a_call_with_large_headers_is_refused_and_the_connection_lives(target: Target) -> None:
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary(target.path, request_serializer=bytes, response_deserializer=bytes)
        for size, code in ((40_000, "RESOURCE_EXHAUSTED"), (1_000, None)):
            metadata = (*bearer(target.secret), ("x-large", "a" * size))
            ended = outcome(lambda: call(b"", metadata=metadata, timeout=20))[0]  # noqa: B023 - called at once
            assert ended == code if code else ended in {"OK", "INVALID_ARGUMENT"}


def test_a_message_that_is_too_large_is_refused(target: Target) -> None:
    with grpc.insecure_channel(target.address, options=(("grpc.max_send_message_length", -1),)) as channel:
        call = channel.unary_unary(target.path, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x7a" + bytes(2 * 1024 * 1024), metadata=bearer(target.secret), timeout=20)
        assert code_of(caught.value) == "RESOURCE_EXHAUSTED"


def test_streams_that_are_opened_and_reset_without_end_keep_nobody_from_being_served(target: Target) -> None:
    with RawHttp2(target.address) as raw:

        def reset(number: int) -> None:
            stream = raw.open(target.path, credential=target.secret)
            raw.send(RESET, 0, stream, (8).to_bytes(4))
            if number % 500 == 0:
                target.serves()

        _while_open(raw, reset, 5_000)
        target.serves()


def test_more_streams_than_a_connection_may_have_are_refused(target: Target) -> None:
    with RawHttp2(target.address) as raw:
        _while_open(raw, lambda _: void(raw.open(target.path, credential=target.secret)), 3_000)
        target.serves()


def void(_: object) -> None:
    """Throw it away."""


def test_a_frame_that_never_ends_is_noticed_by_its_silence(targets: dict[str, Target]) -> None:
    target = targets["flowless"]
    with RawHttp2(target.address) as raw:
        raw.send(HEADERS, 0, 1, bytes(1_000), cut_at=20)
        # From here on it can answer no ping: that would stand in the middle of its frame.
        raw.mute()
        _cut(raw, target)


def test_connections_beyond_the_bound_are_closed_and_those_that_are_open_go_on(targets: dict[str, Target]) -> None:
    target = targets["flowless"]
    with ExitStack() as stack:
        raws = [stack.enter_context(RawHttp2(target.address)) for _ in range(2 * CONNECTIONS)]
        deadline = time.monotonic() + WAIT_SECONDS
        while sum(raw.ended.is_set() for raw in raws) < CONNECTIONS:
            assert time.monotonic() < deadline, "all may stay"
            time.sleep(0.05)
        target.serves()
        targets["sidecar"].serves()
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with grpc.insecure_channel(target.address) as channel:
            if outcome(lambda: Client(channel, target.secret).denial("x")) == ("OK", ""):
                return
        assert time.monotonic() < deadline, "places are never freed"
