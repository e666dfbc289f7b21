"""Traces made with OpenTelemetry. Imported only where they are on: the library costs memory.

Spans are written by hand, here and by who uses `tracing.Tracer`. The ready-made instrumentations of SQL and Redis
would put statements and keys into them.

Which spans there are: one for each call that a program takes, as a child of the caller's if it sent a `traceparent`;
inside it one for each call that it makes, each SQL statement, each Redis command. What no call causes (the watch, its
pings, the tail's polling, reports in batches) has none. A caller's decision whether to record is kept; where there is
none, a share of the requests is recorded. What several requests share belongs to the one that began it.

Spans wait in a queue of bounded length, and a thread sends them. When the collector does not take them they are lost,
which is logged when it begins and when it is over, and no call is slower for it.
"""

import contextvars
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trust_core import logs, request_ids
from trust_core.grpc_edge import Context
from trust_core.tracing import TRACEPARENT, Attributes, Span
from trust_core.version import __version__

QUEUE_SPANS: Final = 2_048
_BATCH_SPANS: Final = 512
_BATCH_MILLISECONDS: Final = 1_000
_EXPORT_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 2.0
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# A proxy from the environment is not for a collector beside the program.
_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.service_config_disable_resolution", 1))
_UNTRACED: Final = ("/WatchRevocations", "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch")
"""Ends of methods that last for hours, or that only ask whether somebody is there."""
# https://opentelemetry.io/docs/specs/semconv/rpc/grpc/: which codes are a server's failure.
_SERVER_FAILURES: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtlpExporter(SpanExporter):
    """Sends spans to a collector over OTLP/gRPC. Called by one thread of the batch processor, and by `shutdown`'s."""

    def __init__(self, *, endpoint: str, program: str) -> None:
        """`endpoint`: `http://host:port` in plaintext, `https://host:port` with gRPC's own roots of trust."""
        scheme, _, address = endpoint.partition("://")
        if scheme == "https":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._call: Any = self._channel.unary_unary(
            _EXPORT,
            request_serializer=trace_service_pb2.ExportTraceServiceRequest.SerializeToString,
            response_deserializer=trace_service_pb2.ExportTraceServiceResponse.FromString,
        )
        self._log = logs.get_logger(program)
        self._ends_at: float | None = None
        self._failing = False
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, once: a batch that is not taken is lost."""
        left = _EXPORT_SECONDS if self._ends_at is None else min(_EXPORT_SECONDS, self._ends_at - time.monotonic())
        try:
            if left <= 0:
                raise TimeoutError
            self._call(encode_spans(spans), timeout=left)
        except Exception as error:  # noqa: BLE001 - this is the boundary: nothing that the exporter meets may leave
            self.lost += len(spans)
            self._note(failing=True, why=error.code().name if isinstance(error, grpc.Call) else type(error).__name__)
            return SpanExportResult.FAILURE
        self._note(failing=False, why="")
        return SpanExportResult.SUCCESS

    def _note(self, *, failing: bool, why: str) -> None:
        if failing and not self._failing:
            self._log.warning("the collector does not take spans; they are lost", why=why)
        elif self._failing and not failing:
            self._log.info("the collector takes spans again", lost=self.lost)
        self._failing = failing

    def last(self, *, seconds: float) -> None:
        """From now on take no longer than this for everything that is left."""
        self._ends_at = time.monotonic() + seconds

    def shutdown(self) -> None:
        """Close the channel."""
        self._channel.close()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing waits here."""
        return True


class _OtelSpan:
    """See `tracing.Span`."""

    __slots__ = ("_request_id", "span")

    def __init__(self, span: trace.Span, *, request_id: request_ids.RequestId | None = None) -> None:
        self.span = span
        self._request_id = request_id

    def note(self, attributes: Attributes) -> None:
        self.span.set_attributes(attributes)

    def end(self, *, failed: bool = False) -> None:
        if self._request_id is not None:
            self.span.set_attribute("trustlayer.request_id", self._request_id.get())
        if failed:
            self.span.set_status(trace.StatusCode.ERROR)
        self.span.end()

    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""
        if self.span.is_recording():
            self.span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
            if reason:
                self.span.set_attribute("trustlayer.reason", reason)
        self.end(failed=code in _SERVER_FAILURES)


