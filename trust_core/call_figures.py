"""How many calls of which RPC ended how, and how long they took: an observer of calls for metrics. Pure.

What it holds is bounded by the program, not by callers: RPCs that are served, gRPC's codes, reasons of ours. What a
caller invents, and a reason that a newer Flowless gives, count as `OTHER`.

Touched by the event loop only; the metrics' thread reads.
"""

from collections.abc import Collection
from typing import Final

from trust_core.clock import Clock
from trust_core.errors import Reason
from trust_core.histogram import CALL_BOUNDS_NS, Histogram

OTHER: Final = "other"
_REASONS: Final = frozenset(reason.value for reason in Reason)


def rpc_of(method: str) -> str:
    """Short name of an RPC: `SessionService/Login` for `/trustlayer.v1.SessionService/Login`; `OTHER` for nothing."""
    service, _, name = method.rpartition("/")
    return f"{service.rpartition('.')[2].lstrip('/')}/{name}" if method else OTHER


class CallFigures:
    """See the module, and `grpc_edge.CallObserver`."""

    def __init__(self, *, clock: Clock, timed: Collection[str] = ()) -> None:
        """Keep durations of the RPCs with these full names only; that of a stream which stays open says nothing."""
        self._clock = clock
        self._timed = frozenset(timed)
        self._rpcs: dict[str, _Rpc] = {}
        self.in_flight = 0
        self.ended: dict[tuple[str, str], int] = {}
        """RPC and code -> calls."""
        self.durations: dict[str, Histogram] = {}
        """RPC -> how long its calls took."""
        self.errors: dict[str, int] = dict.fromkeys((*sorted(_REASONS), OTHER), 0)
        """Reason of ours -> calls that ended with it. All from the start: a first 1 is no increase to Prometheus."""

    def begin(self, method: str, _context: object) -> "_Call | _Rpc":
        """See `grpc_edge.CallObserver`."""
        rpc = self._rpcs.get(method)
        if rpc is None:
            rpc = self._rpcs[method] = _Rpc(self, rpc_of(method))
            if method in self._timed:
                rpc.histogram = self.durations[rpc.name] = Histogram(CALL_BOUNDS_NS)
        self.in_flight += 1
        return rpc if rpc.histogram is None else _Call(rpc, rpc.histogram, self._clock)


class _Rpc:
    """One RPC; stands for each of its calls where they differ in nothing: an object for each would cost more."""

    __slots__ = ("_figures", "histogram", "name")

    def __init__(self, figures: CallFigures, name: str) -> None:
        self._figures = figures
        self.name = name
        self.histogram: Histogram | None = None

    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""
        figures = self._figures
        figures.in_flight -= 1
        key = (self.name, code)
        figures.ended[key] = figures.ended.get(key, 0) + 1
        if reason:
            known = reason if reason in _REASONS else OTHER
            figures.errors[known] = figures.errors.get(known, 0) + 1


class _Call:
    """One call that is timed."""

    __slots__ = ("_began_ns", "_clock", "_histogram", "_rpc")

    def __init__(self, rpc: _Rpc, histogram: Histogram, clock: Clock) -> None:
        self._rpc = rpc
        self._histogram = histogram
        self._clock = clock
        self._began_ns = clock.elapsed_ns()

    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""
        self._histogram.record(self._clock.elapsed_ns() - self._began_ns)
        self._rpc.finish(code, reason)
