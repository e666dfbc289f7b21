"""Metrics for Prometheus, on a port of their own. Imported only where `metrics_listen` is set: it costs memory.

The server is prometheus_client's, in a thread of its own; the thread reads numbers, one at a time, and touches
nothing else, so they may be of slightly different moments. Labels are the watch's state and the gate's decision: no
session, user or route is named.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridge_sidecar.gate import GateCounters
from bridge_sidecar.lease import Lease
from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.session_cache import SessionCache
from bridge_sidecar.validator import Counters
from bridge_sidecar.watch_protocol import WatchFigures
from trust_core.clock import NS_PER_SECOND, Clock

_PREFIX: Final = "bridge_sidecar_"


class WatchStatus(Protocol):
    """What is shown of the watch."""

    state: WatchState
    figures: WatchFigures


class SidecarCollector(Collector):
    """Reads the running objects when it is asked. A duration that is not known has no sample, rather than a zero."""

    def __init__(
        self,
        *,
        cache: SessionCache,
        lease: Lease,
        watch: WatchStatus,
        counters: Counters,
        clock: Clock,
        gate: GateCounters | None = None,
    ) -> None:
        """`gate`: what proxies were answered, if any may ask."""
        self._gate = gate
        self._cache = cache
        self._lease = lease
        self._watch = watch
        self._counters = counters
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        yield from self._of_lease()
        yield from self._of_watch()
        yield _gauge("cached_sessions", "Sessions in the cache.", self._cache.entries)
        yield _gauge("cached_bytes", "What they weigh, as the cache counts it.", self._cache.weight_bytes)
        yield from self._of_answers()
        if self._gate is not None:
            yield _of_gate(self._gate)

    def _of_lease(self) -> Iterator[Metric]:
        now_ns = self._clock.elapsed_ns()
        yield _gauge("lease_held", "1 while the cache may be trusted.", int(self._lease.held(now_ns)))
        yield _seconds(
            "lease_remaining_seconds", "Left of the lease; 0 when not held.", self._lease.remaining_ns(now_ns)
        )
        yield _seconds(
            "lease_age_seconds", "Since the ping was sent that the lease runs from.", self._lease.age_ns(now_ns)
        )

    def _of_watch(self) -> Iterator[Metric]:
        yield _gauge("applied_revision", "Last revision of the log that was applied.", self._cache.applied_revision)
        states = GaugeMetricFamily(f"{_PREFIX}watch_state", "1 for the state of the watch.", labels=["state"])
        current = self._watch.state
        for state in WatchState:
            states.add_metric([state.name.lower()], int(state is current))
        yield states
        figures = self._watch.figures
        text = "At most this long from when the newest applied row was written until it was taken in hand."
        yield _seconds("last_revocation_within_seconds", text, figures.last_revocation_within_ns)
        yield _seconds("watch_round_trip_seconds", "From ping to pong, the newest.", figures.round_trip_ns)

    def _of_answers(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter("hits", "Answers from the cache.", counters.hits)
        yield _counter("misses", "Questions that needed Flowless.", counters.misses)
        yield _counter("malformed", "Malformed ids refused.", counters.malformed)
        yield _counter("unavailable", "Questions that ended UNAVAILABLE.", counters.unavailable)
        text = "Answers after the lease had run out, where a rule allows it."
        yield _counter("answers_beyond_lease", text, counters.beyond_lease)
        yield _counter("upstream_calls", "Calls of Flowless to validate a session.", counters.upstream_calls)
        yield _counter("prewarmed_sessions", "Sessions cached before the first question.", counters.prewarmed)


def _of_gate(counters: GateCounters) -> Metric:
    decisions = CounterMetricFamily(
        f"{_PREFIX}gate_decisions", "What proxies were answered about requests.", labels=["decision"]
    )
    for field in fields(counters):
        decisions.add_metric([field.name], getattr(counters, field.name))
    return decisions


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _seconds(name: str, text: str, nanoseconds: int | None) -> Metric:
    value = None if nanoseconds is None else nanoseconds / NS_PER_SECOND
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, text, value=value)
