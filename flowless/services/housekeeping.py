"""Deletes what nobody needs any more, in small batches, by one replica at a time.

- A **session** goes some time after its absolute expiry, which every session has. Until then a denial can say why
  (EXPIRED, REVOKED, IDLE); afterwards it is UNKNOWN. No row of the log is needed: it is active for nobody.
- A **bridge secret** goes some time after it expired.
- A **trust token** and a **mail** go some time after the token expired, and after the mail was sent or given up.
- Events of the **audit log** go when they are old, if the deployment wants that at all.
- Rows of the **revocation log** go when they are old and not among the last many. A sidecar that was away for longer
  drops its cache instead of replaying.

Wall clocks decide when a row goes and never what is served.

Shared state: counters, touched by the event loop only; the metrics thread reads them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from flowless.domain.audit import SYSTEM, Action, Actor
from flowless.ports.housekeeping import Due, HousekeepingStore, Kind
from trust_core.clock import Clock

BATCH: Final = 500
_MAX_BATCHES: Final = 200
_PAUSE_SECONDS: Final = 0.02
KEPT_LOG_ROWS: Final = 20_000
"""Of the log at least; more than a replica remembers for its check of Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long rows are kept after their end; of the log, after they were written."""

    sessions: timedelta
    bridge_secrets: timedelta
    log: timedelta
    trust_tokens: timedelta
    mail: timedelta
    audit: timedelta | None
    log_rows: int = KEPT_LOG_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round did. Not `complete`: there is more than a round deletes."""

    deleted: dict[Kind, int]
    others_at_it: bool = False
    complete: bool = True


class Housekeeping:
    """See the module."""

    def __init__(
        self,
        *,
        store: HousekeepingStore,
        retention: Retention,
        clock: Clock,
        jitter: Callable[[], float],
        interval_seconds: float,
        on_failure: Callable[[Exception], Any],
    ) -> None:
        """`jitter` gives numbers in [0, 1); `interval_seconds` 0: `run` does nothing."""
        self._store = store
        self._retention = retention
        self._clock = clock
        self._jitter = jitter
        self._interval_seconds = interval_seconds
        self._on_failure = on_failure
        self.deleted: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.rounds: dict[str, int] = {"done": 0, "skipped": 0, "failed": 0}

    def due(self) -> list[Due]:
        """Say what is due now."""
        now, kept = self._clock.now(), self._retention
        due = [
            Due(kind=Kind.SESSIONS, before=now - kept.sessions),
            Due(kind=Kind.BRIDGE_SECRETS, before=now - kept.bridge_secrets),
            Due(kind=Kind.REVOCATIONS, before=now - kept.log, keep_rows=kept.log_rows),
            Due(kind=Kind.TRUST_TOKENS, before=now - kept.trust_tokens),
            Due(kind=Kind.MAIL, before=now - kept.mail),
        ]
        if kept.audit is not None:
            event = Actor(name=SYSTEM).event(Action.AUDIT_PRUNE, now=now)
            due.append(Due(kind=Kind.AUDIT, before=now - kept.audit, event=event))
        return due

    async def count(self) -> dict[Kind, int]:
        """Count what a round would delete. Raises what storage raises."""
        return {due.kind: await self._store.count(due) for due in self.due()}

    async def run_once(self) -> Round:
        """Delete what is due, until nothing is or another replica is at it. Raises what storage raises.

        Of each kind a bounded number of batches; what is left is the next round's.
        """
        found = Round(deleted=dict.fromkeys(Kind, 0))
        for due in self.due():
            for _ in range(_MAX_BATCHES):
                rows = await self._store.delete_batch(due, limit=BATCH)
                if rows is None:
                    return replace(found, others_at_it=True)
                found.deleted[due.kind] += rows
                self.deleted[due.kind] += rows
                if rows < BATCH:
                    break
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                found = replace(found, complete=False)
        return found

    async def run(self) -> None:
        """Delete what is due at every interval until cancelled. Storage that fails is tried again the next time."""
        if self._interval_seconds <= 0:
            await asyncio.Event().wait()
        while True:
            # Replicas that start together do not all come at once.
            await asyncio.sleep(self._interval_seconds * (0.5 + self._jitter()))
            try:
                found = await self.run_once()
            except Exception as error:  # noqa: BLE001 - whatever it is, rows that stay are no reason to stop
                self.rounds["failed"] += 1
                self._on_failure(error)
            else:
                self.rounds["skipped" if found.others_at_it else "done"] += 1
