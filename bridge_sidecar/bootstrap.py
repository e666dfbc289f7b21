"""The only composition root of the sidecar: settings in, running objects out."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_sidecar import relay as relaying
from bridge_sidecar.activity import ActivityReporter
from bridge_sidecar.bridge_secret import FixedSecret, SecretError, SecretFile, SecretSource
from bridge_sidecar.config import ConfigError, SidecarConfig
from bridge_sidecar.gate_config import FORWARD_AUTH_REQUEST_HEADERS
from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.prewarm import Prewarm
from bridge_sidecar.revocation_watch import RevocationWatch, WatchSettings
from bridge_sidecar.routes import Routes
from bridge_sidecar.routes_reload import RoutesReload
from bridge_sidecar.sent_figures import SentFigures
from bridge_sidecar.session_cache import CacheLimits, SessionCache
from bridge_sidecar.unix_server import UnixServer, ValidatorHandlers
from bridge_sidecar.upstream import OPTIONS, Upstream
from bridge_sidecar.upstream_channel import UpstreamChannel
from bridge_sidecar.validator import MissLimits, Validator
from trust_core import logs
from trust_core.clock import NS_PER_SECOND, Clock, SystemClock
from trust_core.grpc_edge import CallObserver
from trust_core.grpc_health import HealthPort
from trust_core.stopping import when_told_to_end
from trust_core.tls_files import TlsFiles, TlsFilesError, TlsPaths
from trust_core.version import __version__

if TYPE_CHECKING:
    import grpc

    from bridge_sidecar.forward_auth import ForwardAuth
    from bridge_sidecar.gate import Answerer, Gate
    from bridge_sidecar.measured import MeasuredValidator
    from trust_core.call_figures import CallFigures
    from trust_core.metrics_server import MetricsServer
    from trust_core.otel import Traces

_LAST_REPORT_SECONDS = 1.0


class _Writes:
    """What relayed calls wrote, told to those whom it concerns: the relay's `WriteObserver`."""

    def __init__(self, *, cache: SessionCache, validator: Validator) -> None:
        self._cache = cache
        self._validator = validator

    @property
    def log_id(self) -> str:
        return self._cache.log_id

    def observe_revision(self, revision: int, *, log_id: str) -> None:
        self._validator.observe_revision(revision, log_id=log_id)

    def session_made(self) -> None:
        self._cache.forget_unknown()


