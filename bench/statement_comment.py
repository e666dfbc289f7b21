"""What a comment with the request id costs a statement of PostgreSQL: `python -m bench.statement_comment [ROUNDS]`.

The statement that reads a session for a validation, and the transaction that revokes one, each without an id and with
one of its own every time. Without, the driver prepares the statement after a few uses; with, it never can.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import migrate
from flowless.adapters.sql.sessions import SqlSessionStore
from flowless.adapters.sql.statements import comment_with_request_id
from tools.postgres_server import PostgresServer
from trust_core import request_ids

_PER_ROUND = 200


async def _microseconds(work: Callable[[], Awaitable[object]], *, named: bool) -> float:
    taken = []
    for _ in range(_PER_ROUND):
        request_ids.begin(request_ids.RequestId(value="" if named else "the-same"))
        began = time.perf_counter_ns()
        await work()
        taken.append((time.perf_counter_ns() - began) / 1_000)
    return statistics.median(taken)


async def _measure(url: str, rounds: int) -> None:
    plain, commented = Database.open(url), Database.open(url)
    comment_with_request_id(commented.reader)
    try:
        await migrate(plain)
        digest = os.urandom(32)
        reads = SqlSessionStore(database=plain), SqlSessionStore(database=commented)
        writes = SqlSessionStore(database=plain)

        async def revoke() -> int:
            return await writes.revoke_user("usr_of_nobody", except_handle="", now=datetime.now(UTC))

        # An id that stays the same is one text, which the driver prepares like one without any comment.
        cases: dict[str, tuple[Callable[[], Awaitable[object]], bool]] = {
            "read, no comment": (lambda: reads[0].read(digest), True),
            "read, an id of its own": (lambda: reads[1].read(digest), True),
            "write, the same id": (revoke, False),
            "write, an id of its own": (revoke, True),
        }
        found: dict[str, list[float]] = {name: [] for name in cases}
        for round_number in range(rounds + 1):
            for name, (work, named) in cases.items():
                taken = await _microseconds(work, named=named)
                if round_number:  # the first warms up
                    found[name].append(taken)
        for name, taken_all in found.items():
            print(f"{name:<26} {statistics.median(taken_all):>8.0f} µs")
    finally:
        await plain.close()
        await commented.close()


def main() -> int:
    """Start a PostgreSQL and measure."""
    with PostgresServer() as server:
        asyncio.run(_measure(server.url(), int(sys.argv[1]) if len(sys.argv) > 1 else 5))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
