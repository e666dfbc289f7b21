"""The running server: the services that `bootstrap` puts together, behind the listeners, until it is told to stop."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from flowless.bootstrap import Flowless, open_flowless
from flowless.config import Settings
from flowless.grpc.admin import AdminServicer
from flowless.grpc.authorization import calling_bridge
from flowless.grpc.bridge import BridgeServicer
from flowless.grpc.identity import IdentityServicer
from flowless.grpc.pubflow import PubflowServicer
from flowless.grpc.server import FlowlessServer, TransportLimits
from flowless.grpc.session import SessionServicer
from flowless.grpc.tls import ServerTls
from flowless.grpc.tls import check as check_tls_files
from flowless.grpc.trust_token import TrustTokenServicer
from flowless.metrics_port import MetricsPort
from flowless.probes import Probes
from flowless.services.barriers import Barriers
from flowless.services.outbox import MailSender
from flowless.workers import when_supervisor_ends
from trust_core import logs
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import CallObserver
from trust_core.grpc_health import HealthPort
from trust_core.request_log import RequestLog
from trust_core.stopping import when_told_to_end
from trust_core.tls_files import TlsFiles, TlsFilesError, TlsPaths
from trust_core.version import __version__

if TYPE_CHECKING:
    from trust_core.otel import Traces

_READ_MARGIN_SECONDS: Final = 1.0
_TIDY_SECONDS: Final = 4.0
"""After the drain: less than a supervisor (`cli/serve.py`) and the chart's grace period allow for."""


