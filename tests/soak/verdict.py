"""What the readings of a run say: does something grow that should not? Pure.

**Memory.** A process may grow while it warms up: caches fill, arenas of the allocator spread. So only the second half
of the run counts. It leaks if it has grown by more than `ALLOWED_MIB` in that half *with 95 % certainty*. How fast a
leak has to be for a run to find it depends on how long the run is, and is printed: a run of minutes finds what is
gross, one of hours what is slow.

**Descriptors and threads.** When the faults are over, each process has hardly more than it had before the first one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.soak.readings import Process, Reading
from tests.soak.trend import Trend, trend

ALLOWED_MIB: Final = 4.0
ALLOWED_MORE: Final = 16
"""Connections of a pool that is not always full, and threads of gRPC's that come and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds since the run began at which faults began and ended, and the run's end."""

    faults_began: float
    faults_ended: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One process that was there all along."""

    process: Process
    rss: tuple[float, float, float]
    """In MiB: at first, in the middle of the run, at the end."""
    memory: Trend
    descriptors: tuple[int, int]
    """Before the faults at most, after them at least."""
    threads: tuple[int, int]

    def leaks(self) -> list[str]:
        """Say what grows; empty when nothing does."""
        found = []
        if self.memory.certain_growth > ALLOWED_MIB:
            found.append(f"memory grew by at least {self.memory.certain_growth:.1f} MiB in the second half")
        for what, (before, after) in (("descriptors", self.descriptors), ("threads", self.threads)):
            if after > before + ALLOWED_MORE:
                found.append(f"{after} {what} after the faults, {before} before them")
        return found


def judge(readings: Mapping[Process, Sequence[Reading]], phases: Phases) -> list[Finding]:
    """Judge every process that was there before the faults and at the end."""
    findings = []
    middle = phases.ended / 2
    for process, taken in readings.items():
        before = [reading for reading in taken if reading.at < phases.faults_began]
        after = [reading for reading in taken if reading.at > phases.faults_ended]
        late = [reading for reading in taken if reading.at >= middle]
        if not before or not after or len(late) < 4:
            continue
        findings.append(
            Finding(
                process=process,
                rss=(taken[0].rss_mib, late[0].rss_mib, late[-1].rss_mib),
                memory=trend([(reading.at, reading.rss_mib) for reading in late]),
                descriptors=_compare((r.descriptors for r in before), (r.descriptors for r in after)),
                threads=_compare((r.threads for r in before), (r.threads for r in after)),
            )
        )
    return findings


def _compare(before: Iterable[int], after: Iterable[int]) -> tuple[int, int]:
    return max(before), min(after)
