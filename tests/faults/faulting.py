"""Do a schedule's faults to a world, and undo them. One thread does both: that which opened the world."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import redis

from tests.faults.schedules import Action, Schedule, Step, Subject, programs, touched
from tests.faults.world import HEAL_SECONDS, World
from tests.support.proxy import Proxy
from tools.processes import ProcessError

_REDIS_CALL_SECONDS: Final = 2.0
_ENTRY_SECONDS: Final = 600


class Faulting:
    """See the module. What failed to be undone stays in `heal`'s hands."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._snapshots: dict[Step, dict[bytes, bytes]] = {}
        self._stopped: set[str] = set()
        self.late_seconds = 0.0
        """How far a step was behind its time at worst: starting a process takes a while."""

    def run(self, schedule: Schedule) -> None:
        """Do all of it; returns when the last fault is over, and everything is whole again."""
        began = time.monotonic()
        for at, _, work, step in _in_order(schedule, self):
            wait = began + at - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self.late_seconds = max(self.late_seconds, -wait)
            work(step)
        self.heal()

    def begin(self, step: Step) -> None:
        """Do a fault."""
        kind = step.kind
        if kind.action is Action.STEP_CLOCK:
            self._world.set_wall_offset(programs(self._world.shape)[step.target], step.amount)
        elif kind.action is Action.FLUSH:
            with suppress(redis.RedisError), self._redis() as client:
                client.flushall()
        elif kind.action is Action.OLD_SNAPSHOT:
            self._snapshots[step] = self._copy_of_redis()
        else:
            for name in sorted(touched(step, self._world.shape)):
                self._strike(name, step)

    def _strike(self, name: str, step: Step) -> None:
        action = step.kind.action
        if name in self._world.links:
            _strike_link(self._world.links[name], action, step.amount)
        elif action is Action.PAUSE:
            self._pause(name)
        elif action is Action.KILL:
            self._kill(name)

    def end(self, step: Step) -> None:
        """Undo a fault."""
        kind = step.kind
        if kind.action is Action.STEP_CLOCK:
            self._world.set_wall_offset(programs(self._world.shape)[step.target], 0)
        elif kind.action is Action.OLD_SNAPSHOT:
            self._replace_redis(self._snapshots.pop(step))
        elif kind.action is not Action.FLUSH:
            # PostgreSQL goes on before those who need it.
            for name in sorted(touched(step, self._world.shape), reverse=True):
                with suppress(ProcessError):
                    self._mend(name)

    def heal(self) -> None:
        """Make everything whole, whatever is broken. Raises `ProcessError` when that takes too long."""
        world = self._world
        for name in programs(world.shape):
            world.set_wall_offset(name, 0)
        for link in world.links.values():
            link.mend()
        self._mend(Subject.POSTGRES)
        self._mend(Subject.REDIS)
        deadline = time.monotonic() + HEAL_SECONDS
        for name in programs(world.shape):
            while True:
                try:
                    self._mend(name)
                    break
                except ProcessError:
                    if time.monotonic() > deadline:
                        raise
        self._snapshots.clear()

    def _mend(self, name: str) -> None:
        world = self._world
        if name in world.links:
            world.links[name].mend()
            return
        if name in self._stopped:
            self._resume(name)
        if name == Subject.POSTGRES:
            if not world.postgres.is_running:
                world.postgres.start()
        elif name == Subject.REDIS:
            if not world.redis.is_running:
                world.redis.start()
        else:
            world.start(name)

    def _pause(self, name: str) -> None:
        self._stopped.add(name)
        if name == Subject.POSTGRES:
            self._world.postgres.pause()
        elif name == Subject.REDIS:
            self._world.redis.pause()
        else:
            self._world.processes[name].signal(signal.SIGSTOP)

    def _resume(self, name: str) -> None:
        if name == Subject.POSTGRES:
            self._world.postgres.resume()
        elif name == Subject.REDIS:
            self._world.redis.resume()
        else:
            self._world.processes[name].signal(signal.SIGCONT)
        self._stopped.discard(name)

    def _kill(self, name: str) -> None:
        if name == Subject.POSTGRES:
            self._world.postgres.kill()
        elif name == Subject.REDIS:
            self._world.redis.kill()
        else:
            self._world.processes[name].kill()

    def _redis(self) -> "redis.Redis":
        """Past the proxies, as somebody who can do anything to Redis."""
        return redis.Redis(port=self._world.redis.port, socket_timeout=_REDIS_CALL_SECONDS)

    def _copy_of_redis(self) -> dict[bytes, bytes]:
        copy: dict[bytes, bytes] = {}
        with suppress(redis.RedisError), self._redis() as client:
            for key in client.scan_iter(count=1_000):
                held = client.dump(key)
                if isinstance(held, bytes):
                    copy[key] = held
        return copy

    def _replace_redis(self, copy: dict[bytes, bytes]) -> None:
        with suppress(redis.RedisError), self._redis() as client, client.pipeline() as pipeline:
            pipeline.flushall()
            for key, held in copy.items():
                pipeline.restore(key, _ENTRY_SECONDS * 1_000, held, replace=True)
            pipeline.execute()


def _strike_link(link: Proxy, action: Action, amount: float) -> None:
    if action is Action.CUT:
        link.cut()
    elif action is Action.DEAF:
        link.go_deaf()
    elif action is Action.HALF_CLOSE:
        link.half_close()
    elif action is Action.DELAY:
        link.delay(amount)


_Moment = tuple[float, int, Callable[[Step], None], Step]


def _in_order(schedule: Schedule, faulting: Faulting) -> Iterator[_Moment]:
    moments: list[_Moment] = []
    for step in schedule.steps:
        moments.append((step.at, len(moments), faulting.begin, step))
        moments.append((step.ends_at, len(moments), faulting.end, step))
    yield from sorted(moments)
