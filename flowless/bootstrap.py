"""The only composition root of Flowless: settings in, running objects out."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from flowless.adapters.argon2_hasher import Argon2PasswordHasher
from flowless.adapters.email_addresses import LibraryEmailAddresses
from flowless.adapters.sql.bridges import SqlBridgeStore
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import require_current
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.sessions import SqlSessionStore
from flowless.adapters.sql.users import SqlUserStore
from flowless.config import Settings
from flowless.domain.sessions import SessionLimits
from flowless.grpc.admin import AdminServicer
from flowless.grpc.bridge import BridgeServicer
from flowless.grpc.identity import IdentityServicer
from flowless.grpc.server import FlowlessServer
from flowless.grpc.session import SessionServicer
from flowless.grpc.trust_token import TrustTokenServicer
from flowless.services.bridges import Bridges
from flowless.services.revocation_tail import RevocationTail
from flowless.services.sessions import Sessions
from flowless.services.users import Users
from flowless.workers import when_supervisor_ends
from trust_core import logs
from trust_core.clock import Clock, SystemClock
from trust_core.errors import Reason, TrustError
from trust_core.version import __version__


@dataclass(frozen=True, kw_only=True)
class Flowless:
    """The services over one database; what the commands and the server both need."""

    settings: Settings
    clock: Clock
    database: Database
    log: SqlRevocationLog
    users: Users
    sessions: Sessions
    bridges: Bridges


@asynccontextmanager
async def open_flowless(settings: Settings, *, check_schema: bool = True) -> AsyncIterator[Flowless]:
    """Build the services; close the database and the hashing pool at the end.

    Raises SchemaError when the database's schema is not the one needed.
    """
    clock = SystemClock()
    database = Database.open(settings.database_url, busy_timeout_seconds=settings.busy_timeout_seconds)
    hasher = Argon2PasswordHasher(
        profile=settings.password_profile,
        max_waiting=settings.hashing_queue,
        # All workers together have a thread per core.
        threads=max(1, (os.cpu_count() or 1) // settings.workers),
    )
    try:
        if check_schema:
            await require_current(database)
        user_store = SqlUserStore(database=database)
        users = Users(
            store=user_store, hasher=hasher, addresses=LibraryEmailAddresses(), clock=clock, random=os.urandom
        )
        sessions = Sessions(
            store=SqlSessionStore(database=database),
            user_store=user_store,
            users=users,
            hasher=hasher,
            limits=SessionLimits(absolute=settings.session_absolute, idle=settings.session_idle),
            activity_interval=timedelta(seconds=settings.activity_interval_seconds),
            clock=clock,
            random=os.urandom,
        )
        yield Flowless(
            settings=settings,
            clock=clock,
            database=database,
            log=SqlRevocationLog(database=database),
            users=users,
            sessions=sessions,
            bridges=Bridges(store=SqlBridgeStore(database=database), clock=clock, random=os.urandom),
        )
    finally:
        await database.close()
        hasher.close()


async def serve(settings: Settings, *, on_ready: Callable[[str], None], worker_index: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain: NOT_SERVING, watchers sent away, calls in flight finished.

    `worker_index`, from 1, says that a supervisor started this process as one of several on one port.
    Raises SchemaError, OSError or SocketError (cannot listen) and TrustError (storage) before `on_ready`; after it
    TrustError INTERNAL, when the log could no longer be followed: a replica that cannot vouch for leases must go.
    """
    log = logs.get_logger("flowless")
    async with open_flowless(settings) as flowless:
        tail = RevocationTail(
            log=SqlRevocationLog(database=flowless.database, engine=flowless.database.tail_reader),
            clock=flowless.clock,
            poll_interval=settings.poll_seconds,
            min_spacing=settings.min_read_spacing_seconds,
            max_subscriptions=settings.max_watchers,
        )
        flowless.database.when_log_written(tail.wake)
        tail.listen(flowless.bridges.on_revocation)
        await tail.start()
        server = FlowlessServer(
            bridges=flowless.bridges,
            identity=IdentityServicer(users=flowless.users),
            session=SessionServicer(sessions=flowless.sessions),
            trust_token=TrustTokenServicer(),
            bridge=BridgeServicer(sessions=flowless.sessions, bridges=flowless.bridges, tail=tail, log=flowless.log),
            admin=AdminServicer(bridges=flowless.bridges, clock=flowless.clock),
            max_message_bytes=settings.max_message_bytes,
            max_concurrent_calls=settings.max_concurrent_calls,
            serve_reflection=settings.reflection,
            share_port=worker_index is not None,
        )
        address = server.bind(settings.listen, cert_file=settings.tls_cert_file, key_file=settings.tls_key_file)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if worker_index is not None:
            when_supervisor_ends(stop.set)
        tailing = asyncio.create_task(tail.run())
        tailing.add_done_callback(lambda _: stop.set())
        await server.start()
        server.set_serving(serving=True)
        log.info("serving", address=address, version=__version__, revision=tail.position.revision)
        if settings.insecure_listen and not settings.is_local and settings.tls_cert_file is None:
            log.warning("plaintext off loopback: secrets and session ids are readable on the way")
        on_ready(address)
        await stop.wait()
        log.info("draining", watchers=tail.watchers, seconds=settings.drain_seconds)
        server.set_serving(serving=False)
        tail.drain()
        # Load balancers need a moment to see NOT_SERVING; until then calls that still come are answered.
        await asyncio.sleep(settings.lame_duck_seconds)
        await server.stop(settings.drain_seconds)
        failure = await _ended(tailing)
    if failure is not None:
        log.error("the revocation log is no longer followed", **logs.describe_exception(failure))
        raise TrustError(Reason.INTERNAL, "stopped by a fault of its own; the log says where")
    log.info("stopped")


async def _ended(task: asyncio.Task[None]) -> BaseException | None:
    """Cancel a task; return what it had failed with before."""
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return None if isinstance(outcome, asyncio.CancelledError) else outcome
