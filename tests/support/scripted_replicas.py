"""The table of replicas in memory, beside a `ScriptedLog`, whose writes a test can fail. Passes the stores' suite."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from flowless.domain.replicas import Acknowledgement, ReplicaRecord, ReplicaReport
from trust_core.errors import Reason, TrustError

_NOTHING = Acknowledgement(revision=0, applied=0, expired=0)


class ScriptedReplicas:
    """See `flowless.ports.replicas.ReplicaRegistry`. `on_ask` is told of the revision that is asked for."""

    def __init__(self, *, on_ask: Callable[[int], None] = lambda _: None) -> None:
        self.records: dict[str, ReplicaRecord] = {}
        self.error: TrustError | None = None
        self.gate = asyncio.Event()  # that reports wait for
        self.gate.set()
        self._on_ask = on_ask

    def is_member(self, replica_id: str) -> bool:
        """Whether a replica stands in the table, undoubted."""
        return replica_id in self.records and not self.records[replica_id].doubted

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def report(self, report: ReplicaReport) -> bool:
        await self.gate.wait()
        self._may_fail()
        known = self.records.get(report.id)
        if known is not None and known.report.beat >= report.beat:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "a later report of this replica was there first")
        acknowledged = known.acknowledged if known else _NOTHING
        self.records[report.id] = ReplicaRecord(
            report=report, doubted=False, acknowledged=acknowledged, reported_ago=timedelta(0)
        )
        return known is None

    async def acknowledge(self, replica_id: str, acknowledgement: Acknowledgement) -> None:
        self._may_fail()
        known = self.records.get(replica_id)
        if known is not None and known.acknowledged.revision < acknowledgement.revision:
            self.records[replica_id] = replace(known, acknowledged=acknowledgement)

    async def ask(self, revision: int) -> None:
        self._may_fail()
        self._on_ask(revision)

    async def list(self, *, with_watchers: bool = True) -> Sequence[ReplicaRecord]:
        self._may_fail()
        found = sorted(self.records.values(), key=lambda record: (record.report.name, record.report.id))
        if with_watchers:
            return found
        return [replace(record, report=replace(record.report, watchers=[])) for record in found]

    async def doubt(self, replica_id: str, *, beat: int) -> None:
        self._may_fail()
        known = self.records.get(replica_id)
        if known is not None and known.report.beat == beat:
            self.records[replica_id] = replace(known, doubted=True)

    async def remove(self, replica_id: str, *, beat: int) -> None:
        self._may_fail()
        known = self.records.get(replica_id)
        if known is not None and known.report.beat == beat and known.doubted:
            del self.records[replica_id]
