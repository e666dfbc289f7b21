"""Whatever one thing somebody does to the audit log's table, `verify` finds it."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowless.domain.audit import Action
from flowless.services.audit import AuditLog, Finding
from tests.support.stores import BY, NOW, SECOND, sqlite, sqlite_stores

EVENTS = 6
few = settings(max_examples=40)
"""Each example opens a database."""
TEXTS = ("action", "outcome", "actor", "subject", "user_id", "client_ip", "request_id")
sequences = st.integers(1, EVENTS)


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A database with a log that is whole."""

    async def write(directory: Path) -> None:
        async with sqlite(directory) as stores:
            for number in range(EVENTS):
                event = BY.event(Action.SESSION_LOGIN, now=NOW + number * SECOND, user_id=f"usr_{number}", n=number)
                await stores.audit.record(event)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(write(Path(directory)))
        return (Path(directory) / "flowless.db").read_bytes()


def _found(whole: bytes, *statements: tuple[str, tuple[object, ...]]) -> Finding:
    """Do that to the table; say what `verify` finds."""

    async def verify(file: Path) -> Finding:
        async with sqlite_stores(file) as stores:
            return await AuditLog(trail=stores.audit).verify()

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "flowless.db"
        file.write_bytes(whole)
        with closing(sqlite3.connect(file)) as connection, connection:
            for statement, values in statements:
                connection.execute(statement, values)
        return asyncio.run(verify(file))


def _copy(source: int, target: int) -> tuple[str, tuple[object, ...]]:
    columns = f"time_us, {', '.join(TEXTS)}, details, hash"
    return (
        f"INSERT INTO audit_events (sequence, {columns}) SELECT ?, {columns} FROM audit_events WHERE sequence = ?",
        (target, source),
    )


def test_a_log_that_nobody_touched_is_whole(whole: bytes) -> None:
    found = _found(whole)
    assert (found.problem, found.checked) == ("", EVENTS)


@few
@given(sequence=sequences, column=st.sampled_from(TEXTS), text=st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_other_text_is_found(whole: bytes, sequence: int, column: str, text: str) -> None:
    with_mark = f"{text}!"  # nothing that we write ends with it
    found = _found(whole, (f"UPDATE audit_events SET {column} = ? WHERE sequence = ?", (with_mark, sequence)))
    assert f"event {sequence} " in found.problem


@few
@given(sequence=sequences, moment=st.integers(0, 2**52))
def test_any_other_time_is_found(whole: bytes, sequence: int, moment: int) -> None:
    found = _found(whole, ("UPDATE audit_events SET time_us = ? WHERE sequence = ?", (moment, sequence)))
    assert f"event {sequence} " in found.problem


@few
@given(sequence=sequences, flipped=st.integers(0, 255))
def test_a_bit_of_a_hash_is_found(whole: bytes, sequence: int, flipped: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "copy.db"
        file.write_bytes(whole)
        with closing(sqlite3.connect(file)) as connection:
            (kept,) = connection.execute("SELECT hash FROM audit_events WHERE sequence = ?", (sequence,)).fetchone()
    changed = bytearray(kept)
    changed[flipped // 8] ^= 1 << flipped % 8
    found = _found(whole, ("UPDATE audit_events SET hash = ? WHERE sequence = ?", (bytes(changed), sequence)))
    assert f"event {sequence} " in found.problem


@few
@given(sequence=sequences)
def test_any_removed_event_is_found(whole: bytes, sequence: int) -> None:
    found = _found(whole, ("DELETE FROM audit_events WHERE sequence = ?", (sequence,)))
    assert "missing" in found.problem or "gone" in found.problem


@few
@given(pair=st.lists(sequences, min_size=2, max_size=2, unique=True))
def test_any_two_events_that_changed_places_are_found(whole: bytes, pair: list[int]) -> None:
    one, other = pair
    move = "UPDATE audit_events SET sequence = ? WHERE sequence = ?"
    found = _found(whole, (move, (99, one)), (move, (one, other)), (move, (other, 99)))
    assert f"event {min(pair)} " in found.problem


@few
@given(source=sequences, target=st.integers(-(2**63) + 1, 0) | st.integers(EVENTS + 1, 2**63 - 1))
def test_an_event_that_was_added_anywhere_is_found(whole: bytes, source: int, target: int) -> None:
    assert str(target) in _found(whole, _copy(source, target)).problem


@few
@given(after=sequences)
def test_an_event_that_was_put_between_two_is_found(whole: bytes, after: int) -> None:
    moves = [
        ("UPDATE audit_events SET sequence = ? WHERE sequence = ?", (sequence + 1, sequence))
        for sequence in range(EVENTS, after, -1)
    ]
    end: tuple[str, tuple[object, ...]] = ("UPDATE audit_head SET sequence = ?", (EVENTS + 1,))
    assert _found(whole, *moves, _copy(after, after + 1), end).problem
