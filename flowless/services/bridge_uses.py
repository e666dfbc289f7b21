"""When bridges and their secrets were used last, written in batches.

An operator who rotates wants to see whether the old secret is still in use before it expires. That needs no write
per call: uses are noted in memory, and every half a minute the newest of each secret goes to storage in one
transaction. A replica that is killed loses at most one batch.

Shared state: the uses since the last batch, touched by the event loop only. Bounded: only secrets that are good come
here, and of those at most so many in a batch.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from flowless.domain.bridges import BridgeUse
from trust_core.errors import TrustError

BATCH_SECONDS: Final = 30.0
_MAX_SECRETS: Final = 10_000


class UseRecorder(Protocol):
    """Who is told of uses."""

    def note(self, bridge_id: str, secret_digest: bytes, at: datetime) -> None:
        """Note that a secret was good at that moment."""
        ...


class NoUseRecorder:
    """For commands, which are no use of a bridge."""

    def note(self, bridge_id: str, secret_digest: bytes, at: datetime) -> None:
        """Do nothing."""


class UseStore(Protocol):
    """Where batches go: `flowless.ports.stores.BridgeStore`."""

    async def record_uses(self, uses: Sequence[BridgeUse]) -> None:
        """See the port."""
        ...


class BridgeUses:
    """See the module."""

    def __init__(self, *, store: UseStore) -> None:
        self._store = store
        self._noted: dict[tuple[str, bytes], datetime] = {}

    def note(self, bridge_id: str, secret_digest: bytes, at: datetime) -> None:
        """See `UseRecorder.note`."""
        key = (bridge_id, secret_digest)
        if key in self._noted or len(self._noted) < _MAX_SECRETS:
            self._noted[key] = at

    async def run(self) -> None:
        """Write batches until cancelled."""
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted. Never raises: what storage does not take now goes with the next batch."""
        batch, self._noted = self._noted, {}
        uses = [BridgeUse(bridge_id=bridge, digest=digest, at=at) for (bridge, digest), at in batch.items()]
        try:
            await self._store.record_uses(uses)
        except TrustError:
            for (bridge_id, digest), at in batch.items():
                if (bridge_id, digest) not in self._noted:
                    self.note(bridge_id, digest, at)
