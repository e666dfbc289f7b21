"""What the kubelet is told of this replica: whether it lives, and whether calls may be sent to it.

Both are answered from what is known already, so that probes cost the database nothing. Alive: the event loop turns
(or nobody would answer) and the tasks run without which a replica must go. A database that is away is no reason to
restart a replica, and so belongs to readiness alone: the log is read all the time, and its last read says whether the
database answers.

While a replica runs, a newer Flowless may migrate the schema. Most migrations leave it working (`migrate.py`); one
that does not makes the replica not ready. That is looked at by a task, every few seconds.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import SchemaError, require_served
from flowless.services.revocation_tail import RevocationTail
from trust_core import logs
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import TrustError

LOOK_SECONDS: Final = 5.0


class Probes:
    """See the module. Touched by the event loop only."""

    def __init__(self, *, database: Database, tail: RevocationTail, clock: Clock, patience_seconds: float) -> None:
        """`patience_seconds`: how long ago the log may have been read last, with what a slow read takes."""
        self._database = database
        self._tail = tail
        self._clock = clock
        self._patience_ns = round(patience_seconds * NS_PER_SECOND)
        self._vital: Sequence[asyncio.Task[None]] = ()
        self._draining = False
        self._schema_problem = ""

    def serve(self, vital: Sequence[asyncio.Task[None]]) -> None:
        """Say from now on that this replica is ready, while `vital` run and until it drains."""
        self._vital = vital

    def drain(self) -> None:
        """Say from now on that calls should go elsewhere."""
        self._draining = True

    def alive(self) -> bool:
        """Whether a restart would not help."""
        return not any(task.done() for task in self._vital)

    def ready(self) -> bool:
        """Whether calls may be sent here."""
        serving = bool(self._vital) and self.alive() and not self._draining
        return serving and self._reads() and not self._schema_problem

    def _reads(self) -> bool:
        return self._clock.elapsed_ns() - self._tail.storage_answered_ns <= self._patience_ns

    async def run(self) -> None:
        """Look at the schema until cancelled. A database that is away says nothing about it."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at the schema once; say so, once, when this Flowless cannot serve on it any more."""
        try:
            await require_served(self._database)
        except SchemaError as error:
            if not self._schema_problem:
                logs.get_logger("flowless").error("not ready: the schema was changed", problem=str(error))
            self._schema_problem = str(error)
        except TrustError:
            return
        else:
            self._schema_problem = ""
