"""Metrics for Prometheus, on a port of their own. Imported only where `metrics_listen` is set: it costs memory.

The server is prometheus_client's, in a thread of its own; the thread reads numbers, one at a time, and touches
nothing else, so they may be of slightly different moments. Labels are RPCs that are served, codes, reasons, tiers,
states and decisions: no session, user or route is named.

Every metric is declared in `CATALOGUE`, from which `docs/operations/metrics.md` is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from bridge_sidecar.gate import GateCounters
from bridge_sidecar.lease import Lease
from bridge_sidecar.measured import OTHER, MeasuredValidator
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.routes import Routes
from bridge_sidecar.session_cache import SessionCache
from bridge_sidecar.validator import Validator
from bridge_sidecar.watch_protocol import WatchFigures
from trust_core.call_figures import CallFigures
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.metric_families import CallFamilies, Catalogue
from trust_core.modes import DenialReason
from trust_core.version import __version__

CATALOGUE: Final = Catalogue("bridge_sidecar_")
_gauge, _counter, _histogram = CATALOGUE.gauge, CATALOGUE.counter, CATALOGUE.histogram

_BUILD = _gauge("build_info", "1; its label says which version runs.", "version")

_LEASE_HELD = _gauge("lease_held", "1 while the cache may be trusted.")
_LEASE_REMAINING = _gauge("lease_remaining_seconds", "Left of the lease; 0 when not held.")
_LEASE_AGE = _gauge("lease_age_seconds", "Since the ping was sent that the lease runs from.")

_APPLIED = _gauge("applied_revision", "Last revision of the log that was applied.")
_LAG = _gauge(
    "revision_lag",
    "Revisions between the last one applied and the furthest that an answer of Flowless spoke of. That is no more "
    "than what this sidecar knows: without answers it knows of none.",
)
_WATCH_STATE = _gauge("watch_state", "1 for the state of the watch.", "state")
_LAST_REVOCATION = _gauge(
    "last_revocation_within_seconds",
    "At most this long from when the newest applied row was written until it was taken in hand.",
)
_ROUND_TRIP = _gauge("watch_round_trip_seconds", "From ping to pong, the newest.")

_SESSIONS = _gauge("cached_sessions", "Sessions in the cache.")
_BYTES = _gauge("cached_bytes", "What they weigh, as the cache counts it.")

_HITS = _counter("hits", "Answers from the cache.")
_MISSES = _counter("misses", "Questions that needed Flowless.")
_MALFORMED = _counter("malformed", "Malformed ids refused.")
_UNAVAILABLE = _counter("unavailable", "Questions that ended UNAVAILABLE: nobody could know, so nobody got in.")
_BEYOND_LEASE = _counter("answers_beyond_lease", "Answers after the lease had run out, where a rule allows it.")
_UPSTREAM_CALLS = _counter("upstream_calls", "Calls of Flowless to validate a session.")
_PREWARMED = _counter("prewarmed_sessions", "Sessions cached before the first question.")
_UNDER_WAY = _gauge("misses_under_way", "Different questions that Flowless is asked now, or that wait for it.")
_UNDER_WAY_MOST = _gauge("misses_limit", "How many of those there may be; more are UNAVAILABLE.")
_SECONDS = _histogram(
    "validation_seconds",
    "How long answers took inside the sidecar, by who knew: lru, redis, database, none for malformed ids, other for "
    "a tier of a newer Flowless; unanswered for errors and for callers that went away.",
    "tier",
)
_DENIALS = _counter(
    "denials", "Answers that were a denial, by its reason; `other` stands for one of a newer Flowless.", "reason"
)
_MISMATCHES = _counter(
    "mismatch_reports",
    "Sessions used from elsewhere, where a rule has them revoked: Flowless was told of it, or was not.",
    "outcome",
)
_RULE_PROBLEMS = _gauge("rule_problems", "Problems of the rules' file that kept it from being taken over.")

_CALLS = CallFamilies(CATALOGUE, timed=False)
_DECISIONS = _counter("gate_decisions", "What proxies were answered about requests.", "decision")

_REASONS: Final = {int(reason): reason.name for reason in DenialReason}


class WatchStatus(Protocol):
    """What is shown of the watch."""

    state: WatchState
    figures: WatchFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The running objects that are read. `gate`: what proxies were answered, if any may ask."""

    cache: SessionCache
    lease: Lease
    watch: WatchStatus
    validator: Validator
    measured: MeasuredValidator
    calls: CallFigures
    mismatches: MismatchReporter
    routes: Routes
    clock: Clock
    max_misses: int
    gate: GateCounters | None = None


class SidecarCollector(Collector):
    """Reads the running objects when it is asked. A duration that is not known has no sample, rather than a zero."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        shown = self._shown
        yield _BUILD.by([(__version__, 1)])
        yield from self._of_lease()
        yield from self._of_watch()
        yield _SESSIONS.of(shown.cache.entries)
        yield _BYTES.of(shown.cache.weight_bytes)
        yield from self._of_answers()
        yield from _CALLS.of(shown.calls)
        yield _RULE_PROBLEMS.of(len(shown.routes.problems))
        if shown.gate is not None:
            gate = shown.gate
            yield _DECISIONS.by((field.name, getattr(gate, field.name)) for field in fields(gate))

    def _of_lease(self) -> Iterator[Metric]:
        lease, now_ns = self._shown.lease, self._shown.clock.elapsed_ns()
        yield _LEASE_HELD.of(int(lease.held(now_ns)))
        yield _LEASE_REMAINING.of(_seconds(lease.remaining_ns(now_ns)))
        yield _LEASE_AGE.of(_seconds(lease.age_ns(now_ns)))

    def _of_watch(self) -> Iterator[Metric]:
        watch, applied = self._shown.watch, self._shown.cache.applied_revision
        yield _APPLIED.of(applied)
        yield _LAG.of(max(0, self._shown.validator.known_revision - applied))
        current = watch.state
        yield _WATCH_STATE.by((state.name.lower(), int(state is current)) for state in WatchState)
        yield _LAST_REVOCATION.of(_seconds(watch.figures.last_revocation_within_ns))
        yield _ROUND_TRIP.of(_seconds(watch.figures.round_trip_ns))

    def _of_answers(self) -> Iterator[Metric]:
        shown = self._shown
        counters = shown.validator.counters
        yield _HITS.of(counters.hits)
        yield _MISSES.of(counters.misses)
        yield _MALFORMED.of(counters.malformed)
        yield _UNAVAILABLE.of(counters.unavailable)
        yield _BEYOND_LEASE.of(counters.beyond_lease)
        yield _UPSTREAM_CALLS.of(counters.upstream_calls)
        yield _PREWARMED.of(counters.prewarmed)
        yield _UNDER_WAY.of(shown.validator.misses_under_way)
        yield _UNDER_WAY_MOST.of(shown.max_misses)
        yield _SECONDS.of_histograms(shown.measured.durations)
        denials = tuple(counters.denials.items())
        yield _DENIALS.by((_REASONS.get(number, OTHER), count) for number, count in denials)
        reports = {"reported": shown.mismatches.reported, "not_reported": shown.mismatches.not_reported}
        yield _MISMATCHES.by(tuple(reports.items()))


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / NS_PER_SECOND
