"""The edge on a real server and a real socket: what a client gets to know of an error, and what it does not."""

import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.support.rpc import detail, reason, status_of
from trust_core import logs
from trust_core.errors import Reason, TrustError, Violation, invalid
from trust_core.grpc_edge import STATUS_DETAILS_KEY, ErrorBoundary, reason_of
from trustlayer.v1 import bridge_pb2, validator_pb2
from trustlayer.v1.bridge_pb2_grpc import BridgeServiceServicer, add_BridgeServiceServicer_to_server
from trustlayer.v1.validator_pb2_grpc import (
    ValidatorServiceServicer,
    ValidatorServiceStub,
    add_ValidatorServiceServicer_to_server,
)

Act = Callable[[], None]
VALIDATE = "/trustlayer.v1.ValidatorService/Validate"
WATCH = "/trustlayer.v1.BridgeService/WatchRevocations"
PREWARM = "/trustlayer.v1.BridgeService/PrewarmSessions"
NOT_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, two bytes
SECRET = "hunter2 in SELECT * FROM users"


class Acting(ValidatorServiceServicer, BridgeServiceServicer):
    """Does what the test says, in every kind of RPC, after one answer in those that stream."""

    def __init__(self) -> None:
        self.act: Act = lambda: None

    async def Validate(self, request: Any, context: Any) -> validator_pb2.ValidateResponse:  # noqa: N802
        self.act()
        return validator_pb2.ValidateResponse()

    async def WatchRevocations(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for _ in request_iterator:
            yield bridge_pb2.WatchRevocationsResponse()
            self.act()

    async def PrewarmSessions(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield bridge_pb2.PrewarmSessionsResponse()
        self.act()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(level="debug", style="json", stream=stream)
    yield stream
    logs.configure()


@pytest.fixture
def servicer() -> Acting:
    return Acting()  # type: ignore[abstract]  # the RPCs left out answer UNIMPLEMENTED


@pytest.fixture
async def channel(run_dir: Path, servicer: Acting, log: io.StringIO) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorBoundary(program="edge-test")])
    add_ValidatorServiceServicer_to_server(servicer, server)
    add_BridgeServiceServicer_to_server(servicer, server)
    address = f"unix:{run_dir / 'edge.sock'}"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as open_channel:
        yield open_channel
    await server.stop(None)


