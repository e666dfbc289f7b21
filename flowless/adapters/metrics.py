"""Metrics for Prometheus, on a port of their own. Read from running objects when they are asked for.

The server is prometheus_client's, in a thread of its own; the thread reads numbers and touches nothing else. Label
sets are bounded: a kind, an outcome, an RPC that is served, never a user, a session, a path or what a caller invents.

Every metric is declared in `CATALOGUE`, from which `docs/operations/metrics.md` is made.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from flowless.adapters.passwords.pool import HashingPool
from flowless.adapters.redis.tier import RedisSessionTier
from flowless.adapters.sql.pools import Pool
from flowless.services.attempts import AttemptLimiter
from flowless.services.barriers import Barriers
from flowless.services.housekeeping import Housekeeping
from flowless.services.outbox import MailSender
from flowless.services.refusals import Refusals
from flowless.services.revocation_tail import RevocationTail
from flowless.services.sessions import Sessions
from flowless.services.watchers import Watchers
from trust_core.call_figures import CallFigures
from trust_core.clock import NS_PER_SECOND
from trust_core.metric_families import CallFamilies, Catalogue
from trust_core.version import __version__

Source = Callable[[], Iterable[Metric]]

CATALOGUE: Final = Catalogue("flowless_")
_gauge, _counter, _histogram = CATALOGUE.gauge, CATALOGUE.counter, CATALOGUE.histogram

_BUILD = _gauge("build_info", "1; its label says which version runs.", "version")

_CALLS = CallFamilies(CATALOGUE, timed=True)
_CALLS_MOST = _gauge("calls_limit", "Calls that this process takes at a time; more are RESOURCE_EXHAUSTED.")
_REFUSED = _counter(
    "calls_refused", "Calls refused for their credential or its scope, or because there is no such RPC.", "reason"
)

_VALIDATIONS = _counter(
    "validations", "Validations that were answered, by who knew: redis, database, or none for malformed ids.", "tier"
)
_DENIALS = _counter(
    "denials",
    "Validations that were answered with a denial, by its reason. What sidecars compare themselves they count.",
    "reason",
)
_MISMATCHES = _counter(
    "mismatch_reports",
    "Reports of sessions used from elsewhere, by outcome: revoked, not_revoked.",
    "outcome",
)

_REVISION = _gauge("revocation_log_revision", "End of the log as last read.")
_COMPACTED = _gauge("revocation_log_compacted_through", "Rows up to here are gone.")
_TAIL_AGE = _gauge("revocation_tail_age_seconds", "Since the last read of the log began.")
_TAIL_FAILING = _gauge("revocation_tail_failing", "1 while the log cannot be read.")
_TAIL_READS = _counter("revocation_tail_reads", "Reads of the log's end.")
_WATCHERS = _gauge("watchers", "Open watch streams.")
_WATCHER_LAG = _gauge(
    "watcher_lag_revisions", "Revisions that the connected watcher which has confirmed least is behind the log's end."
)
_BARRIERS = _counter("barriers", "Revokes that waited for all sidecars.", "outcome")

_HASHING_RUNNING = _gauge("hashing_running", "Password hashes being computed now.")
_HASHING_WORKERS = _gauge("hashing_workers", "Password hashes that this process has computed at a time at most.")
_HASHING_WAITING = _gauge("hashing_waiting", "Password hashes that wait for a worker.")
_HASHING_CAPACITY = _gauge("hashing_queue_capacity", "How many may wait; more are refused.")
_HASHING_REFUSED = _counter(
    "hashing_refused",
    "Hashes refused with HASHING_OVERLOADED: queue_full, or interrupted where workers died.",
    "why",
)
_HASHING_WAIT = _histogram("hashing_wait_seconds", "How long hashes waited for a worker.")
_HASHING_WORK = _histogram("hashing_work_seconds", "How long workers took for a hash.")

_POOL_SIZE = _gauge("database_pool_size", "Connections that the pool has at most.", "pool")
_POOL_IN_USE = _gauge("database_pool_in_use", "Connections of the pool that are in use.", "pool")
_POOL_WAITING = _gauge("database_pool_waiting", "Callers that wait for a connection, or for SQLite's writer.", "pool")
_POOL_TIMEOUTS = _counter("database_pool_timeouts", "Callers that got no connection in time.", "pool")
_POOL_WAIT = _histogram(
    "database_pool_wait_seconds",
    "How long callers waited for a connection, until it was open and tried, or for SQLite's writer.",
    "pool",
)

_REDIS_EVENTS = _counter("redis_events", "What became of calls of Redis for sessions.", "event")
_REDIS_OPEN = _gauge("redis_breaker_open", "1 while Redis is left alone.")

_ATTEMPTS_REFUSED = _counter("attempts_refused", "Attempts at passwords and tokens refused unchecked.", "kind")
_ATTEMPTS_ALONE = _gauge(
    "attempts_counted_alone", "1 while this replica counts attempts alone because Redis is left alone."
)
_ATTEMPTS_KEPT = _gauge("attempts_kept", "Counters of attempts in memory, expired ones included.")
_ATTEMPTS_EVICTED = _counter(
    "attempts_evicted", "Counters of attempts that went from memory before their time because there were too many."
)

_MAIL_WAITING = _gauge("mail_waiting", "Mails in the outbox, as last counted.")
_MAIL_ATTEMPTS = _counter("mail_attempts", "What became of attempts to send.", "outcome")

_DELETED = _counter("housekeeping_deleted_rows", "Rows deleted.", "kind")
_ROUNDS = _counter("housekeeping_rounds", "Rounds by outcome.", "outcome")

_NOT_BEFORE = _gauge(
    "tls_certificate_not_before_seconds", "When the certificate that listeners show began, in seconds since 1970."
)
_NOT_AFTER = _gauge(
    "tls_certificate_not_after_seconds", "When the certificate that listeners show ends, in seconds since 1970."
)


class SourcesCollector(Collector):
    """Says what all sources say."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        for source in self._sources:
            yield from source()


