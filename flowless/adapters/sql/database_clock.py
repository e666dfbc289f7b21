"""The time by the database's own clock: what is written and read by it compares no two machines' clocks."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class NowUs(FunctionElement[int]):
    """Microseconds since the epoch, as the statement runs; SQLite knows milliseconds."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(NowUs, "postgresql")
def _postgresql(_element: NowUs, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(NowUs, "sqlite")
def _sqlite(_element: NowUs, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
