"""Between what a sidecar says that it has counted and its record. Bounded: no sidecar is trusted."""

from datetime import timedelta
from typing import Final

from google.protobuf import duration_pb2

from flowless.domain.replicas import MAX_COUNT, MAX_DENIAL_REASONS, SidecarFigures
from trustlayer.v1 import bridge_pb2, types_pb2

_LONGEST_SECONDS: Final = 100 * 366 * 86_400
"""No sidecar runs for a hundred years."""


def from_message(message: bridge_pb2.SidecarFigures) -> SidecarFigures | None:
    """Record of figures; `None` when they cannot be true: a count or a time below zero, a time of a century."""
    uptime = _time(message.uptime)
    age = _time(message.lease_age) if message.HasField("lease_age") else None
    counts = (
        message.cached_sessions,
        message.hits,
        message.misses,
        message.unavailable,
        message.answers_beyond_lease,
    )
    denials: dict[int, int] = {}
    for denial in message.denials[:MAX_DENIAL_REASONS]:
        if denial.reason < 0 or denial.count < 0:
            return None
        denials[denial.reason] = min(denials.get(denial.reason, 0) + denial.count, MAX_COUNT)
    if uptime is None or (age is None and message.HasField("lease_age")) or min(counts) < 0:
        return None
    return SidecarFigures(
        uptime=uptime,
        lease_held=message.lease_held,
        lease_age=age,
        cached_sessions=message.cached_sessions,
        hits=message.hits,
        misses=message.misses,
        unavailable=message.unavailable,
        answers_beyond_lease=message.answers_beyond_lease,
        denials=denials,
    )


def to_message(figures: SidecarFigures) -> bridge_pb2.SidecarFigures:
    """Message of figures."""
    return bridge_pb2.SidecarFigures(
        uptime=_duration(figures.uptime),
        lease_held=figures.lease_held,
        lease_age=None if figures.lease_age is None else _duration(figures.lease_age),
        cached_sessions=figures.cached_sessions,
        hits=figures.hits,
        misses=figures.misses,
        unavailable=figures.unavailable,
        answers_beyond_lease=figures.answers_beyond_lease,
        denials=[
            bridge_pb2.DenialCount(reason=types_pb2.DenialReason.ValueType(reason), count=count)
            for reason, count in figures.denials.items()
        ],
    )


def _time(message: duration_pb2.Duration) -> timedelta | None:
    if not 0 <= message.seconds <= _LONGEST_SECONDS or not 0 <= message.nanos < 1_000_000_000:
        return None
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)


def _duration(delta: timedelta) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromTimedelta(delta)
    return message
