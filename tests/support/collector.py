"""A collector of traces: takes spans over OTLP/gRPC on loopback and keeps them."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

_SECONDS: Final = 20.0
_SERVER: Final = 2  # Span.SpanKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A span that arrived. `program` is its service.name."""

    program: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: Mapping[str, Any]

    @property
    def is_server(self) -> bool:
        """Whether it stands for a call that the program took."""
        return self.kind == _SERVER


@dataclass
class Collector:
    """What has arrived, parsed and as bytes. Written by the server's threads under the condition."""

    endpoint: str = ""
    spans: list[Taken] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, data: bytes, _: Any) -> bytes:
        """Keep what an exporter sends."""
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(data)
        with self.changed:
            self.received.append(data)
            for resource in request.resource_spans:
                program = _attributes(resource.resource.attributes).get("service.name", "")
                for scope in resource.scope_spans:
                    self.spans += [_taken(program, span) for span in scope.spans]
            self.changed.notify_all()
        return b""

    def of_trace(self, trace_id: str, *, at_least: int = 1) -> list[Taken]:
        """Wait until so many spans of a trace have arrived; return all that have."""

        def found() -> list[Taken]:
            return [span for span in self.spans if span.trace_id == trace_id]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= at_least, _SECONDS), found()
            return found()

    def find(self, trace_id: str, **fields: Any) -> Taken:
        """Wait for the span of a trace with these fields."""

        def found() -> list[Taken]:
            return [
                span
                for span in self.spans
                if span.trace_id == trace_id and all(getattr(span, name) == value for name, value in fields.items())
            ]

        with self.changed:
            assert self.changed.wait_for(lambda: bool(found()), _SECONDS), (fields, self.of_known(trace_id))
            return found()[0]

    def of_known(self, trace_id: str) -> list[str]:
        """Names of what has arrived of a trace, for failures."""
        return [f"{span.program}: {span.name}" for span in self.spans if span.trace_id == trace_id]


def _taken(program: str, span: Any) -> Taken:
    return Taken(
        program=program,
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def running_collector(collector: Collector | None = None, *, port: int = 0) -> Iterator[Collector]:
    """Start one; `collector` and `port` of a former one let it come back."""
    collector = collector or Collector()
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    export: Any = grpc.unary_unary_rpc_method_handler(collector.take)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": export}
            ),
        )
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    collector.endpoint = f"http://127.0.0.1:{bound}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
