"""Metrics of the running server, where they are asked for: which objects are read, and behind which port."""

from collections.abc import Sequence

from flowless.adapters.metrics import (
    SourcesCollector,
    of_attempts,
    of_barriers,
    of_build,
    of_calls,
    of_hashing,
    of_housekeeping,
    of_mail,
    of_pools,
    of_redis,
    of_refusals,
    of_sessions,
    of_tail,
    of_tls,
)
from flowless.adapters.redis.tier import RedisSessionTier
from flowless.bootstrap import Flowless
from flowless.config import Settings
from flowless.grpc.server import PUBFLOW_SERVICE, SERVICES
from flowless.grpc.tls import ServerTls
from trust_core import logs
from trust_core.call_figures import CallFigures
from trust_core.grpc_edge import CallObserver
from trust_core.metrics_server import MetricsServer


class MetricsPort:
    """Serves metrics from the start until `stop`, if `metrics_listen` is set; else there is nothing of it."""

    def __init__(self, settings: Settings, flowless: Flowless, *, tls: ServerTls | None, worker_index: int) -> None:
        """Begin to serve. Raises OSError.

        Each worker has a port of its own, the next ones after the configured: one port shared would show any of them.
        """
        self.observers: Sequence[CallObserver] = ()
        """To be told of calls, for these metrics."""
        self._server: MetricsServer | None = None
        if not settings.metrics_listen:
            return
        calls = CallFigures(clock=flowless.clock, timed=_timed(settings))
        self.observers = (calls,)
        host, _, port = settings.metrics_listen.rpartition(":")
        self._server = MetricsServer(
            host=host.strip("[]"),
            port=int(port) + worker_index - 1 if int(port) else 0,
            collector=_collector(settings, flowless, calls, tls),
        )
        logs.get_logger("flowless").info("metrics", address=self._server.address)

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()


def _timed(settings: Settings) -> frozenset[str]:
    """Full names of the RPCs whose calls end when they are answered."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in ((*SERVICES, PUBFLOW_SERVICE) if settings.pubflow else SERVICES)
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    )


def _collector(settings: Settings, flowless: Flowless, calls: CallFigures, tls: ServerTls | None) -> SourcesCollector:
    sources = [
        of_build,
        of_calls(calls, limit=settings.max_concurrent_calls),
        of_sessions(flowless.sessions),
        of_tail(flowless.tail, elapsed_ns=flowless.clock.elapsed_ns),
        of_barriers(flowless.barriers, flowless.watchers, flowless.tail),
        of_hashing(flowless.hashing),
        of_pools(flowless.database.pools),
        of_housekeeping(flowless.housekeeping),
        of_refusals(flowless.refusals),
        of_attempts(flowless.attempts),
    ]
    if isinstance(flowless.tier, RedisSessionTier):
        sources.append(of_redis(flowless.tier))
    if flowless.mail is not None:
        sources.append(of_mail(flowless.mail))
    if tls is not None:
        sources.append(of_tls(tls))
    return SourcesCollector(sources)
