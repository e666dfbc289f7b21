"""What the programs need of traces, without the library that makes them: that is in `otel`, imported where it is on.

Names and attributes of spans are the program's own words and never hold a session id, a secret, the id of a person,
or a value that a caller sent. Where traces are off there is no `Tracer`: those who would use one have `None` and do
nothing.
"""

from collections.abc import Mapping
from typing import Final, Protocol

TRACEPARENT: Final = "traceparent"
"""Metadata and header of W3C Trace Context. `tracestate` is not passed on, as the standard allows."""

Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """Something that takes time. Ends once; what is said after that is ignored."""

    def note(self, attributes: Attributes) -> None:
        """Say more of it."""
        ...

    def end(self, *, failed: bool = False) -> None:
        """End it; `failed` if it did not do what it was to do."""
        ...


class Tracer(Protocol):
    """Makes spans inside the running call. Never raises for what the exporter does; loses spans instead."""

    def serve(self, name: str, traceparent: str) -> Span:
        """Begin the span of a request that came over HTTP, in the task that answers it; `name` is our own word."""
        ...

    def child(self, name: str, attributes: Attributes) -> Span | None:
        """Begin a span inside the one of the running call; `None` where that is not recorded."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Say something of the running call's own span."""
        ...

    def outgoing(self, method: str) -> tuple[Span | None, str]:
        """Begin the span of a gRPC call to another program; also give the `traceparent` to send, empty for none.

        What is not recorded is passed on as well, so that the other program does not record it either.
        """
        ...
