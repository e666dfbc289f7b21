"""PostgreSQL over psycopg 3: the database of many replicas. And the wake-ups between them.

Every wait is bounded twice: PostgreSQL ends a statement (`statement_timeout`) and a wait for a lock (`lock_timeout`)
by itself, and `database` stops waiting for a server that says nothing. Connections are tried before use, so that a
restart or failover of the server costs no call an error once the server is back.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from flowless.adapters.sql.engines import Engines
from trust_core import logs

CHANNEL: Final = "flowless_revocations"
WRITERS: Final = 4
"""Writers of the log wait for one row anyway; these are for logins and activity beside them."""
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 30.0
_RECYCLE_SECONDS: Final = 1_800


def driver_url(url: sa.URL) -> sa.URL:
    """URL for the driver that we use."""
    return url.set(drivername="postgresql+psycopg")


def _connect_args(timeout_seconds: float) -> dict[str, Any]:
    milliseconds = max(1, round(timeout_seconds * 1000))
    return {
        "connect_timeout": max(2, math.ceil(timeout_seconds)),  # libpq takes less than 2 for 2
        "application_name": "flowless",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={10 * milliseconds}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def open_postgres(url: sa.URL, *, timeout_seconds: float, pool_size: int) -> Engines:
    """Prepare engines; they connect at first use. Who waits for a connection waits at most `timeout_seconds`."""
    options: dict[str, Any] = {
        "hide_parameters": True,
        "pool_timeout": timeout_seconds,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_recycle": _RECYCLE_SECONDS,
        "connect_args": _connect_args(timeout_seconds),
    }
    target = driver_url(url)
    return Engines(
        reader=create_async_engine(target, pool_size=pool_size, isolation_level="AUTOCOMMIT", **options),
        tail_reader=create_async_engine(target, pool_size=1, isolation_level="AUTOCOMMIT", **options),
        writer=create_async_engine(target, pool_size=WRITERS, isolation_level="READ COMMITTED", **options),
    )


class NoWakeups:
    """For databases whose processes find each other's writes by polling alone."""

    async def run(self) -> None:
        """Do nothing until cancelled."""
        await asyncio.Event().wait()


class PostgresWakeups:
    """Tells other replicas that the log was written, and hears it from them. Only a wake-up: polling is the truth.

    The notification is sent after the commit and on a connection of its own: inside the transaction it would take
    PostgreSQL's one lock for notifications until commit. Those that come while one is being sent are sent as one.
    A wake-up that is lost costs latency of one polling interval. Databases without LISTEN (CockroachDB) refuse it,
    which is logged once and tried again seldom.
    """

    def __init__(self, *, url: sa.URL, timeout_seconds: float, on_wake: Callable[[], None]) -> None:
        # The driver's own arguments, so that a URL means the same here and in the pools.
        dialect: Any = driver_url(url).get_dialect()()
        arguments = dialect.create_connect_args(driver_url(url))[1]
        self._arguments: dict[str, Any] = {**arguments, **_connect_args(timeout_seconds)}
        self._timeout_seconds = timeout_seconds
        self._on_wake = on_wake
        self._written = asyncio.Event()
        self._log: Any = logs.get_logger("flowless")
        self.listening = False

    def notify(self) -> None:
        """Say, soon, that the log was written. Call from the event loop."""
        self._written.set()

    async def run(self) -> None:
        """Send and hear until cancelled; never fails."""
        await asyncio.gather(self._keep(self._listen, "hear"), self._keep(self._send, "send"))

    async def _keep(self, work: Callable[["psycopg.AsyncConnection[Any]"], Any], what: str) -> None:
        delay = _FIRST_RETRY_SECONDS
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._connected(work)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self.listening = self.listening and what != "hear"
                if asyncio.get_running_loop().time() - began > _LAST_RETRY_SECONDS:
                    delay = _FIRST_RETRY_SECONDS
                if delay == _FIRST_RETRY_SECONDS:
                    self._log.warning(f"cannot {what} wake-ups; polling goes on", **logs.describe_exception(error))
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_SECONDS)

    async def _connected(self, work: Callable[["psycopg.AsyncConnection[Any]"], Any]) -> None:
        async with asyncio.timeout(2 * max(2.0, self._timeout_seconds)):
            connection = await psycopg.AsyncConnection.connect(**self._arguments, autocommit=True)
        try:
            await work(connection)
        finally:
            # Not `async with`: a peer that says nothing would be waited for.
            with suppress(psycopg.Error, OSError, TimeoutError):
                await asyncio.wait_for(connection.close(), self._timeout_seconds)

    async def _listen(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        self.listening = True
        self._on_wake()  # what was written while nobody listened
        async for _ in connection.notifies():
            self._on_wake()

    async def _send(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await connection.execute(f"NOTIFY {CHANNEL}")
            except BaseException:
                self._written.set()
                raise
