"""Run one of the programs with a wall clock that a test sets, or with one rule of the guarantee broken. Tests only.

`python -m tests.faults.launch [--wall-offset-file FILE] [--break RULE] -m flowless|bridge_sidecar ARGUMENT…`

The programs themselves know nothing of it: it replaces functions before it calls the ordinary `main`.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from trust_core.clock import SystemClock


class Broken(StrEnum):
    """Rules without which the guarantee does not hold; a checker that is worth anything notices each."""

    LEASE = "lease"
    """The lease never runs out."""
    REPLAY = "replay"
    """A sidecar that comes back takes the log's end for its own position, and keeps its cache."""
    GUARD = "guard"
    """An answer that a revocation overtook is kept and handed out."""
    REDIS_CHECK = "redis-check"
    """What Redis says is believed, however old."""

    @property
    def program(self) -> str:
        """Module of the program that has the rule."""
        return "flowless" if self is Broken.REDIS_CHECK else "bridge_sidecar"


def set_wall_clock_by(file: Path) -> None:
    """Add the number of seconds in the file, read each time, to the wall clock; durations are left alone."""

    def now(self: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(file.read_text()))

    SystemClock.now = now  # type: ignore[method-assign]


def break_lease() -> None:
    from bridge_sidecar.lease import Lease

    Lease.held = lambda self, now_ns: True  # type: ignore[method-assign]


def break_replay() -> None:
    from bridge_sidecar.revocation_watch import RevocationWatch
    from bridge_sidecar.watch_protocol import WatchProtocol
    from trustlayer.v1 import bridge_pb2

    ordinary_start: Callable[[Any], bridge_pb2.WatchStart] = RevocationWatch._start
    ordinary_ready: Callable[..., None] = WatchProtocol.on_ready

    def start(self: Any) -> bridge_pb2.WatchStart:
        message = ordinary_start(self)
        message.log_id, message.last_revision = "", 0
        return message

    def on_ready(self: Any, *, log_id: str, reset: bool, revision: int) -> None:
        if self._cache.log_id == log_id:
            self._cache._applied_revision = revision
            reset = False
        ordinary_ready(self, log_id=log_id, reset=reset, revision=revision)

    RevocationWatch._start = start  # type: ignore[method-assign]
    WatchProtocol.on_ready = on_ready  # type: ignore[method-assign]


def break_guard() -> None:
    from bridge_sidecar.session_cache import SessionCache

    SessionCache.touched_since = lambda *_: None  # type: ignore[method-assign]
    SessionCache.may_touch_since = lambda *_: False  # type: ignore[method-assign]


def break_redis_check() -> None:
    from flowless.services.recent_revocations import RecentRevocations
    from flowless.services.session_tiers import SessionTiers

    ordinary_read: Callable[..., Any] = SessionTiers.read
    for_ever_ns = 2**62

    def read(self: Any, digest: bytes, *, min_revision: int, max_staleness_ns: int) -> Any:
        tolerated = for_ever_ns if max_staleness_ns > 0 else 0
        return ordinary_read(self, digest, min_revision=min_revision, max_staleness_ns=tolerated)

    SessionTiers.read = read  # type: ignore[method-assign]
    RecentRevocations.reflects = lambda *_, **__: True  # type: ignore[method-assign]


BREAK: Final[dict[Broken, Callable[[], None]]] = {
    Broken.LEASE: break_lease,
    Broken.REPLAY: break_replay,
    Broken.GUARD: break_guard,
    Broken.REDIS_CHECK: break_redis_check,
}


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--wall-offset-file", type=Path)
    parser.add_argument("--break", dest="broken", type=Broken, choices=list(Broken))
    parser.add_argument("-m", dest="module", required=True, choices=("flowless", "bridge_sidecar"))
    arguments, rest = parser.parse_known_args()
    program = importlib.import_module(f"{arguments.module}.cli")
    if arguments.wall_offset_file is not None:
        set_wall_clock_by(arguments.wall_offset_file)
    if arguments.broken is not None:
        BREAK[arguments.broken]()
    sys.argv = [arguments.module, *rest]
    sys.exit(program.main())


if __name__ == "__main__":
    main()