class _Unobserved:
    """A call that is not traced."""

    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""


_UNOBSERVED: Final = _Unobserved()
# A call's own task and those that it starts. Never reset: where a call ends may be in another task.
_current: contextvars.ContextVar[trace.Span | None] = contextvars.ContextVar("span", default=None)


class Traces:
    """The tracer of a program (`tracing.Tracer`), and who observes its calls (`grpc_edge.CallObserver`)."""

    def __init__(self, *, program: str, instance: str, endpoint: str, sample_ratio: float) -> None:
        """`sample_ratio`: the share of requests to record of those that come without a decision."""
        # Its one warning, about a full queue, would be as many as there are spans; `lost` and the collector tell.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        self._exporter = OtlpExporter(endpoint=endpoint, program=program)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create(
                {"service.name": program, "service.version": __version__, "service.instance.id": instance}
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=_BATCH_MILLISECONDS,
                max_export_batch_size=_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer("trustlayer", __version__)

    def begin(self, method: str, context: Context) -> "_OtelSpan | _Unobserved":
        """See `grpc_edge.CallObserver`."""
        if method.endswith(_UNTRACED):
            return _UNOBSERVED
        sent = next(
            (v for k, v in context.invocation_metadata() or () if k == TRACEPARENT and isinstance(v, str)), ""
        )
        return self._serve(method.removeprefix("/") or "other", str(sent), {"rpc.system": "grpc", **_rpc(method)})

    def serve(self, name: str, traceparent: str) -> Span:
        """See `tracing.Tracer`."""
        return self._serve(name, traceparent, {})

    def _serve(self, name: str, traceparent: str, attributes: Attributes) -> _OtelSpan:
        span = self._tracer.start_span(
            name,
            context=_PROPAGATOR.extract({TRACEPARENT: traceparent}),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )
        _current.set(span)
        return _OtelSpan(span, request_id=request_ids.running() if span.is_recording() else None)

    def child(self, name: str, attributes: Attributes) -> Span | None:
        """See `tracing.Tracer`."""
        parent = _current.get()
        if parent is None or not parent.is_recording():
            return None
        return self._start(name, parent, attributes)

    def _start(self, name: str, parent: trace.Span, attributes: Attributes) -> _OtelSpan:
        return _OtelSpan(
            self._tracer.start_span(name, context=_inside(parent), kind=trace.SpanKind.CLIENT, attributes=attributes)
        )

    def note(self, attributes: Attributes) -> None:
        """See `tracing.Tracer`."""
        span = _current.get()
        if span is not None and span.is_recording():
            span.set_attributes(attributes)

    def outgoing(self, method: str) -> tuple[Span | None, str]:
        """See `tracing.Tracer`."""
        parent = _current.get()
        if parent is None:
            return None, ""
        span = parent
        begun = None
        if parent.get_span_context().trace_flags.sampled:
            begun = self._start(method.removeprefix("/"), parent, {"rpc.system": "grpc", **_rpc(method)})
            span = begun.span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, _inside(span))
        return begun, carrier.get(TRACEPARENT, "")

    def close(self) -> None:
        """Send what is left, for a bounded time. Waits: not for the event loop's thread."""
        self._exporter.last(seconds=_CLOSE_SECONDS)
        self._provider.shutdown()


def _inside(span: trace.Span) -> OtelContext:
    return trace.set_span_in_context(span, OtelContext())


def _rpc(method: str) -> dict[str, str]:
    service, _, name = method.removeprefix("/").partition("/")
    return {"rpc.service": service, "rpc.method": name} if name else {}
