"""Both programs at work for minutes or hours, at a fixed rate and with faults: does anything grow? `make soak`.

PostgreSQL, Redis, Flowless replicas, sidecars and proxies between them are those of `tests/faults`; so are the faults
and the judgement of what clients saw. Only the last sidecar and the last replica are killed: the others get as old
as the run. Exits with 1 when something leaks, a table holds what should be gone, or the guarantee was broken.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc

from tests.faults.faulting import Faulting
from tests.faults.schedules import KINDS, Action, Fault, Schedule, Shape, random_schedule
from tests.faults.world import HEAL_SECONDS, Plan, World, running
from tests.soak import tables
from tests.soak.clients import Clients, Rates
from tests.soak.readings import Readings
from tests.soak.report import Outcome, show
from tests.soak.verdict import Phases
from tools.processes import ProcessError, exit_on_sigterm, temporary_directory

LOOK_SECONDS: Final = 20.0
READINGS: Final = 1_800
"""So many of each process at most, however long the run is."""
CLOCKS: Final = (Fault.CLOCK_BACK, Fault.CLOCK_FORWARD)
"""Not done here: sessions age, and programs run as their users start them."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, allow_abbrev=False)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--minutes", type=float, default=3.0)
    how_long.add_argument("--hours", type=float)
    parser.add_argument("--sidecars", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual number of calls")
    parser.add_argument("--seed", type=int, default=None, help="of the faults")
    parser.add_argument("--no-faults", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.seconds = 3_600 * arguments.hours if arguments.hours else 60 * arguments.minutes
    if arguments.seconds < 40 or arguments.sidecars < 2 or arguments.replicas < 2:
        parser.error("less than 40 seconds, or than two of each program, show nothing")
    return arguments


def spare_the_first(schedule: Schedule, shape: Shape) -> Schedule:
    """Let kills hit the last sidecar and the last replica only."""
    last = {Fault.SIDECAR_KILL: shape.sidecars - 1, Fault.FLOWLESS_KILL: shape.replicas - 1}
    steps = [
        replace(step, target=last[step.fault]) if step.kind.action is Action.KILL and step.fault in last else step
        for step in schedule.steps
    ]
    return replace(schedule, steps=steps)


@dataclass(slots=True, kw_only=True)
class Soak:
    """One run. All faults are done by the thread that made the world."""

    world: World
    clients: Clients
    began: float
    seconds: float
    seed: int
    faults: bool
    faults_done: int = 0
    _looked: float = 0.0

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def run(self) -> Phases:
        """Go through all phases; returns when they began and ended."""
        faults_began, last_calm = 0.2 * self.seconds, max(10.0, 0.15 * self.seconds)
        self._wait_until(faults_began)
        kinds = [fault for fault in KINDS if fault not in CLOCKS]
        faulting, draw = Faulting(self.world), random.Random(self.seed)
        while self.faults and self.now() < self.seconds - last_calm - 10:
            schedule = random_schedule(draw.randrange(2**32), kinds, self.world.shape, brief=True)
            schedule = spare_the_first(schedule, self.world.shape)
            if schedule.ends_at + 3 > self.seconds - last_calm - self.now():
                break
            try:
                faulting.run(schedule)
            except ProcessError:
                faulting.heal()  # once more: a busy machine may take longer to start what was killed
            self.faults_done += len(schedule.steps)
            self._wait_until(self.now() + draw.uniform(2.0, 6.0))
        self.world.wait_until_whole()
        faults_ended = self.now() + 5.0  # what was broken has closed its ends by then
        self._wait_until(max(self.seconds, faults_ended + 5.0))
        return Phases(faults_began=faults_began, faults_ended=faults_ended, ended=self.now())

    def _wait_until(self, at: float) -> None:
        while (left := at - self.now()) > 0:
            self._look()
            if self.clients.failures:
                raise self.clients.failures[0]
            time.sleep(min(1.0, left))

    def _look(self) -> None:
        if self.now() - self._looked > LOOK_SECONDS:
            self._looked = self.now()
            self.clients.look()
            tables.age(self.world.postgres)


def soak(world: World, arguments: argparse.Namespace, directory: Path) -> Outcome:
    rates = Rates().scaled(arguments.rate)
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    with ExitStack() as stack:
        clients = Clients(world, rates, stack)
        run = Soak(
            world=world, clients=clients, began=time.monotonic(), seconds=arguments.seconds, seed=seed,
            faults=not arguments.no_faults,
        )  # fmt: skip
        readings = Readings(
            pids=lambda: {name: process.pid for name, process in world.processes.items() if process.is_running},
            clock=run.now,
            every=max(0.5, arguments.seconds / READINGS),
        )
        before = tables.count_rows(world.postgres)
        with readings.taken(), clients.at_work():
            phases = run.run()
        return Outcome(
            seed=seed,
            faults=run.faults_done,
            phases=phases,
            readings=readings.of,
            calls=clients.counts,
            guarantee=clients.report,
            rows_before=before,
            rows_after=tables.count_rows(world.postgres),
            ended_per_second=rates.ended_sessions,
            log_bytes={name: (directory / f"{name}.log").stat().st_size for name in world.processes},
        )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    exit_on_sigterm()
    plan = Plan(
        shape=Shape(sidecars=arguments.sidecars, replicas=arguments.replicas),
        launched=False,
        restart_seconds=HEAL_SECONDS,
        flowless_environment=tables.HOUSEKEEPING,
    )
    try:
        with temporary_directory() as directory, running(plan, directory) as world:
            outcome = soak(world, arguments, directory)
    except grpc.RpcError as error:
        print(f"error: a call failed before the run began: {error.code().name}", file=sys.stderr)
        return 1
    complaints = show(outcome)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
