"""What the database is asked to do, as an operator may know it: operation, tables, duration; never a value.

From an app's request to its SQL there are three ways, each where it costs least:

- statements of write transactions on PostgreSQL end with a comment that holds the request id, so that
  `pg_stat_activity` and PostgreSQL's own log name the request that waits or is waited for;
- a statement that took longer than `slow_seconds` is logged here with the request id, whatever the database;
- with traces every statement inside a recorded call is a span.

Reads have no comment: a text of its own for each request would keep the driver from ever preparing one. See
docs/decisions/0012-request-ids-in-sql.md.
"""

from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from trust_core import logs, request_ids
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.tracing import Span, Tracer

_OTHER: Final = "other"
_UNDER_WAY: Final = "trustlayer_under_way"
_MOST_TABLES: Final = 4


@dataclass(frozen=True, slots=True)
class StatementName:
    """`SELECT`, `INSERT`, `UPDATE`, `DELETE` or `other`, and the tables concerned."""

    operation: str
    tables: str

    def __str__(self) -> str:
        """Write both."""
        return f"{self.operation} {self.tables}".rstrip()


@dataclass(slots=True)
class _UnderWay:
    name: StatementName
    began_ns: int
    span: Span | None


def comment_with_request_id(engine: AsyncEngine) -> None:
    """End each statement of this engine with the id of the request that causes it, in sqlcommenter's form.

    Only for engines whose driver understands comments. The id holds letters, digits and `._-` only, so the comment
    ends where it should and nothing in it is a parameter.
    """

    @sa.event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def comment(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        request_id = request_ids.current()
        return (f"{statement} /*request_id='{request_id}'*/" if request_id else statement), parameters


@dataclass(slots=True, kw_only=True)
class StatementWatch:
    """Times statements: logs the slow ones, and makes spans of those that belong to a recorded call.

    Shared state: the names of compiled statements, which live as long as SQLAlchemy keeps these.
    """

    clock: Clock
    slow_seconds: float
    """0: none is slow."""
    tracer: Tracer | None = None
    slow: int = 0
    """Slow statements since the start."""
    _names: "WeakKeyDictionary[Any, StatementName]" = field(default_factory=WeakKeyDictionary)

    def listen(self, engine: AsyncEngine) -> None:
        """Watch the engine from now on."""
        target, listen = engine.sync_engine, sa.event.listen
        system = "postgresql" if engine.dialect.name == "postgresql" else engine.dialect.name
        listen(target, "before_cursor_execute", lambda *event: self._begin(event[4], system))
        listen(target, "after_cursor_execute", lambda *event: self._end(event[4]))
        listen(target, "handle_error", lambda error: self._end(error.execution_context, failed=True))

    def _begin(self, context: Any, system: str) -> None:
        name = self._name(context)
        span = None
        if self.tracer is not None:
            span = self.tracer.child(
                str(name),
                {"db.system.name": system, "db.operation.name": name.operation, "db.collection.name": name.tables},
            )
        setattr(context, _UNDER_WAY, _UnderWay(name, self.clock.elapsed_ns(), span))

    def _end(self, context: Any, *, failed: bool = False) -> None:
        under_way = getattr(context, _UNDER_WAY, None)
        if under_way is None:
            return
        delattr(context, _UNDER_WAY)
        seconds = (self.clock.elapsed_ns() - under_way.began_ns) / NS_PER_SECOND
        if under_way.span is not None:
            under_way.span.end(failed=failed)
        if self.slow_seconds and seconds >= self.slow_seconds:
            self.slow += 1
            name = under_way.name
            logs.get_logger("flowless").warning(
                "slow statement", statement=str(name), seconds=round(seconds, 3), failed=failed
            )

    def _name(self, context: Any) -> StatementName:
        compiled = getattr(context, "compiled", None)
        if compiled is None:
            return StatementName(_OTHER, "")
        name = self._names.get(compiled)
        if name is None:
            name = self._names[compiled] = name_of(compiled.statement)
        return name


def name_of(statement: Any) -> StatementName:
    """Name a statement by what it does to which tables. One written by hand is `other`: it may hold anything."""
    if isinstance(statement, sa.Insert | sa.Update | sa.Delete):
        table = statement.table
        return StatementName(statement.__visit_name__.upper(), table.name if isinstance(table, sa.Table) else "")
    if isinstance(statement, sa.Select | sa.CompoundSelect):
        return StatementName("SELECT", _tables(statement))
    return StatementName(_OTHER, "")


def _tables(statement: Any) -> str:
    """Name the tables, those in joins and subqueries too, each once, in the order of their names."""
    found = {part.name for part in sa.sql.visitors.iterate(statement) if isinstance(part, sa.Table)}
    return ",".join(sorted(found)[:_MOST_TABLES])