class Sidecar:
    """Everything that runs, put together. Construction does no I/O but reading the secret and CA files."""

    def __init__(
        self,
        config: SidecarConfig,
        *,
        clock: Clock | None = None,
        config_file: Path | None = None,
        reload: Callable[[], SidecarConfig] | None = None,
    ) -> None:
        """Put the parts together. Raises `ConfigError` for what only shows then.

        `config_file` is looked at for rules that change, and `reload` reads all settings anew then.
        """
        clock = clock if clock is not None else SystemClock()
        self._config = config
        self._clock = clock
        self._log: Any = logs.get_logger("bridge-sidecar")
        self._traces = traces = _traces(config)
        try:
            secret = _secret(config, clock)
            allowed = relaying.resolve(config.relay)
            self.channel = UpstreamChannel(address=config.upstream, files=_tls_files(config), options=OPTIONS)
            self.upstream = Upstream(
                channels=self.channel,
                secret=secret,
                # An answer is accepted until the upstream timeout is over: with this age on top it is at the bound.
                tolerated_age_ns=config.max_staleness_ns - round(config.upstream_timeout_seconds * NS_PER_SECOND),
                tracer=traces,
            )
        except (SecretError, relaying.UnknownMethodError, TlsFilesError) as error:
            raise ConfigError(str(error)) from None
        self.cache = SessionCache(
            limits=CacheLimits(
                max_entries=config.cache_max_entries,
                max_bytes=config.cache_max_bytes,
                negative_max_entries=config.negative_max_entries,
                negative_ttl_ns=config.negative_ttl_ns,
            )
        )
        self.lease = Lease(max_staleness_ns=config.max_staleness_ns)
        self.activity = ActivityReporter(
            receiver=self.upstream,
            cache=self.cache,
            clock=clock,
            interval_seconds=config.activity_interval_seconds,
            max_entries=config.cache_max_entries,
        )
        self.routes = Routes(config.route_table)
        self._routes_reload = (
            None
            if config_file is None or reload is None
            else RoutesReload(path=config_file, load=reload, running=config, routes=self.routes)
        )
        self.mismatches = MismatchReporter(receiver=self.upstream, timeout_seconds=config.upstream_timeout_seconds)
        self.validator = Validator(
            cache=self.cache,
            lease=self.lease,
            source=self.upstream,
            activity=self.activity,
            clock=clock,
            limits=MissLimits(
                max_concurrent=config.max_concurrent_misses,
                max_waiting=config.max_waiting_misses,
                upstream_timeout_seconds=config.upstream_timeout_seconds,
            ),
            mismatches=self.mismatches,
        )
        self.prewarm = Prewarm(
            source=self.upstream,
            cache=self.cache,
            counters=self.validator.counters,
            clock=clock,
            limit=min(config.prewarm_max_entries, config.cache_max_entries),
        )
        self.watch = RevocationWatch(
            source=self.upstream,
            cache=self.cache,
            lease=self.lease,
            clock=clock,
            random=random.random,  # jitter, not secrecy
            settings=WatchSettings(
                instance=config.instance,
                watcher_id=secrets.token_hex(16),
                max_staleness_ns=config.max_staleness_ns,
                ping_interval_ns=config.ping_interval_ns,
                trusted_ns=config.max_staleness_ns + self.routes.table.longest_beyond_lease_ns,
            ),
            told=SentFigures(counters=self.validator.counters, cache=self.cache, lease=self.lease, clock=clock),
        )
        self.metrics: MetricsServer | None = None
        self._vital: list[asyncio.Task[None]] = []
        self._health = self._health_port()
        self._measured: MeasuredValidator | None
        self._calls: CallFigures | None
        self._measured, self._calls = self._measuring()
        answerer = self.validator if self._measured is None else self._measured
        self.gate = self._gate(answerer)
        self.forward_auth: ForwardAuth | None = None
        self.server = UnixServer(
            socket_path=config.socket_path,
            validator=ValidatorHandlers(
                answerer=answerer,
                cache=self.cache,
                lease=self.lease,
                watch=self.watch,
                clock=clock,
                routes=self.routes,
                mismatches=self.mismatches,
                routes_required=config.routes_required,
                max_staleness_ns=config.max_staleness_ns,
                tracer=traces,
            ),
            relay=relaying.Relay(
                target=self.upstream,
                observer=_Writes(cache=self.cache, validator=self.validator),
                allowed=allowed,
                max_calls=config.max_relayed_calls,
                default_timeout_seconds=config.relay_default_timeout_seconds,
            ),
            ext_authz=self._ext_authz(),
            observers=self._observers(),
        )

    def _health_port(self) -> HealthPort | None:
        if not self._config.health_listen:
            return None
        return HealthPort(
            listen=self._config.health_listen,
            program="bridge-sidecar",
            alive=lambda: not any(task.done() for task in self._vital),
            ready=lambda: self.server.is_serving,
        )

    async def _serve_health(self) -> None:
        """Answer probes if that is configured. Raises `ConfigError` when that cannot be."""
        if self._health is None:
            return
        try:
            address = self._health.bind()
        except OSError as error:
            raise ConfigError(f"health_listen: {error}") from None
        await self._health.start()
        self._log.info("health", address=address)

    def _observers(self) -> list[CallObserver]:
        """List who is told of every call on the socket; nobody by default."""
        observers: list[CallObserver] = [] if self._traces is None else [self._traces]
        if self._config.log_requests != "off":
            from trust_core.request_log import RequestLog  # noqa: PLC0415 - seldom used

            only_failed = self._config.log_requests == "failed"
            observers.append(RequestLog(program="bridge-sidecar", only_failed=only_failed, clock=self._clock))
        if self._calls is not None:
            observers.append(self._calls)
        return observers

    def _measuring(self) -> "tuple[MeasuredValidator, CallFigures] | tuple[None, None]":
        """Make what counts and times, if metrics are on: else no request pays for it."""
        if not self._config.metrics_listen:
            return None, None
        from bridge_sidecar.measured import MeasuredValidator  # noqa: PLC0415 - costs memory
        from trust_core.call_figures import CallFigures  # noqa: PLC0415

        return (
            MeasuredValidator(validator=self.validator, timer=time.perf_counter_ns),
            CallFigures(clock=self._clock),
        )

    def _gate(self, answerer: "Answerer") -> "Gate | None":
        """Build the gate if anybody may ask it."""
        config = self._config
        if not (config.ext_authz or config.forward_auth_listen):
            return None
        from bridge_sidecar.gate import Gate  # noqa: PLC0415 - costs memory

        if not config.routes:
            self._log.warning("no rules: every request of a proxy is refused until the configuration file holds some")
        return Gate(
            answerer=answerer,
            routes=self.routes,
            reader=config.request_reader,
            client_ip=config.client_ip,
            identity=config.identity_headers,
            tracer=self._traces,
        )

    def _ext_authz(self) -> "grpc.GenericRpcHandler | None":
        if self.gate is None or not self._config.ext_authz:
            return None
        from bridge_sidecar.ext_authz import ExtAuthz  # noqa: PLC0415 - costs memory

        return ExtAuthz(gate=self.gate).handlers()

    async def _serve_forward_auth(self) -> "ForwardAuth | None":
        """Listen for proxies if that is configured. Raises `ConfigError` or `SocketError` when that cannot be."""
        if self.gate is None or not self._config.forward_auth_listen:
            return None
        from bridge_sidecar.forward_auth import ForwardAuth  # noqa: PLC0415 - costs memory

        forward_auth = ForwardAuth(
            listen=self._config.forward_auth_listen,
            request_headers=FORWARD_AUTH_REQUEST_HEADERS[self._config.forward_auth_request_headers],
            gate=self.gate,
            tracer=self._traces,
        )
        try:
            await forward_auth.start()
        except OSError as error:
            raise ConfigError(f"forward_auth_listen: cannot listen there: {error.strerror}") from None
        self._log.info("forward-auth", address=forward_auth.address)
        return forward_auth

    def _serve_metrics(self) -> "MetricsServer | None":
        """Start serving metrics if that is configured. Raises `ConfigError` when that cannot be."""
        if self._measured is None or self._calls is None:
            return None
        try:
            from bridge_sidecar.metrics import Shown, SidecarCollector  # noqa: PLC0415 - costs memory
            from trust_core.metrics_server import MetricsServer  # noqa: PLC0415
        except ImportError:
            raise ConfigError("metrics_listen: needs prometheus-client; install the extra sidecar-metrics") from None
        host, _, port = self._config.metrics_listen.rpartition(":")
        shown = Shown(
            cache=self.cache,
            lease=self.lease,
            watch=self.watch,
            validator=self.validator,
            measured=self._measured,
            calls=self._calls,
            mismatches=self.mismatches,
            routes=self.routes,
            clock=self._clock,
            max_misses=self._config.max_concurrent_misses + self._config.max_waiting_misses,
            gate=None if self.gate is None else self.gate.counters,
        )
        try:
            metrics = MetricsServer(host=host.strip("[]"), port=int(port), collector=SidecarCollector(shown))
        except OSError as error:
            raise ConfigError(f"metrics_listen: cannot listen there: {error.strerror}") from None
        self._log.info("metrics", address=metrics.address)
        return metrics

    async def run(self, *, stop: asyncio.Event, on_listening: Callable[[], None]) -> None:
        """Serve until `stop` is set, then drain. Flowless need not be there: validations are UNAVAILABLE until it is.

        Raises `ConfigError` or `SocketError` before `on_listening` was called, and whatever a background task failed
        with: a sidecar whose watch died would fail closed for ever, and is better restarted.
        """
        aside: list[asyncio.Task[None]] = []
        try:
            self.metrics = self._serve_metrics()
            await self.server.start()
            self.forward_auth = await self._serve_forward_auth()
            await self._serve_health()
            on_listening()
            # Without one of these the sidecar could only fail closed for ever, or is not reachable.
            running = [self.watch.run(), self.activity.run(), self.server.watch_socket()]
            if self.channel.is_replaceable:
                running.append(self.channel.run())
            if self._routes_reload is not None:
                running.append(self._routes_reload.run())
            self._vital = [asyncio.create_task(work) for work in running]
            stopping = asyncio.create_task(stop.wait())
            aside = [asyncio.create_task(self._serve_once_fresh())]
            done, _ = await asyncio.wait((stopping, *self._vital), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in done.intersection(self._vital):
                task.result()
            self._log.info("draining", lame_duck_seconds=self._config.lame_duck_seconds)
            self.server.end_serving()
            await asyncio.sleep(self._config.lame_duck_seconds)
        finally:
            await self._wind_down([*self._vital, *aside])

    async def _serve_once_fresh(self) -> None:
        if not self._config.ready_without_lease:
            await self.watch.first_lease.wait()
            await self.prewarm.run()
        self.server.set_serving()

    async def _wind_down(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let calls in flight finish while the watch still runs, then end everything."""
        drain_seconds = self._config.drain_seconds
        stops = [self.server.stop(drain_seconds=drain_seconds)]
        if self.forward_auth is not None:
            stops.append(self.forward_auth.stop(drain_seconds=drain_seconds))
        await asyncio.gather(*stops)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.validator.close()
        await self.mismatches.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_SECONDS):
                await self.activity.flush()
        await self.upstream.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.stop)
        if self._health is not None:
            await self._health.stop()


def _traces(config: SidecarConfig) -> "Traces | None":
    if not config.traces_endpoint:
        return None
    try:
        from trust_core.otel import Traces  # noqa: PLC0415 - costs memory
    except ImportError:
        raise ConfigError("traces_endpoint: needs the OpenTelemetry SDK; install the extra tracing") from None
    return Traces(
        program="bridge-sidecar",
        instance=config.instance,
        endpoint=config.traces_endpoint,
        sample_ratio=config.traces_sample_ratio,
    )


def _tls_files(config: SidecarConfig) -> TlsFiles | None:
    if config.upstream_ca_file is None:
        return None
    cert_file, key_file = config.upstream_cert_file, config.upstream_key_file
    return TlsFiles(
        paths=TlsPaths(
            cert_file=None if cert_file is None else Path(cert_file),
            key_file=None if key_file is None else Path(key_file),
            ca_file=Path(config.upstream_ca_file),
        )
    )


def _secret(config: SidecarConfig, clock: Clock) -> SecretSource:
    if config.bridge_secret_file is not None:
        return SecretFile(path=Path(config.bridge_secret_file), clock=clock)
    return FixedSecret(secret=config.bridge_secret or "")


async def serve(
    config: SidecarConfig,
    *,
    config_file: Path | None = None,
    reload: Callable[[], SidecarConfig] | None = None,
) -> None:
    """Run the sidecar until SIGTERM, SIGINT or SIGHUP. Raises `ConfigError` or `SocketError` before it listens.

    `config_file` and `reload` as of `Sidecar`.
    """
    log: Any = logs.get_logger("bridge-sidecar")
    stop = asyncio.Event()
    when_told_to_end(stop.set)

    def on_listening() -> None:
        log.info("listening", upstream=config.upstream, instance=config.instance, version=__version__)
        print(f"bridge-sidecar listening on unix:{config.socket_path}", flush=True)

    await Sidecar(config, config_file=config_file, reload=reload).run(stop=stop, on_listening=on_listening)
    log.info("stopped")
