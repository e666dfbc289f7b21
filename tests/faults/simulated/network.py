"""The virtual network: gates that pauses close, and links that can be cut, slow or deaf."""

import asyncio
import random
from collections.abc import Callable


class UnreachableError(Exception):
    """The connection is refused or was cut."""


class Gate:
    """Open or closed; who comes to a closed one waits until it opens."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    async def passed(self) -> None:
        if not self._open.is_set():
            await self._open.wait()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()


class Link:
    """What lies between a sidecar and a replica. Deaf: what is sent waits, and arrives late."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.hears = Gate()
        self.stream_hears = Gate()  # of watch streams alone
        self.broken = False
        self.slow_seconds = 0.0
        self.answers_wait_seconds = 0.0  # answers to questions, not what is streamed
        self._cuts: dict[object, Callable[[], None]] = {}

    def delay(self) -> float:
        """How many seconds a message takes."""
        return self._rng.uniform(0.0002, 0.004) + (
            self._rng.uniform(0, self.slow_seconds) if self.slow_seconds else 0
        )

    async def carry(self) -> None:
        """Take as long as a message takes."""
        await asyncio.sleep(self.delay())
        await self.hears.passed()
        if self.broken:
            raise UnreachableError

    def cut(self) -> None:
        self.broken = True
        self.drop_all()

    def drop_all(self) -> None:
        """End what is open; what comes is carried again."""
        for cut in list(self._cuts.values()):
            cut()

    def when_cut(self, who: object, cut: Callable[[], None]) -> None:
        self._cuts[who] = cut

    def forget(self, who: object) -> None:
        self._cuts.pop(who, None)