async def serve(settings: Settings, *, on_ready: Callable[[str], None], worker_index: int | None = None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain: NOT_SERVING, watchers sent away, calls in flight finished.

    `worker_index`, from 1, says that a supervisor started this process as one of several on one port.
    Raises SchemaError, OSError or SocketError (cannot listen) and TrustError (storage) before `on_ready`; after it
    TrustError INTERNAL, when the log could no longer be followed: a replica that cannot vouch for leases must go.
    """
    log = logs.get_logger("flowless")
    async with (
        _tracing(settings) as traces,
        open_flowless(settings, serving=True, tracer=traces) as flowless,
        _sending(flowless.mail) as stop_sending,
    ):
        tail = flowless.tail
        _listen_to_log(flowless)
        wakeups = flowless.database.wakeups(on_wake=tail.wake)
        await _join(flowless.barriers)
        await tail.start()
        await flowless.recent.load(flowless.log, tail.position)
        tls = _tls(settings)
        metrics = MetricsPort(settings, flowless, tls=tls, worker_index=worker_index or 1)
        server = _server(settings, flowless, traces, share_port=worker_index is not None, metrics=metrics.observers)
        address = _bind(server, settings, tls)
        probes, health = _probes(settings, flowless)
        stop = asyncio.Event()
        when_told_to_end(stop.set)
        if worker_index is not None:
            when_supervisor_ends(stop.set)
        # Without one of these a replica cannot vouch for leases, nor end what a revoked bridge has open, and must go.
        vital = tuple(
            asyncio.create_task(work) for work in (tail.run(), flowless.barriers.run(), flowless.streams.run())
        )
        for task in vital:
            task.add_done_callback(lambda _: stop.set())
        aside = [asyncio.create_task(work) for work in (wakeups.run(), flowless.bridge_uses.run(), probes.run())]
        if tls is not None:
            aside.append(asyncio.create_task(tls.run()))
        cleaning = asyncio.create_task(flowless.housekeeping.run())
        await server.start()
        server.set_serving(serving=True)
        probes.serve(vital)
        if health is not None:
            await health.start()
        log.info("serving", address=address, version=__version__, revision=tail.position.revision)
        if settings.insecure_listen and not settings.is_local and settings.tls_cert_file is None:
            log.warning("plaintext off loopback: secrets and session ids are readable on the way")
        on_ready(address)
        await stop.wait()
        probes.drain()
        stop_sending()
        await _drain(settings, server, flowless, cleaning)
        ending = _end_soon(settings, failed=any(task.done() for task in vital))
        await _ended(cleaning)
        for task in aside:
            await _ended(task)
        await flowless.bridge_uses.flush()
        metrics.stop()
        failures = [await _ended(task) for task in vital]
        await flowless.barriers.leave()
        if health is not None:
            await health.stop()
    ending.cancel()
    for failure in filter(None, failures):
        log.error("the revocation log is no longer followed", **logs.describe_exception(failure))
        raise TrustError(Reason.INTERNAL, "stopped by a fault of its own; the log says where")
    log.info("stopped")


async def _drain(
    settings: Settings, server: FlowlessServer, flowless: Flowless, cleaning: asyncio.Task[None]
) -> None:
    """Send everybody away and let the calls in flight finish."""
    watchers = flowless.tail.watchers
    logs.get_logger("flowless").info("draining", watchers=watchers, seconds=settings.drain_seconds)
    server.set_serving(serving=False)
    flowless.tail.drain()
    cleaning.cancel()
    # Load balancers need a moment to see NOT_SERVING; until then calls that still come are answered.
    await asyncio.sleep(settings.lame_duck_seconds)
    await server.stop(settings.drain_seconds)


def _end_soon(settings: Settings, *, failed: bool) -> asyncio.TimerHandle:
    """End the process when tidying up takes too long, as it may where the database has fallen silent.

    Nobody is served any more, and what is left undone a crash would leave undone as well. The kubelet, or the
    supervisor of several workers, would kill the process a little later, and it could not say why.
    """
    mail_seconds = 0.0 if settings.smtp_url is None else settings.smtp_timeout_seconds

    def end() -> None:
        logs.get_logger("flowless").warning("stopped without tidying up: something does not answer")
        os._exit(int(failed))

    return asyncio.get_running_loop().call_later(_TIDY_SECONDS + mail_seconds, end)


def _probes(settings: Settings, flowless: Flowless) -> tuple[Probes, HealthPort | None]:
    probes = Probes(
        database=flowless.database,
        tail=flowless.tail,
        clock=flowless.clock,
        patience_seconds=settings.busy_timeout_seconds + 2 * settings.poll_seconds + _READ_MARGIN_SECONDS,
    )
    if not settings.health_listen:
        return probes, None
    port = HealthPort(listen=settings.health_listen, program="flowless", alive=probes.alive, ready=probes.ready)
    logs.get_logger("flowless").info("health", address=port.bind())
    return probes, port


@asynccontextmanager
async def _tracing(settings: Settings) -> "AsyncIterator[Traces | None]":
    """Make traces meanwhile if they are asked for; what is left is sent at the end. Raises OSError."""
    if not settings.traces_endpoint:
        yield None
        return
    try:
        from trust_core.otel import Traces  # noqa: PLC0415 - an extra
    except ImportError:
        raise OSError("traces_endpoint: needs the OpenTelemetry SDK; install the extra tracing") from None
    traces = Traces(
        program="flowless",
        instance=f"{socket.gethostname()[:100]}-{os.getpid()}",
        endpoint=settings.traces_endpoint,
        sample_ratio=settings.traces_sample_ratio,
    )
    try:
        yield traces
    finally:
        await asyncio.to_thread(traces.close)


def _observers(settings: Settings, flowless: Flowless, traces: "Traces | None") -> list[CallObserver]:
    """List who is told of every call; nobody by default."""
    observers: list[CallObserver] = [] if traces is None else [traces]
    if settings.log_requests != "off":
        observers.append(
            RequestLog(
                program="flowless",
                only_failed=settings.log_requests == "failed",
                clock=flowless.clock,
                bridge=calling_bridge,
            )
        )
    return observers


@asynccontextmanager
async def _sending(sender: MailSender | None) -> AsyncIterator[Callable[[], None]]:
    """Send mail meanwhile; give what stops it. A mail on its way is brought to its end, which takes bounded time."""
    if sender is None:
        yield lambda: None
        return
    task = asyncio.create_task(sender.run())
    try:
        yield sender.stop
    finally:
        sender.stop()
        await task


def _server(
    settings: Settings,
    flowless: Flowless,
    traces: "Traces | None",
    *,
    share_port: bool,
    metrics: Sequence[CallObserver],
) -> FlowlessServer:
    return FlowlessServer(
        bridges=flowless.bridges,
        refusals=flowless.refusals,
        streams=flowless.streams,
        identity=IdentityServicer(
            users=flowless.users,
            passwords=flowless.passwords,
            effects=flowless.effects,
            user_import=flowless.user_import,
        ),
        session=SessionServicer(
            sessions=flowless.sessions, logins=flowless.logins, effects=flowless.effects, barriers=flowless.barriers
        ),
        trust_token=TrustTokenServicer(tokens=flowless.tokens, keys=flowless.keys),
        bridge=BridgeServicer(
            sessions=flowless.sessions,
            bridges=flowless.bridges,
            tail=flowless.tail,
            log=flowless.log,
            watchers=flowless.watchers,
            barriers=flowless.barriers,
            longest_staleness=timedelta(seconds=settings.watch_staleness_max_seconds),
            clock=flowless.clock,
            tracer=traces,
        ),
        admin=AdminServicer(
            bridges=flowless.bridges,
            audit=flowless.audit,
            keys=flowless.keys,
            barriers=flowless.barriers,
            tail=flowless.tail,
            clock=flowless.clock,
        ),
        pubflow=_pubflow(settings, flowless) if settings.pubflow else None,
        limits=TransportLimits(
            connections=settings.max_connections,
            calls=settings.max_concurrent_calls,
            message_bytes=settings.max_message_bytes,
            connection_age_seconds=settings.connection_age_seconds,
            connection_grace_seconds=settings.connection_grace_seconds,
        ),
        serve_reflection=settings.reflection,
        share_port=share_port,
        observers=[*_observers(settings, flowless, traces), *metrics],
    )


def _pubflow(settings: Settings, flowless: Flowless) -> PubflowServicer:
    return PubflowServicer(
        sessions=flowless.sessions,
        logins=flowless.logins,
        users=flowless.users,
        passwords=flowless.passwords,
        effects=flowless.effects,
        tokens=flowless.tokens,
        log=flowless.log,
        least_mode=settings.pubflow_least_mode,
        ip_prefixes=settings.ip_prefixes,
    )


def tls_files(settings: Settings) -> TlsFiles:
    """Files of the listeners' TLS; reads none of them."""
    paths = TlsPaths(
        cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_client_ca_file
    )
    return TlsFiles(paths=paths, check=check_tls_files)


def _tls(settings: Settings) -> ServerTls | None:
    if settings.tls_cert_file is None:
        return None
    try:
        return ServerTls(files=tls_files(settings))
    except TlsFilesError as error:
        raise OSError(f"tls_cert_file, tls_key_file or tls_client_ca_file: {error}") from None


def _bind(server: FlowlessServer, settings: Settings, tls: ServerTls | None) -> str:
    """Listen; where both are configured, at a second address that asks for client certificates."""
    if tls is None:
        return server.bind(settings.listen, credentials=None)
    with_clients = settings.tls_client_ca_file is not None
    if settings.mtls_listen:
        address = server.bind(settings.mtls_listen, credentials=tls.credentials(with_clients=True))
        logs.get_logger("flowless").info("client certificates are asked for", address=address)
        with_clients = False
    return server.bind(settings.listen, credentials=tls.credentials(with_clients=with_clients))


def _listen_to_log(flowless: Flowless) -> None:
    """Tell those whom rows of the log concern; a bridge is forgotten before its streams are looked at."""
    tail = flowless.tail
    flowless.database.when_log_written(tail.wake)
    tail.listen(flowless.bridges.on_revocation)
    tail.listen(flowless.streams.on_revocation)
    tail.listen(flowless.recent.on_revocation)
    tail.listen(flowless.tiers.on_revocation)
    tail.when_started_over(flowless.recent.start_over)


async def _join(barriers: Barriers) -> None:
    """Make this replica known, if storage lets it: one that only reads still validates. The tail tries again."""
    try:
        await barriers.join()
    except TrustError as error:
        logs.get_logger("flowless").warning("cannot make this replica known; no leases until then", why=error.message)


async def _ended(task: asyncio.Task[None]) -> BaseException | None:
    """Cancel a task; return what it had failed with before."""
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return None if isinstance(outcome, asyncio.CancelledError) else outcome
