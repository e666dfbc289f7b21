"""Use cases of the audit log: show it, and find out whether it is as it was written."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from flowless.domain.audit import Action, AuditRecord, chained_hash
from flowless.domain.fields import Fields
from flowless.ports.audit import AuditHead, AuditTrail
from flowless.services.users import check_user_id, checked_page_size

_BATCH: Final = 500
_BEFORE_ALL: Final = -(2**63)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """One page of events; `next_before` is absent at the end."""

    records: Sequence[AuditRecord]
    next_before: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What verification found. `problem` is empty when all is well; `sequence` and `hash` are then the log's end."""

    checked: int
    sequence: int
    hash: bytes
    problem: str = ""


class AuditLog:
    """See the module."""

    def __init__(self, *, trail: AuditTrail) -> None:
        self._trail = trail

    async def page(self, *, page_size: int, before: int | None, user_id: str) -> AuditPage:
        """Show events, newest first. Errors: INVALID_FIELD."""
        fields = Fields()
        size = checked_page_size(page_size, fields)
        if user_id:
            check_user_id(user_id, fields)
        fields.refuse()
        found = await self._trail.before(before, user_id=user_id, limit=size + 1)
        return AuditPage(records=found[:size], next_before=found[size - 1].sequence if len(found) > size else None)

    async def records(self, *, after: int) -> AsyncIterator[AuditRecord]:
        """Give the events after that one in order, a batch at a time, until there are no more."""
        while True:
            found = await self._trail.after(after, limit=_BATCH)
            for record in found:
                yield record
            if len(found) < _BATCH:
                return
            after = found[-1].sequence

    async def verify(self, *, expected: tuple[int, bytes] | None = None) -> Finding:
        """Walk the chain from its beginning, or from where older events went by age, to its end.

        Finds a row that was altered, removed, moved or added. Who can write the whole table can also write another
        chain: `expected`, a sequence with the hash that it had when somebody noted it, finds that.
        """
        while True:
            head = await self._trail.head()
            found = await self._walk(head, expected)
            # What went by age while this walked is missed and not missing: begin again behind it.
            if not found.problem or (await self._trail.head()).pruned_through == head.pruned_through:
                return found

    async def _walk(self, head: AuditHead, expected: tuple[int, bytes] | None) -> Finding:
        sequence, previous, checked = head.pruned_through, head.pruned_hash, 0
        pruned_through: object = 0
        async for record in self.records(after=_BEFORE_ALL):
            if record.sequence > head.sequence:
                break  # written while this walks
            problem = _problem(record, after=sequence, previous=previous)
            if not problem and expected is not None and record.sequence == expected[0] and record.hash != expected[1]:
                problem = f"event {record.sequence} has another hash than the one that was noted"
            if problem:
                return Finding(checked=checked, sequence=record.sequence, hash=record.hash, problem=problem)
            sequence, previous, checked = record.sequence, record.hash, checked + 1
            if record.event.action == Action.AUDIT_PRUNE:
                pruned_through = record.event.details.get("through", 0)
        problem = await self._beyond_the_end()
        if (sequence, previous) != (head.sequence, head.hash):
            problem = f"the log ends with event {sequence}, and {head.sequence} were written: the last ones are gone"
        elif pruned_through != head.pruned_through:
            problem = f"events up to {head.pruned_through} are gone, and no event says that they went by age"
        elif expected is not None and not head.pruned_through < expected[0] <= head.sequence:
            problem = f"event {expected[0]} is not in the log: it holds {head.pruned_through + 1} to {head.sequence}"
        return Finding(checked=checked, sequence=sequence, hash=previous, problem=problem)

    async def _beyond_the_end(self) -> str:
        """Find an event that nobody wrote through the head: the head is read later, and so is at least as far."""
        newest = await self._trail.before(None, user_id="", limit=1)
        end = (await self._trail.head()).sequence
        if newest and newest[0].sequence > end:
            return f"event {newest[0].sequence} was added: the log ends with event {end}"
        return ""


def _problem(record: AuditRecord, *, after: int, previous: bytes) -> str:
    if record.sequence != after + 1:
        return f"event {after + 1} is missing or moved: after event {after} comes event {record.sequence}"
    time_us = (record.event.time - _EPOCH) // timedelta(microseconds=1)
    if chained_hash(previous, record.sequence, time_us, record.event) != record.hash:
        return f"event {record.sequence} is not as it was written, or the one before it is another"
    return ""
