"""Hashing workers: a few processes, started when they are needed, behind a bounded queue that sheds load.

A worker does one job at a time. One that dies is replaced: its job is given to another once, and then fails as one
that may be retried; while workers keep dying, new ones are started after a pause that grows, and jobs are refused
meanwhile rather than kept waiting.

Shared state: counts, idle and running workers, touched by the event loop only.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Final, Self

from flowless.adapters.passwords import room
from flowless.adapters.passwords.jobs import LENGTH, MAX_FRAME
from flowless.adapters.passwords.profiles import PROFILES
from flowless.adapters.passwords.worker import ENDED_BY_PARENT
from trust_core import logs
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError
from trust_core.histogram import CALL_BOUNDS_NS, Histogram
from trust_core.programs import python_command

_MODULE: Final = "flowless.adapters.passwords.worker"
_JOB_SECONDS: Final = 60.0
"""Far longer than the dearest hash that we accept takes on a busy machine; a worker that needs more hangs."""
_WORKER_BYTES: Final = 24 * 1024 * 1024
"""What a worker needs beside the hash: Python and its libraries, with some air."""
_FIRST_PAUSE_NS: Final = NS_PER_SECOND // 10
_LONGEST_PAUSE_NS: Final = 5 * NS_PER_SECOND


def hashing_workers(*, profile: str, servers: int) -> int:
    """How many workers each of several servers here gets: together no more lanes than cores, if it can be.

    Argon2's lanes are threads of one worker, so a profile with as many lanes as there are cores needs one. In a
    container its limits count, not the machine: hashes never take more than half of its memory together, whatever
    number of cores the machine has, since the kernel would end the server in a storm of logins.
    """
    cost = PROFILES[profile]
    workers = room.cores() // (servers * cost.parallelism)
    memory = room.memory_bytes()
    if memory is not None:
        workers = min(workers, memory // 2 // (servers * (cost.memory_cost * 1024 + _WORKER_BYTES)))
    return max(1, workers)


class WorkerLostError(Exception):
    """The worker ended, hung, or could not be started."""


class HashingPool:
    """At most `workers` processes and `max_waiting` jobs that wait for one."""

    def __init__(self, *, profile: str, workers: int, max_waiting: int, clock: Clock) -> None:
        """Start nothing yet: whoever hashes nothing pays for no worker."""
        self._command = python_command(_MODULE, profile)
        self.workers = workers
        self.max_waiting = max_waiting
        self._clock = clock
        self._places = asyncio.Semaphore(workers)
        self._running: set[asyncio.Task[bytes]] = set()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._losses_in_a_row = 0
        self._not_before_ns = 0
        self._is_closed = False
        self.jobs = 0
        self.refusals: dict[str, int] = dict.fromkeys(("queue_full", "interrupted"), 0)
        self.waits = Histogram(CALL_BOUNDS_NS)
        """How long jobs waited for a worker, those whose caller went away meanwhile included."""
        self.work = Histogram(CALL_BOUNDS_NS)
        """How long workers took."""

    @property
    def refused(self) -> int:
        """How many jobs were refused since the start."""
        return sum(self.refusals.values())

    @property
    def running(self) -> int:
        """How many jobs workers do now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        return max(0, self.jobs - self.running)

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the workers that run."""
        return frozenset(worker.pid for worker in self._workers)

    async def close(self) -> None:
        """End the workers at once and see them gone. A job that still ran has nobody who waits for it."""
        self._is_closed = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, *(worker.end() for worker in self._workers), return_exceptions=True)

    def require_room(self) -> None:
        """Raise TrustError HASHING_OVERLOADED if `run` would do so at once."""
        if self.jobs >= self.workers + self.max_waiting or self._is_closed:
            raise self._refusal("queue_full", "too many logins at once; retry later")

    async def run(self, job: bytes) -> bytes:
        """Have a job done. Raises TrustError HASHING_OVERLOADED, at once when the queue is full.

        A caller that goes away takes a job that still waits with it; one that runs keeps its place to its end.
        """
        self.require_room()
        self.jobs += 1
        came_ns = self._clock.elapsed_ns()
        try:
            await self._places.acquire()
        except BaseException:
            self.jobs -= 1
            raise
        finally:
            self.waits.record(self._clock.elapsed_ns() - came_ns)
        task = asyncio.create_task(self._do(job))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self._running.discard(task)
        self._places.release()
        self.jobs -= 1
        if not task.cancelled():
            task.exception()  # has been seen, though the caller may be gone

    def _refusal(self, why: str, message: str) -> TrustError:
        self.refusals[why] += 1
        return TrustError(Reason.HASHING_OVERLOADED, message)

    async def _do(self, job: bytes) -> bytes:
        for _ in range(2):
            try:
                worker = self._idle.pop() if self._idle else await self._start()
                began_ns = self._clock.elapsed_ns()
                answer = await worker.ask(job)
            except WorkerLostError:
                self._pause()
                continue
            self.work.record(self._clock.elapsed_ns() - began_ns)
            self._losses_in_a_row = 0
            if not worker.has_ended:
                self._idle.append(worker)
            return answer
        raise self._refusal("interrupted", "hashing was interrupted; retry later")

    async def _start(self) -> "_Worker":
        if self._is_closed or self._clock.elapsed_ns() < self._not_before_ns:
            raise self._refusal("interrupted", "hashing was interrupted; retry later")
        try:
            worker = await _Worker.start(self._command, on_end=self._ended)
        except OSError as error:
            logs.get_logger("flowless").error("cannot start a hashing worker", **logs.describe_exception(error))
            raise WorkerLostError from None
        self._workers.add(worker)
        return worker

    def _pause(self) -> None:
        """After a loss the next start may follow at once; after several in a row it waits."""
        self._losses_in_a_row += 1
        if self._losses_in_a_row > 1:
            pause = min(_FIRST_PAUSE_NS << min(self._losses_in_a_row - 2, 10), _LONGEST_PAUSE_NS)
            self._not_before_ns = self._clock.elapsed_ns() + pause

    def _ended(self, worker: "_Worker", code: int) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self._is_closed:
            logs.get_logger("flowless").error("hashing worker ended", pid=worker.pid, code=code)


class _Worker:
    """One process, and the socket to it. Asks one job at a time."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        on_end: Callable[["_Worker", int], None],
    ) -> None:
        self.pid = process.pid
        self.has_ended = False
        self._process = process
        self._reader, self._writer = streams
        self._on_end = on_end
        self._answer: asyncio.Future[bytes] | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command: Sequence[str], *, on_end: Callable[["_Worker", int], None]) -> Self:
        """Start the process; it reads its first job when it is ready. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _spawn(command, theirs)
            except BaseException:
                ours.close()
                raise
        try:
            return cls(process, await asyncio.open_unix_connection(sock=ours), on_end)
        except BaseException:
            ours.close()
            process.kill()
            process.wait()
            raise

    async def ask(self, job: bytes) -> bytes:
        """Have one job done. Raises WorkerLostError."""
        if self.has_ended:
            raise WorkerLostError
        self._answer = asyncio.get_running_loop().create_future()
        self._writer.write(LENGTH.pack(len(job)) + job)
        try:
            async with asyncio.timeout(_JOB_SECONDS):
                return await self._answer
        except TimeoutError:
            self._process.kill()
            raise WorkerLostError from None
        finally:
            self._answer = None

    async def end(self) -> None:
        """Kill the process and see it gone."""
        self._process.kill()
        await asyncio.wait((self._reading,))

    async def _read(self) -> None:
        """Hand out answers until the process is gone, and leave no zombie."""
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                    answer = await self._reader.readexactly(min(size, MAX_FRAME))
                    if self._answer is None or self._answer.done():
                        break  # nobody asked: whatever that is, it is no worker of ours
                    self._answer.set_result(answer)
        finally:
            self.has_ended = True
            self._writer.close()
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
            self._on_end(self, code)
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(WorkerLostError())


def _spawn(command: Sequence[str], its_socket: socket.socket) -> "subprocess.Popen[bytes]":
    """Start a program with nothing of ours but the socket: no secret of the environment, and no stop signal.

    Signals that come while it starts, before it can say that it ignores them, are held back by a mask that it
    inherits. It stays in our process group and session: in a session of its own, Linux' autogroups would give it as
    much of the processor as all of the server, whatever its priority.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDED_BY_PARENT)
    try:
        return subprocess.Popen(
            command,
            stdin=its_socket.fileno(),
            stdout=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if _is_pythons(name)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_pythons(name: str) -> bool:
    return name.startswith("PYTHON") or name == "LD_LIBRARY_PATH"
