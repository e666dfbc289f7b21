"""How long callers wait for a connection of each pool, for metrics. The pools themselves are SQLAlchemy's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from trust_core.clock import NS_PER_SECOND
from trust_core.histogram import CALL_BOUNDS_NS, Histogram


class Pool:
    """The pool of one engine. Touched by the event loop only; the metrics' thread reads."""

    def __init__(self, *, name: str, engine: AsyncEngine) -> None:
        self.name = name
        self.engine = engine
        self.waits = Histogram(CALL_BOUNDS_NS)
        """Until a caller had its connection, or had not: opening one, trying it, and beginning a transaction
        included, since SQLite's only writer is waited for there."""
        self.waiting = 0
        self.timed_out = 0

    @property
    def size(self) -> int:
        """How many connections it has at most."""
        pool: Any = self.engine.sync_engine.pool
        return int(pool.size())

    @property
    def in_use(self) -> int:
        """How many of them are with callers."""
        pool: Any = self.engine.sync_engine.pool
        return max(0, int(pool.checkedout()))

    @asynccontextmanager
    async def entered(self, opening: AbstractAsyncContextManager[AsyncConnection]) -> AsyncIterator[AsyncConnection]:
        """Open what the engine gave, as `async with` would. Raises what that raises."""
        loop = asyncio.get_running_loop()
        came = loop.time()
        async with AsyncExitStack() as stack:
            self.waiting += 1
            try:
                connection = await stack.enter_async_context(opening)
            except sa.exc.TimeoutError:
                self.timed_out += 1
                raise
            finally:
                self.waiting -= 1
                self.waits.record(round((loop.time() - came) * NS_PER_SECOND))
            yield connection
