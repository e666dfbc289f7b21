"""What Linux tells of the processes of a run, again and again: memory, file descriptors and threads."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.processes import children

MIB: Final = 1_024.0
"""In the kernel's unit, which is KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One process at one moment. `at` is in seconds since the run began."""

    at: float
    rss_mib: float
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process: one that starts again under the same name is another."""

    name: str
    pid: int


def read(pid: int, at: float) -> Reading | None:
    """Read one process; None when it is not there (any more)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmRSS" not in fields:
        return None
    return Reading(
        at=at,
        rss_mib=int(fields["VmRSS"].split()[0]) / MIB,
        descriptors=descriptors,
        threads=int(fields["Threads"]),
    )


class Readings:
    """All readings of a run. Written by its own thread; read when that has ended, or by who can do with a copy."""

    def __init__(self, *, pids: Callable[[], Mapping[str, int]], clock: Callable[[], float], every: float) -> None:
        """`pids` says which processes run now, whose children are read, too; `clock` counts from the run's start."""
        self._pids = pids
        self._clock = clock
        self._every = every
        self._ended = threading.Event()
        self.of: dict[Process, list[Reading]] = defaultdict(list)

    def take(self) -> None:
        """Read every process once."""
        for name, pid in self._pids().items():
            self._take(Process(name, pid))
            try:
                workers = sorted(children(pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
            for number, child in enumerate(workers):
                self._take(Process(f"{name}/{number}", child))

    def _take(self, process: Process) -> None:
        if reading := read(process.pid, self._clock()):
            self.of[process].append(reading)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take readings during the block."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self.take()
