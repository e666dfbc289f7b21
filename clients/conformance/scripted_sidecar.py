"""A server on a Unix socket that answers by script: for what no real sidecar of this version can be made to do.

A newer sidecar, one that answers what nobody may answer, one that never answers, and one that counts how often it is
asked. Whatever a real pair can show is shown with a real pair.
"""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from clients.conformance.methods import METHODS, full_name
from clients.conformance.plain import fill, plain

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
_LONGEST_ANSWER_SECONDS: Final = 30.0
_THREADS: Final = 64
_MAX_BYTES: Final = 16 * 1024 * 1024
_DOMAIN: Final = "trustlayer"
# Fields 9001 (a number), 9002 (a text), 9003 (a message) and 9004 (eight bytes), which no message of ours has.
_UNKNOWN_FIELDS: Final = (
    b"\xc8\xb2\x04\x07"
    + b"\xd2\xb2\x04\x03new"
    + b"\xda\xb2\x04\x02\x08\x01"
    + b"\xe1\xb2\x04\x01\x02\x03\x04\x05\x06\x07\x08"
)
_KNOWN: Final = frozenset(("response", "error", "garbage", "never", "after", "newer", "message_first"))


class ScriptError(Exception):
    """A script is wrong; the text says how."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One call as the server saw it. `ended_early`: the client was gone before there was an answer."""

    at: float
    request: dict[str, Any]
    deadline: float | None
    ended_early: bool = False


@dataclass(slots=True)
class Script:
    """What to answer, by method, in order; the last answer of a method is given again and again."""

    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for method, answers in self.answers.items():
            if method not in METHODS or not answers:
                raise ScriptError(f"{method}: no such method, or no answer")
            for answer in answers:
                if not _KNOWN.issuperset(answer):
                    raise ScriptError(f"{method}: an answer is made of {', '.join(sorted(_KNOWN))}")
                _encoded(method, answer)

    def seen(self, method: str) -> dict[str, Any]:
        """Say what was seen of a method, in the words that cases use.

        `gaps` are the seconds between the beginnings of calls, `deadlines` the seconds that each had left, `deadline`
        those of the first.
        """
        calls = self.asked.get(method, [])
        seen: dict[str, Any] = {
            "calls": len(calls),
            "ended_early": sum(call.ended_early for call in calls),
            "gaps": [after.at - before.at for before, after in itertools.pairwise(calls)],
        }
        if calls:
            seen["request"] = calls[0].request
            seen["deadlines"] = [call.deadline for call in calls]
            if calls[0].deadline is not None:
                seen["deadline"] = calls[0].deadline
        return seen


class ScriptedSidecar(grpc.GenericRpcHandler):
    """Serves the socket for as long as the `with` block lasts. Its script is replaced case by case."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.script = Script({})
        self._lock = threading.Lock()  # gRPC's threads note what they see
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS),
            handlers=[self],
            options=(("grpc.max_send_message_length", _MAX_BYTES), ("grpc.max_receive_message_length", _MAX_BYTES)),
        )

    def play(self, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Answer by this from now on; calls that wait still are let go. Raises `ScriptError` or ValueError."""
        fresh = Script(answers)
        self.script.over.set()
        self.script = fresh

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a method that the script has; `None` for others, which are unimplemented."""
        path = handler_call_details.method
        for method in self.script.answers:
            if path == f"/{full_name(method)}":
                return grpc.unary_unary_rpc_method_handler(self._behavior(method, self.script))
        return None

    def _behavior(self, method: str, script: Script) -> Any:
        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            request = message_factory.GetMessageClass(METHODS[method].input_type)()
            request.ParseFromString(data)
            call = Asked(at=time.monotonic(), request=plain(request), deadline=context.time_remaining())
            with self._lock:
                calls = script.asked.setdefault(method, [])
                scripted = script.answers[method][min(len(calls), len(script.answers[method]) - 1)]
                calls.append(call)
            return _answered(method, scripted, call, context, script.over)

        return answer

    def __enter__(self) -> Self:
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.script.over.set()
        self._server.stop(0).wait()


def _answered(
    method: str, scripted: Mapping[str, Any], call: Asked, context: grpc.ServicerContext, over: threading.Event
) -> bytes:
    """Answer as scripted, or notice that the client has gone."""
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()
    patience = _LONGEST_ANSWER_SECONDS if scripted.get("never") else float(scripted.get("after", 0.0))
    until = time.monotonic() + patience
    while time.monotonic() < until and not gone.wait(0.01) and not over.is_set():
        pass
    if gone.is_set():
        call.ended_early = True
        return b""
    data, status = _encoded(method, scripted)
    if status is None:
        return data
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    if status.details:
        context.set_trailing_metadata(((STATUS_DETAILS_KEY, status.SerializeToString()),))
    if not scripted.get("message_first"):
        context.abort(code, status.message)
    context.set_code(code)
    context.set_details(status.message)
    return data


def _encoded(method: str, scripted: Mapping[str, Any]) -> tuple[bytes, status_pb2.Status | None]:
    """Make the bytes of an answer, and the status of an error if it is one."""
    status = _status(**scripted["error"]) if "error" in scripted else None
    if scripted.get("garbage"):
        return b"\xff\xff\xff\xff\xff", status
    response = message_factory.GetMessageClass(METHODS[method].output_type)()
    fill(response, scripted.get("response", {}))
    if scripted.get("newer"):
        _add_unknown_fields(response)
    return response.SerializeToString(), status


def _add_unknown_fields(message: Message) -> None:
    """Add to a message, and to every one in it that is ours, fields that this version does not know."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or not descriptor.message_type.full_name.startswith("trustlayer."):
            continue
        for inner in value if descriptor.is_repeated else (value,):
            _add_unknown_fields(inner)
    message.MergeFromString(_UNKNOWN_FIELDS)


def _status(
    *,
    code: str,
    message: str = "",
    reason: str = "",
    domain: str = _DOMAIN,
    retry_after: float | None = None,
    fields: Sequence[str] = (),
    request_id: str = "",
    newer: bool = False,
) -> status_pb2.Status:
    """Make an error as ours are; `newer` adds details that this version does not know."""
    details: list[Message] = []
    if newer:
        details.append(error_details_pb2.Help(links=[error_details_pb2.Help.Link(description="new")]))
    if reason:
        details.append(
            error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"new": "1"} if newer else {})
        )
    if fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description="is wrong") for name in fields
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if retry_after is not None:
        nanos = round(retry_after * 1e9)
        delay = Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    packed = [Packed() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    if newer:
        packed.insert(0, Packed(type_url="type.googleapis.com/trustlayer.v9.NewDetail", value=b"\x08\x01"))
    number = grpc.StatusCode[code].value[0]
    return status_pb2.Status(code=number, message=message, details=packed)
