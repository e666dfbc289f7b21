"""Run schedules on a world, one after another, and judge what clients saw."""

import time
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.clients import Load, clients_of
from tests.faults.faulting import Faulting
from tests.faults.history import NS_PER_MS, Bounds, Report, check
from tests.faults.schedules import Schedule
from tests.faults.sessions import retention_ns
from tests.faults.world import World


@dataclass(slots=True, kw_only=True)
class Result:
    """What one schedule, or several, came to."""

    report: Report = field(default_factory=Report)
    schedules: int = 0
    failing_seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    late_seconds: float = 0.0

    def add(self, other: "Result") -> None:
        """Take another result into this one."""
        self.report.add(other.report)
        self.schedules += other.schedules
        self.failing_seeds += other.failing_seeds
        self.seconds += other.seconds
        self.late_seconds = max(self.late_seconds, other.late_seconds)


def run_schedule(world: World, schedule: Schedule, load: Load) -> Result:
    """Run one schedule with clients all along, on a world that is whole, and leave it whole."""
    began = time.monotonic()
    with clients_of(world, schedule.seed, load) as clients:
        faulting = Faulting(world)
        with clients.at_work():
            try:
                faulting.run(schedule)
            except BaseException:
                with suppress(Exception):
                    faulting.heal()
                raise
            # What was revoked last, and what the last fault kept back, has to be seen late, too.
            time.sleep(retention_ns(world.plan.max_staleness_seconds) / NS_PER_MS / 1_000)
        events = clients.events
    world.wait_until_whole()
    report = check(events, Bounds(max_staleness_ns=round(world.plan.max_staleness_seconds * 1_000) * NS_PER_MS))
    return Result(
        report=report,
        schedules=1,
        failing_seeds=[schedule.seed] if report.violations else [],
        seconds=time.monotonic() - began,
        late_seconds=faulting.late_seconds,
    )