async def _validate(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> validator_pb2.ValidateResponse:
    return await ValidatorServiceStub(channel).Validate(validator_pb2.ValidateRequest(), metadata=metadata)


async def _refused(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _validate(channel, *metadata)
    return caught.value


# `Any`: grpcio's type stubs do not know calls without serialisers.
def _unary(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(method)


async def _prewarm(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    call: Any = channel.unary_stream(PREWARM)
    return [answer async for answer in call(request)]


async def _watch(channel: grpc.aio.Channel, *requests: bytes) -> list[bytes]:
    async def send() -> AsyncIterator[bytes]:
        for request in requests:
            yield request

    call: Any = channel.stream_stream(WATCH)
    return [answer async for answer in call(send())]


def _raising(error: Exception) -> Act:
    def act() -> None:
        raise error

    return act


def _events(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_a_call_that_succeeds_passes_unchanged_and_unlogged(
    channel: grpc.aio.Channel, log: io.StringIO
) -> None:
    assert await _validate(channel) == validator_pb2.ValidateResponse()
    assert log.getvalue() == ""


async def test_an_error_of_ours_carries_code_text_reason_and_request_id(
    channel: grpc.aio.Channel, servicer: Acting
) -> None:
    servicer.act = _raising(TrustError(Reason.USER_NOT_FOUND, "no such user"))
    error = await _refused(channel, ("x-request-id", "abc-1"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such user"
    assert detail(error, error_details_pb2.ErrorInfo) == error_details_pb2.ErrorInfo(
        reason="USER_NOT_FOUND", domain="trustlayer"
    )
    assert detail(error, error_details_pb2.RequestInfo) == error_details_pb2.RequestInfo(request_id="abc-1")
    assert detail(error, error_details_pb2.BadRequest) is None
    assert detail(error, error_details_pb2.RetryInfo) is None


async def test_the_rich_status_agrees_with_the_plain_one(channel: grpc.aio.Channel, servicer: Acting) -> None:
    servicer.act = _raising(TrustError(Reason.USER_NOT_FOUND, "no such user"))
    error = await _refused(channel)
    assert (status_of(error).code, status_of(error).message) == (grpc.StatusCode.NOT_FOUND.value[0], "no such user")


@pytest.mark.parametrize("expected", Reason)
async def test_every_reason_reaches_the_client_with_its_code_and_retry_advice(
    channel: grpc.aio.Channel, servicer: Acting, expected: Reason
) -> None:
    raised = TrustError(expected, "text")
    servicer.act = _raising(raised)
    error = await _refused(channel)
    assert error.code().name == raised.code.value
    assert reason(error) == reason_of(error) == expected.value
    retry = detail(error, error_details_pb2.RetryInfo)
    assert (retry.retry_delay.ToTimedelta().total_seconds() if retry else None) == raised.retry_after


async def test_field_violations_reach_the_client_one_by_one(channel: grpc.aio.Channel, servicer: Acting) -> None:
    servicer.act = _raising(invalid(Violation("email", "is required"), Violation("password", "is too short")))
    error = await _refused(channel)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = detail(error, error_details_pb2.BadRequest)
    assert found is not None
    assert [(violation.field, violation.description) for violation in found.field_violations] == [
        ("email", "is required"),
        ("password", "is too short"),
    ]


async def test_the_text_of_an_unexpected_exception_reaches_neither_client_nor_log(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO
) -> None:
    def act() -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            raise RuntimeError(SECRET) from cause

    servicer.act = act
    error = await _refused(channel, ("x-request-id", "abc-2"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason(error) == "INTERNAL"
    assert "abc-2" in (error.details() or "")
    seen_by_the_client = f"{error.details()}{error.debug_error_string()}{status_of(error)}{error.trailing_metadata()}"
    assert "hunter2" not in seen_by_the_client
    assert "RuntimeError" not in seen_by_the_client
    assert "hunter2" not in log.getvalue()


async def test_an_unexpected_exception_is_logged_once_with_its_place_and_the_request_id(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO
) -> None:
    servicer.act = _raising(RuntimeError(SECRET))
    await _refused(channel, ("x-request-id", "abc-3"))
    (event,) = _events(log)
    assert event["level"] == "error"
    assert event["request_id"] == "abc-3"
    assert event["method"] == VALIDATE
    assert event["exception"][0].startswith("builtins.RuntimeError at act:")


async def test_an_error_of_ours_is_not_logged_as_an_error(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO
) -> None:
    servicer.act = _raising(TrustError(Reason.USER_NOT_FOUND, "no such user"))
    await _refused(channel)
    (event,) = _events(log)
    assert (event["level"], event["reason"]) == ("debug", "USER_NOT_FOUND")


async def test_a_string_that_is_not_utf8_is_malformed_and_no_parser_text_leaves(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO
) -> None:
    servicer.act = _raising(AssertionError("the handler must not run"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _unary(channel, VALIDATE)(NOT_UTF8)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "MALFORMED_MESSAGE"
    assert caught.value.details() == "the bytes are not this RPC's request message; strings must be UTF-8"
    assert all(event["level"] == "debug" for event in _events(log))


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\xff", b"\x0b", bytes(3)])
async def test_bytes_that_are_no_message_at_all_are_malformed(channel: grpc.aio.Channel, garbage: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _unary(channel, VALIDATE)(garbage)
    assert reason(caught.value) == "MALFORMED_MESSAGE"


async def test_a_malformed_message_in_a_stream_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _watch(channel, b"", b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "MALFORMED_MESSAGE"


async def test_a_malformed_request_of_a_streaming_answer_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _prewarm(channel, b"\xff")
    assert reason(caught.value) == "MALFORMED_MESSAGE"


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (TrustError(Reason.DRAINING, "about to stop"), grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        (RuntimeError(SECRET), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_errors_in_streams_go_through_the_same_edge(
    channel: grpc.aio.Channel, servicer: Acting, raised: Exception, code: grpc.StatusCode, expected: str
) -> None:
    servicer.act = _raising(raised)
    with pytest.raises(grpc.aio.AioRpcError) as watched:
        await _watch(channel, b"")
    with pytest.raises(grpc.aio.AioRpcError) as prewarmed:
        await _prewarm(channel, b"")
    for error in (watched.value, prewarmed.value):
        assert error.code() is code
        assert reason(error) == expected
        assert "hunter2" not in f"{error.details()}{error.debug_error_string()}{error.trailing_metadata()}"


@pytest.mark.parametrize("harmless", ["a", "0123456789abcdef", "A.b_c-9", "x" * 64])
async def test_a_harmless_request_id_of_the_caller_is_kept(
    channel: grpc.aio.Channel, servicer: Acting, harmless: str
) -> None:
    servicer.act = _raising(TrustError(Reason.CONFLICT, "text"))
    info = detail(await _refused(channel, ("x-request-id", harmless)), error_details_pb2.RequestInfo)
    assert info is not None
    assert info.request_id == harmless


@pytest.mark.parametrize("strange", ["", " ", "a b", "x" * 65, "<script>", "a/b", "a;b"])
async def test_a_strange_request_id_of_the_caller_is_replaced(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO, strange: str
) -> None:
    servicer.act = _raising(RuntimeError(SECRET))
    info = detail(await _refused(channel, ("x-request-id", strange)), error_details_pb2.RequestInfo)
    assert info is not None
    assert info.request_id != strange
    assert len(info.request_id) == 16
    assert _events(log)[0]["request_id"] == info.request_id


async def test_an_answer_says_the_request_id_if_something_was_written_under_it_and_only_then(
    channel: grpc.aio.Channel, servicer: Acting
) -> None:
    async def said() -> Any:
        call = ValidatorServiceStub(channel).Validate(
            validator_pb2.ValidateRequest(), metadata=(("x-request-id", "abc-4"),)
        )
        await call
        return dict(await call.trailing_metadata()).get("x-request-id")

    assert await said() is None
    servicer.act = lambda: logs.get_logger("edge-test").info("something")
    assert await said() == "abc-4"


async def test_whatever_a_call_logs_names_its_request(
    channel: grpc.aio.Channel, servicer: Acting, log: io.StringIO
) -> None:
    servicer.act = lambda: logs.get_logger("edge-test").info("something")
    await _validate(channel, ("x-request-id", "abc-5"))
    (event,) = _events(log)
    assert event["request_id"] == "abc-5"


async def test_two_calls_without_a_request_id_get_different_ones(channel: grpc.aio.Channel, servicer: Acting) -> None:
    servicer.act = _raising(TrustError(Reason.CONFLICT, "text"))
    infos = [detail(await _refused(channel), error_details_pb2.RequestInfo) for _ in range(2)]
    assert infos[0] != infos[1]


async def test_a_method_that_does_not_exist_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _unary(channel, "/trustlayer.v1.ValidatorService/Invented")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("corrupt", ["status", "detail"])
def test_an_error_whose_details_are_corrupt_has_no_reason_and_raises_nothing(corrupt: str) -> None:
    broken = status_pb2.Status(code=14)
    info = broken.details.add()
    info.Pack(error_details_pb2.ErrorInfo(reason="X", domain="trustlayer"))
    info.value = b"\xff\xff"
    details = b"\xff\xff" if corrupt == "status" else broken.SerializeToString()
    trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing)
    assert reason_of(error) == ""


async def test_an_error_that_carries_no_reason_of_ours_has_none(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _unary(channel, "/trustlayer.v1.ValidatorService/Invented")(b"")
    assert reason_of(caught.value) == ""
    assert reason_of(grpc.RpcError()) == ""
