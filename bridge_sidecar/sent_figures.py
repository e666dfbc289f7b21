"""What does this sidecar tell Flowless of what it has counted? Operators look at it with `flowless top`.

Numbers since start, read from the running objects when a ping takes them along; nothing is counted for it on the
way of a request. No user, session or route is in it.
"""

from google.protobuf.duration_pb2 import Duration

from bridge_sidecar.lease import Lease
from bridge_sidecar.session_cache import SessionCache
from bridge_sidecar.validator import Counters
from trust_core.clock import NS_PER_SECOND, Clock
from trustlayer.v1 import bridge_pb2, types_pb2


class SentFigures:
    """See the module. Touched by the event loop only."""

    def __init__(self, *, counters: Counters, cache: SessionCache, lease: Lease, clock: Clock) -> None:
        """Start counting time: start is now."""
        self._counters = counters
        self._cache = cache
        self._lease = lease
        self._clock = clock
        self._started_at_ns = clock.elapsed_ns()

    def message(self) -> bridge_pb2.SidecarFigures:
        """Make the message, as of now."""
        now_ns = self._clock.elapsed_ns()
        counters = self._counters
        age_ns = self._lease.age_ns(now_ns)
        return bridge_pb2.SidecarFigures(
            uptime=_duration(now_ns - self._started_at_ns),
            lease_held=self._lease.held(now_ns),
            lease_age=None if age_ns is None else _duration(age_ns),
            cached_sessions=self._cache.entries,
            hits=counters.hits,
            misses=counters.misses,
            unavailable=counters.unavailable,
            answers_beyond_lease=counters.beyond_lease,
            denials=[
                bridge_pb2.DenialCount(reason=types_pb2.DenialReason.ValueType(reason), count=count)
                for reason, count in counters.denials.items()
                if count
            ],
        )


def _duration(nanoseconds: int) -> Duration:
    seconds, nanos = divmod(nanoseconds, NS_PER_SECOND)
    return Duration(seconds=seconds, nanos=nanos)
