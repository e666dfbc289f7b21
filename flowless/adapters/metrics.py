"""Metrics for Prometheus, on a port of their own. Read from running objects when they are asked for.

The server is prometheus_client's, in a thread of its own; the thread reads numbers and touches nothing else. Label
sets are bounded: a kind, an outcome, never a user, a session or a path.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowless.adapters.redis.tier import RedisSessionTier
from flowless.services.attempts import AttemptLimiter
from flowless.services.barriers import Barriers
from flowless.services.housekeeping import Housekeeping
from flowless.services.outbox import MailSender
from flowless.services.refusals import Refusals
from flowless.services.revocation_tail import RevocationTail
from flowless.services.watchers import Watchers

Source = Callable[[], Iterable[Metric]]
_NS: Final = 1e9


class SourcesCollector(Collector):
    """Says what all sources say."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        """Yield everything."""
        for source in self._sources:
            yield from source()


def of_tail(tail: RevocationTail, *, elapsed_ns: Callable[[], int]) -> Source:
    """Metrics of the revocation log's tail and its watchers."""

    def read() -> Iterator[Metric]:
        position = tail.position
        yield _gauge("flowless_revocation_log_revision", "End of the log as last read.", position.revision)
        yield _gauge(
            "flowless_revocation_log_compacted_through", "Rows up to here are gone.", position.compacted_through
        )
        age = max(0, elapsed_ns() - tail.read_began_ns) / _NS
        yield _gauge("flowless_revocation_tail_age_seconds", "Since the last read of the log began.", age)
        yield _gauge("flowless_revocation_tail_failing", "1 while the log cannot be read.", int(tail.failing))
        yield _counter("flowless_revocation_tail_reads", "Reads of the log's end.", tail.reads)
        yield _gauge("flowless_watchers", "Open watch streams.", tail.watchers)

    return read


def of_barriers(barriers: Barriers, watchers: Watchers, tail: RevocationTail) -> Source:
    """Metrics of revokes that wait for all sidecars, and of how far behind the slowest sidecar is."""

    def read() -> Iterator[Metric]:
        behind = watchers.furthest_behind(tail.position.revision)
        text = "Revisions that the connected watcher which has confirmed least is behind the log's end."
        yield _gauge("flowless_watcher_lag_revisions", text, behind)
        waits = CounterMetricFamily("flowless_barriers", "Revokes that waited for all sidecars.", labels=["outcome"])
        for outcome, count in barriers.outcomes.items():
            waits.add_metric([outcome], count)
        yield waits

    return read


def of_housekeeping(housekeeping: Housekeeping) -> Source:
    """Metrics of housekeeping."""

    def read() -> Iterator[Metric]:
        deleted = CounterMetricFamily("flowless_housekeeping_deleted_rows", "Rows deleted.", labels=["kind"])
        for kind, rows in housekeeping.deleted.items():
            deleted.add_metric([kind.value], rows)
        yield deleted
        rounds = CounterMetricFamily("flowless_housekeeping_rounds", "Rounds by outcome.", labels=["outcome"])
        for outcome, count in housekeeping.rounds.items():
            rounds.add_metric([outcome], count)
        yield rounds

    return read


def of_refusals(refusals: Refusals) -> Source:
    """Metrics of calls that were refused before they were read."""

    def read() -> Iterator[Metric]:
        text = "Calls refused for their credential or its scope, or because there is no such RPC."
        refused = CounterMetricFamily("flowless_calls_refused", text, labels=["reason"])
        for reason, count in dict(refusals.counts).items():
            refused.add_metric([reason.value], count)
        yield refused

    return read


def of_attempts(attempts: AttemptLimiter) -> Source:
    """Metrics of the limits on attempts."""

    def read() -> Iterator[Metric]:
        refused = CounterMetricFamily("flowless_attempts_refused", "Attempts refused unchecked.", labels=["kind"])
        for kind, count in attempts.refused.items():
            refused.add_metric([kind.value], count)
        yield refused
        counters = attempts.counters
        text = "1 while this replica counts attempts alone because Redis is left alone."
        yield _gauge("flowless_attempts_counted_alone", text, int(counters.alone))
        yield _gauge(
            "flowless_attempts_kept", "Counters of attempts in memory, expired ones included.", counters.kept
        )
        text = "Counters of attempts that went from memory before their time because there were too many."
        yield _counter("flowless_attempts_evicted", text, counters.evicted)

    return read


def of_mail(sender: MailSender) -> Source:
    """Metrics of the mail that this process sends, and of all that waits."""

    def read() -> Iterator[Metric]:
        yield _gauge("flowless_mail_waiting", "Mails in the outbox, as last counted.", sender.waiting)
        outcomes = CounterMetricFamily(
            "flowless_mail_attempts", "What became of attempts to send.", labels=["outcome"]
        )
        for outcome, count in sender.outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes

    return read


def of_redis(tier: RedisSessionTier) -> Source:
    """Metrics of the Redis tier."""

    def read() -> Iterator[Metric]:
        events = CounterMetricFamily("flowless_redis_events", "What became of calls of Redis.", labels=["event"])
        for event, count in asdict(tier.stats).items():
            events.add_metric([event], count)
        yield events
        yield _gauge("flowless_redis_breaker_open", "1 while Redis is left alone.", int(tier.breaker_open))

    return read


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
