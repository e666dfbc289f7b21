"""What a database is made of: three engines with three jobs."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Connection pools of one database.

    `tail_reader` has a connection of its own: no flood of other reads may keep sidecars from their leases.
    """

    reader: AsyncEngine
    tail_reader: AsyncEngine
    writer: AsyncEngine
