"""The audit log in every store: in order, whole, and any change of it is found."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from flowless.adapters.sql.database import WriteTransaction
from flowless.adapters.sql.schema import audit_events, audit_head
from flowless.domain.audit import NO_HASH, Action, AuditEvent, Outcome
from flowless.ports.housekeeping import Due, Kind
from flowless.services.audit import AuditLog, Finding
from tests.support.stores import BY, HASH, NOW, SECOND, Stores, new_session, sqlite
from trust_core.errors import Reason, TrustError


def _event(number: int = 0, **changes: Any) -> AuditEvent:
    return BY.event(Action.SESSION_LOGIN, now=NOW + number * SECOND, **{"subject": f"sh_{number}", **changes})


async def _write(stores: Stores, count: int) -> None:
    for number in range(count):
        await stores.audit.record(_event(number, user_id=f"usr_{number % 2}", n=number, words=["a", "ü\n"]))


async def _verify(stores: Stores, **options: Any) -> Finding:
    return await AuditLog(trail=stores.audit).verify(**options)


async def test_events_are_read_as_they_were_written(stores: Stores) -> None:
    event = _event(3, user_id="usr_1", outcome=Outcome.REFUSED, text="ü", n=7, flag=True, words=["a"])
    await stores.audit.record(event)
    (record,) = await stores.audit.after(0, limit=10)
    assert (record.sequence, record.event) == (1, event)
    assert (await _verify(stores)).problem == ""


async def test_the_newest_come_first_a_page_at_a_time_and_of_one_user_if_asked(stores: Stores) -> None:
    await _write(stores, 5)
    log = AuditLog(trail=stores.audit)
    first = await log.page(page_size=2, before=None, user_id="")
    second = await log.page(page_size=2, before=first.next_before, user_id="")
    last = await log.page(page_size=2, before=second.next_before, user_id="")
    assert [[r.sequence for r in page.records] for page in (first, second, last)] == [[5, 4], [3, 2], [1]]
    assert last.next_before is None
    records = await stores.audit.before(None, user_id="usr_1", limit=10)
    assert [record.sequence for record in records] == [4, 2]


async def test_events_of_transactions_at_once_make_one_chain(stores: Stores) -> None:
    """A user is locked, then the revocation log, then the audit log: nobody waits in a ring."""
    users = [await stores.add_user() for _ in range(3)]

    async def log_in_and_out(number: int) -> None:
        user = users[number % 3]
        session = new_session(user.id)
        await stores.sessions.add(session, expected_hash=HASH, event=_event())
        await stores.sessions.revoke(session.digest, now=NOW, event=_event())
        await stores.users.update(user.id, user.profile, frozenset({"name"}), now=NOW, event=_event())
        await stores.audit.record(_event())

    await asyncio.gather(*(log_in_and_out(number) for number in range(9)))
    found = await _verify(stores)
    assert (found.problem, found.checked) == ("", 36)


async def test_what_is_rolled_back_leaves_no_event_and_no_gap(stores: Stores) -> None:
    await _write(stores, 2)

    async def fail(tx: WriteTransaction) -> None:
        await tx.audit(_event())
        raise TrustError(Reason.CONFLICT, "on purpose")

    with suppress(TrustError):
        await stores.database.write(fail)
    await _write(stores, 1)
    found = await _verify(stores)
    assert (found.problem, found.checked, found.sequence) == ("", 3, 3)


async def test_an_event_is_written_only_when_something_changed(stores: Stores) -> None:
    session = await stores.add_session(await stores.add_user())
    for _ in range(3):
        await stores.sessions.revoke(session.digest, now=NOW, event=_event())
        await stores.sessions.revoke_handle("sh_nobody", now=NOW, event=_event())
        await stores.users.delete("usr_nobody", now=NOW, event=_event())
    (record,) = await stores.audit.after(0, limit=10)
    assert (record.event.subject, record.event.user_id) == (session.handle, session.user_id)


async def _alter(stores: Stores, statement: sa.Executable) -> None:
    async def work(tx: WriteTransaction) -> None:
        await tx.connection.execute(statement)

    await stores.database.write(work)


def _row(sequence: int) -> sa.Update:
    return sa.update(audit_events).where(audit_events.c.sequence == sequence)


_OTHER: dict[str, object] = {
    "time_us": 1,
    "action": "user.delete",
    "outcome": "refused",
    "actor": "operator",
    "subject": "sh_x",
    "user_id": "usr_x",
    "client_ip": "203.0.113.9",
    "request_id": "x",
    "details": "{}",
    "hash": b"\1" * 32,
}


@pytest.mark.parametrize("column", _OTHER)
@pytest.mark.parametrize("sequence", [1, 3, 5])
async def test_an_altered_event_is_found(stores: Stores, column: str, sequence: int) -> None:
    await _write(stores, 5)
    await _alter(stores, _row(sequence).values({column: _OTHER[column]}))
    found = await _verify(stores)
    assert found.problem
    assert found.sequence in (sequence, sequence + 1)


def test_every_column_of_an_event_is_covered() -> None:
    assert {column.name for column in audit_events.c} == {"sequence", *_OTHER}


@pytest.mark.parametrize("sequence", [1, 3, 5])
async def test_a_removed_event_is_found(stores: Stores, sequence: int) -> None:
    await _write(stores, 5)
    await _alter(stores, sa.delete(audit_events).where(audit_events.c.sequence == sequence))
    assert "missing" in (await _verify(stores)).problem or "gone" in (await _verify(stores)).problem


@pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 5), (4, 5)])
async def test_two_events_that_changed_places_are_found(stores: Stores, one: int, other: int) -> None:
    await _write(stores, 5)
    for source, target in ((one, 99), (other, one), (99, other)):
        await _alter(stores, _row(source).values(sequence=target))
    assert (await _verify(stores)).problem


async def test_an_event_that_was_added_is_found(stores: Stores) -> None:
    await _write(stores, 3)
    row = (await stores.database.fetch(sa.select(audit_events).where(audit_events.c.sequence == 3)))[0]
    await _alter(stores, sa.insert(audit_events).values({**row, "sequence": 4}))
    await _alter(stores, sa.update(audit_head).values(sequence=4))
    assert (await _verify(stores)).problem


async def test_a_log_that_was_written_anew_is_found_by_a_hash_that_was_noted(stores: Stores) -> None:
    await _write(stores, 3)
    noted = await _verify(stores)
    await _alter(stores, sa.delete(audit_events))
    await _alter(stores, sa.update(audit_head).values(sequence=0, hash=NO_HASH))
    await stores.audit.record(_event(9))
    await _write(stores, 4)
    assert (await _verify(stores)).problem == ""
    assert "noted" in (await _verify(stores, expected=(noted.sequence, noted.hash))).problem
    assert "not in the log" in (await _verify(stores, expected=(99, noted.hash))).problem


async def test_old_events_go_and_the_rest_still_verifies(stores: Stores) -> None:
    await _write(stores, 5)
    noted = await _verify(stores)
    event = BY.event(Action.AUDIT_PRUNE, now=NOW)
    due = Due(kind=Kind.AUDIT, before=NOW + 3 * SECOND, event=event)
    assert await stores.housekeeping.count(due) == 3
    assert [await stores.housekeeping.delete_batch(due, limit=2) for _ in range(3)] == [2, 1, 0]
    found = await _verify(stores, expected=(noted.sequence, noted.hash))
    assert (found.problem, found.checked, found.sequence) == ("", 4, 7)
    last = (await stores.audit.before(None, user_id="", limit=1))[0]
    assert (last.event.action, last.event.details) == (Action.AUDIT_PRUNE, {"through": 3, "events": 1})
    await _alter(stores, sa.delete(audit_events).where(audit_events.c.sequence == 4))
    assert "missing" in (await _verify(stores)).problem


async def test_a_beginning_that_is_said_to_have_gone_by_age_without_an_event_is_found(stores: Stores) -> None:
    await _write(stores, 5)
    noted = await _verify(stores)
    third = (await stores.audit.after(2, limit=1))[0]
    await _alter(stores, sa.delete(audit_events).where(audit_events.c.sequence <= 3))
    await _alter(stores, sa.update(audit_head).values(pruned_through=3, pruned_hash=third.hash))
    assert "by age" in (await _verify(stores, expected=(noted.sequence, noted.hash))).problem


@pytest.mark.parametrize(
    "values", [{"time_us": 2**62}, {"details": '{"n": 2, "words": ["a"], "n": 1}'}, {"details": '{ "n": 1}'}]
)
async def test_an_event_that_reads_the_same_or_not_at_all_is_found(stores: Stores, values: dict[str, object]) -> None:
    await stores.audit.record(_event(n=1))
    await stores.audit.record(_event(1, n=1, words=["a"]))
    sequence = 2 if "words" in str(values) else 1
    await _alter(stores, _row(sequence).values(values))
    assert (await _verify(stores)).problem


async def test_an_old_event_behind_a_younger_one_stays(stores: Stores) -> None:
    await stores.audit.record(_event(5))
    await stores.audit.record(_event(0))
    due = Due(kind=Kind.AUDIT, before=NOW + 3 * SECOND)
    assert await stores.housekeeping.delete_batch(due, limit=10) == 0


async def test_what_somebody_wrote_into_the_table_is_shown_and_not_believed(tmp_path: Any) -> None:
    async with sqlite(tmp_path) as stores:
        await _write(stores, 2)
        await _alter(stores, _row(1).values(action="no.such.action", outcome="?", details="not JSON"))
        assert len(await stores.audit.after(0, limit=10)) == 2
        assert (await _verify(stores)).problem
