"""Several processes that serve one port: the supervisor that starts, restarts and ends them, and their pipe to it.

The workers share nothing but the database and the port (SO_REUSEPORT: the kernel deals connections out). They are
started as programs of their own, never forked: gRPC does not survive a fork. Each announces itself on its standard
output; its standard input is a pipe that nobody writes to, whose end says that the supervisor is gone.

Shared state: the table of running workers, touched by the supervisor's event loop only.
"""

import asyncio
import contextlib
import errno
import os
import socket
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from trust_core import logs
from trust_core.programs import python_command
from trust_core.stopping import when_told_to_end

EXIT_INCURABLE: Final = 4
"""Settings or schema have to be mended: a restart cannot help."""
_STDIN: Final = 0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_STEADY_SECONDS: Final = 10.0
"""A worker that served this long is restarted without a longer pause than the first."""


def when_supervisor_ends(stop: Callable[[], None]) -> None:
    """Call `stop` in the running event loop once the supervisor is gone, however it ended."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(_STDIN)
        stop()

    loop.add_reader(_STDIN, gone)


@contextmanager
def reserved(listen: str) -> Iterator[str]:
    """Keep `host:port` for the workers of this process; gives the address with the port chosen for port 0.

    Nothing listens on the reservation, so the kernel deals it no connection. Raises OSError when anybody else is
    there, a supervisor that has no worker yet included; nobody but this user's workers can come after.
    """
    host, _, text = listen.rpartition(":")
    port = int(text)
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as held:
        refused: OSError | None = None
        taken = 0
        for family, _, _, _, address in found:
            try:
                kept = _reserve(family, (address[0], port, *address[2:]))
            except OSError as error:
                refused = error
                if error.errno == errno.EADDRINUSE:
                    break
                continue
            held.enter_context(kept)
            port = kept.getsockname()[1]
            taken += 1
        else:
            refused = refused if not taken else None
        if refused is not None:
            raise OSError(f"cannot listen on {listen}: is another process there?") from None
        yield f"{host}:{port}"


def _reserve(family: int, address: tuple[object, ...]) -> socket.socket:
    """Bind without listening.

    The probe listens alone for a moment, which fails beside any listener, sharing or not, but not beside connections
    that a former process left in TIME_WAIT. The reservation, bound beside it, then refuses every later probe.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        kept = socket.socket(family, socket.SOCK_STREAM)
        try:
            for each in (probe, kept):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6 and address[0] != "::":
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
            probe.listen(1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind(probe.getsockname())
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            kept.close()
            raise
        return kept


class _WorkerFailedError(Exception):
    """A worker failed in a way that ends all; the exit code says which. It has said why itself."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Supervisor:
    """Runs the workers until SIGTERM, SIGINT or SIGHUP; a second one kills them. Use once."""

    def __init__(self, *, workers: int, arguments: Sequence[str], stop_seconds: float) -> None:
        """`arguments` follow `flowless serve`; a worker that has not drained after `stop_seconds` is killed."""
        self._command = python_command("flowless", "serve", *arguments)
        self._count = workers
        self._stop_seconds = stop_seconds
        self._running: dict[int, Process] = {}
        self._log = logs.get_logger("flowless")
        self._life = -1
        self._hurry = asyncio.Event()

    async def run(self, *, on_ready: Callable[[], None]) -> int:
        """Start all, keep them running, drain them at the end; return the exit code for the whole."""
        stop = asyncio.Event()
        when_told_to_end(stop.set, at_once=lambda _: self._hurry.set())
        self._life, held = os.pipe()
        stopping = asyncio.create_task(stop.wait())
        supervising = asyncio.create_task(self._supervise(on_ready))
        try:
            await asyncio.wait({stopping, supervising}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            supervising.cancel()
            (failure,) = await asyncio.gather(supervising, return_exceptions=True)
            all_drained = await self._end_all()
            os.close(held)
            os.close(self._life)
        if isinstance(failure, _WorkerFailedError):
            return failure.code
        if isinstance(failure, Exception):
            raise failure
        return 0 if all_drained else 1

    async def _supervise(self, on_ready: Callable[[], None]) -> None:
        # The first alone: what keeps every worker from starting is said once.
        await self._start(1)
        async with _first_failure() as group:
            starts = [group.create_task(self._start(index)) for index in range(2, self._count + 1)]
            for start in starts:
                await start
            on_ready()
            for index in range(1, self._count + 1):
                group.create_task(self._keep(index))

    async def _start(self, index: int) -> None:
        """Start a worker and wait until it serves."""
        process = await asyncio.create_subprocess_exec(
            *self._command, "--worker-index", str(index), stdin=self._life, stdout=PIPE, process_group=0
        )
        self._running[index] = process
        if process.stdout is None or not await process.stdout.readline():
            raise _WorkerFailedError(_exit_code(await process.wait()))

    async def _keep(self, index: int) -> None:
        """Restart a worker whenever it ends, after a pause that grows while it does not keep running."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            since = time.monotonic()
            code = await self._running[index].wait()
            if code == EXIT_INCURABLE:
                raise _WorkerFailedError(code)
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - since > _STEADY_SECONDS else pause
            restarted = False
            while not restarted:
                self._log.error("worker ended", worker=index, code=code, restart_in_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                try:
                    await self._start(index)
                    restarted = True
                except _WorkerFailedError as failure:
                    code = failure.code
                    if code == EXIT_INCURABLE:
                        raise

    async def _end_all(self) -> bool:
        """Drain every worker, kill those that take too long, or all when hurried; return whether none was killed."""
        ends = {}
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            ends[asyncio.create_task(process.wait())] = process
        if not ends:
            return True
        late = await self._still_running(set(ends))
        for end in late:
            with contextlib.suppress(ProcessLookupError):
                ends[end].kill()
            await end
        if late:
            self._log.error("workers killed that did not drain", count=len(late))
        return not late

    async def _still_running(self, ends: set["asyncio.Task[int]"]) -> set["asyncio.Task[int]"]:
        """Wait until all have ended, as long as they may take or until told to hurry; return those that have not."""
        hurried = asyncio.create_task(self._hurry.wait())
        ended = asyncio.create_task(asyncio.wait(ends, timeout=self._stop_seconds))
        await asyncio.wait({hurried, ended}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        ended.cancel()
        return {end for end in ends if not end.done()}


@contextlib.asynccontextmanager
async def _first_failure() -> AsyncIterator[asyncio.TaskGroup]:
    """Give a task group whose first failure is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _exit_code(code: int) -> int:
    """Exit code as a shell says it, for an end by a signal."""
    return 128 - code if code < 0 else code