def of_build() -> Iterator[Metric]:
    """Which version runs."""
    yield _BUILD.by([(__version__, 1)])


def of_calls(figures: CallFigures, *, limit: int) -> Source:
    """Metrics of calls of the listeners; `limit` is what they take at a time."""

    def read() -> Iterator[Metric]:
        yield from _CALLS.of(figures)
        yield _CALLS_MOST.of(limit)

    return read


def of_sessions(sessions: Sessions) -> Source:
    """Metrics of validations."""

    def read() -> Iterator[Metric]:
        yield _VALIDATIONS.by(tuple(sessions.validated.items()))
        yield _DENIALS.by((reason.name, count) for reason, count in tuple(sessions.denied.items()))
        yield _MISMATCHES.by(tuple(sessions.mismatches.items()))

    return read


def of_tail(tail: RevocationTail, *, elapsed_ns: Callable[[], int]) -> Source:
    """Metrics of the revocation log's tail and its watchers."""

    def read() -> Iterator[Metric]:
        position = tail.position
        yield _REVISION.of(position.revision)
        yield _COMPACTED.of(position.compacted_through)
        yield _TAIL_AGE.of(max(0, elapsed_ns() - tail.read_began_ns) / NS_PER_SECOND)
        yield _TAIL_FAILING.of(int(tail.failing))
        yield _TAIL_READS.of(tail.reads)
        yield _WATCHERS.of(tail.watchers)

    return read


def of_barriers(barriers: Barriers, watchers: Watchers, tail: RevocationTail) -> Source:
    """Metrics of revokes that wait for all sidecars, and of how far behind the slowest sidecar is."""

    def read() -> Iterator[Metric]:
        yield _WATCHER_LAG.of(watchers.furthest_behind(tail.position.revision))
        yield _BARRIERS.by(tuple(barriers.outcomes.items()))

    return read


def of_hashing(pool: HashingPool) -> Source:
    """Metrics of the queue for password hashes."""

    def read() -> Iterator[Metric]:
        yield _HASHING_RUNNING.of(pool.running)
        yield _HASHING_WORKERS.of(pool.workers)
        yield _HASHING_WAITING.of(pool.waiting)
        yield _HASHING_CAPACITY.of(pool.max_waiting)
        yield _HASHING_REFUSED.by(tuple(pool.refusals.items()))
        yield _HASHING_WAIT.of_histogram(pool.waits)
        yield _HASHING_WORK.of_histogram(pool.work)

    return read


def of_pools(pools: Iterable[Pool]) -> Source:
    """Metrics of the database's connections."""
    kept = tuple(pools)

    def read() -> Iterator[Metric]:
        yield _POOL_SIZE.by((pool.name, pool.size) for pool in kept)
        yield _POOL_IN_USE.by((pool.name, pool.in_use) for pool in kept)
        yield _POOL_WAITING.by((pool.name, pool.waiting) for pool in kept)
        yield _POOL_TIMEOUTS.by((pool.name, pool.timed_out) for pool in kept)
        yield _POOL_WAIT.of_histograms({pool.name: pool.waits for pool in kept})

    return read


def of_housekeeping(housekeeping: Housekeeping) -> Source:
    """Metrics of housekeeping."""

    def read() -> Iterator[Metric]:
        yield _DELETED.by((kind.value, rows) for kind, rows in housekeeping.deleted.items())
        yield _ROUNDS.by(tuple(housekeeping.rounds.items()))

    return read


def of_refusals(refusals: Refusals) -> Source:
    """Metrics of calls that were refused before they were read."""

    def read() -> Iterator[Metric]:
        yield _REFUSED.by((reason.value, count) for reason, count in tuple(refusals.counts.items()))

    return read


def of_attempts(attempts: AttemptLimiter) -> Source:
    """Metrics of the limits on attempts."""

    def read() -> Iterator[Metric]:
        yield _ATTEMPTS_REFUSED.by((kind.value, count) for kind, count in attempts.refused.items())
        counters = attempts.counters
        yield _ATTEMPTS_ALONE.of(int(counters.alone))
        yield _ATTEMPTS_KEPT.of(counters.kept)
        yield _ATTEMPTS_EVICTED.of(counters.evicted)

    return read


def of_mail(sender: MailSender) -> Source:
    """Metrics of the mail that this process sends, and of all that waits."""

    def read() -> Iterator[Metric]:
        yield _MAIL_WAITING.of(sender.waiting)
        yield _MAIL_ATTEMPTS.by(tuple(sender.outcomes.items()))

    return read


def of_redis(tier: RedisSessionTier) -> Source:
    """Metrics of the Redis tier."""

    def read() -> Iterator[Metric]:
        yield _REDIS_EVENTS.by(tuple(asdict(tier.stats).items()))
        yield _REDIS_OPEN.of(int(tier.breaker_open))

    return read


class ShownCertificate(Protocol):
    """What listeners show."""

    @property
    def validity(self) -> tuple[float, float] | None:
        """From when until when it is valid, in seconds since 1970; `None` if that is not known."""
        ...


def of_tls(tls: ShownCertificate) -> Source:
    """Metrics of the listeners' certificate."""

    def read() -> Iterator[Metric]:
        begins, ends = tls.validity or (None, None)
        yield _NOT_BEFORE.of(begins)
        yield _NOT_AFTER.of(ends)

    return read
