"""What an operator sees of statements: which request is behind a write, and what is slow, over every engine."""

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flowless.adapters.sql import schema
from flowless.adapters.sql.statements import StatementWatch, name_of
from tests.support.stores import Stores, fresh_digest
from trust_core import logs, request_ids
from trust_core.clock import SystemClock
from trust_core.errors import TrustError


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(style="json", stream=stream)
    yield stream
    logs.configure()


def _texts_of(stores: Stores, pool: str) -> list[str]:
    """Texts of the statements that go to the driver of this pool from now on."""
    texts: list[str] = []
    (target,) = (each.engine.sync_engine for each in stores.database.pools if each.name == pool)

    def keep(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        texts.append(statement)

    sa.event.listen(target, "after_cursor_execute", keep)
    return texts


def _slow(log: io.StringIO) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    return [event for event in events if event["event"] == "slow statement"]


async def test_on_postgres_each_statement_of_a_write_names_its_request(stores: Stores) -> None:
    texts = _texts_of(stores, "write")
    request_ids.begin(request_ids.RequestId(value="from-the-app.1"))
    await stores.add_session(await stores.add_user())
    commented = [text for text in texts if text.endswith("/*request_id='from-the-app.1'*/")]
    assert len(texts) > 1
    assert len(commented) == (len(texts) if stores.database.dialect == "postgresql" else 0)


async def test_what_no_request_causes_has_no_comment(stores: Stores) -> None:
    texts = _texts_of(stores, "write")
    await stores.add_user()
    assert texts
    assert not any("request_id=" in text for text in texts)


async def test_reads_have_no_comment_so_that_the_driver_prepares_them(stores: Stores) -> None:
    texts = _texts_of(stores, "read")
    request_ids.begin(request_ids.RequestId(value="from-the-app.2"))
    await stores.sessions.read(fresh_digest())
    assert len(texts) == 1
    assert "/*" not in texts[0]


async def test_a_slow_statement_is_logged_with_its_request_its_tables_and_no_value(
    stores: Stores, log: io.StringIO
) -> None:
    watch = StatementWatch(clock=SystemClock(), slow_seconds=1e-9)
    stores.database.watch_statements(watch)
    request_ids.begin(request_ids.RequestId(value="from-the-app.3"))
    user = await stores.add_user("slow@example.org")
    digest = fresh_digest()
    await stores.sessions.read(digest)
    named = [event["statement"] for event in _slow(log)]
    assert "INSERT users" in named
    assert "SELECT log_head,sessions,users" in named
    assert {event["request_id"] for event in _slow(log)} == {"from-the-app.3"}
    assert watch.slow == len(named)
    for value in ("slow@example.org", user.id, digest.hex()):
        assert value not in log.getvalue()


async def test_what_is_quick_is_not_logged(stores: Stores, log: io.StringIO) -> None:
    stores.database.watch_statements(StatementWatch(clock=SystemClock(), slow_seconds=60))
    await stores.add_user()
    assert _slow(log) == []


async def test_a_statement_that_fails_is_timed_as_well(stores: Stores, log: io.StringIO) -> None:
    stores.database.watch_statements(StatementWatch(clock=SystemClock(), slow_seconds=1e-9))
    with pytest.raises(TrustError):
        await stores.database.fetch(sa.select(sa.table("nowhere", sa.column("x"))))
    (event,) = _slow(log)
    assert (event["statement"], event["failed"]) == ("SELECT", True)


class _Spans:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.ended: list[tuple[str, bool]] = []

    def child(self, name: str, attributes: Any) -> Any:
        self.open.append(name)
        return _Span(self, name)

    def serve(self, name: str, traceparent: str) -> Any:
        raise AssertionError

    def note(self, attributes: Any) -> None:
        raise AssertionError

    def outgoing(self, method: str) -> Any:
        raise AssertionError


class _Span:
    def __init__(self, spans: _Spans, name: str) -> None:
        self._spans, self._name = spans, name

    def note(self, attributes: Any) -> None:
        raise AssertionError

    def end(self, *, failed: bool = False) -> None:
        self._spans.open.remove(self._name)
        self._spans.ended.append((self._name, failed))


async def test_the_span_of_a_statement_whose_caller_gives_up_ends(stores: Stores) -> None:
    spans = _Spans()
    stores.database.watch_statements(StatementWatch(clock=SystemClock(), slow_seconds=0, tracer=spans))
    await stores.sessions.read(fresh_digest())
    # A statement that takes its time: many rows out of nothing.
    numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 300_000))
    task = asyncio.ensure_future(stores.database.fetch(sa.select(sa.func.count()).select_from(numbers)))
    while not spans.open:
        await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(20):
        while spans.open:
            await asyncio.sleep(0.01)
    assert spans.ended[0] == ("SELECT log_head,sessions,users", False)
    assert len(spans.ended) == 2


def test_statements_are_named_by_operation_and_tables() -> None:
    users, sessions = schema.users, schema.sessions
    joined = sa.select(users.c.id).join(sessions, sessions.c.user_id == users.c.id)
    assert str(name_of(joined)) == "SELECT sessions,users"
    assert str(name_of(sa.select(users.c.id).where(users.c.id.in_(sa.select(sessions.c.user_id))))) == (
        "SELECT sessions,users"
    )
    assert str(name_of(sa.delete(users).where(users.c.id == "secret"))) == "DELETE users"
    assert str(name_of(sa.text("SELECT 'secret'"))) == "other"
