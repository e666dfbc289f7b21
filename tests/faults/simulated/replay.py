"""Show what happened in one simulated schedule: `python -m tests.faults.simulated.replay SEED [--core]`."""

import argparse
import sys
from collections.abc import Sequence

from tests.faults.history import NS_PER_MS, Event, Login, Revoke, check
from tests.faults.simulated.rules import BOUNDS
from tests.faults.simulated.simulation import schedule, simulated


def described(event: Event) -> str:
    """One line of the history."""
    if isinstance(event, Login):
        return f"{event.ended_ns / NS_PER_MS:9.1f}  login     {event.session[-6:]}"
    if isinstance(event, Revoke):
        ended = "failed" if event.ended_ns is None else f"returned {event.ended_ns / NS_PER_MS:.1f}"
        sessions = " ".join(sorted(session[-6:] for session in event.sessions))
        reached = ", barrier reached" if event.barrier_reached else ""
        return (
            f"{event.started_ns / NS_PER_MS:9.1f}  revoke    {sessions}: revision {event.revision}, {ended}{reached}"
        )
    return (
        f"{event.started_ns / NS_PER_MS:9.1f}  validate  {event.session[-6:]} on sidecar {event.sidecar}: "
        f"{event.outcome} at revision {event.revision}, ended {event.ended_ns / NS_PER_MS:.1f}"
    )


def _began(event: Event) -> int:
    return event.started_ns


def main(argv: Sequence[str] | None = None) -> int:
    """Print the schedule, its history in milliseconds, and what it violates; exit with 1 if it violates anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulated.replay", description=main.__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--core", action="store_true", help="one sidecar over a model of Flowless")
    arguments = parser.parse_args(argv)
    plan = schedule(arguments.seed, core=arguments.core)
    print(f"{plan.sidecars} sidecars, {plan.replicas} replicas, {plan.lost_wakeups:.0%} of wake-ups lost")
    for planned in plan.faults:
        print(f"{planned.at_seconds * 1e3:9.1f}  {planned.kind} ({planned.target}) for {planned.lasts_seconds} s")
    history = simulated(plan)
    for event in sorted(history, key=_began):
        print(described(event))
    violations = check(history, BOUNDS).violations
    for violation in violations:
        print(f"{violation.rule}: {violation.text}\n    {described(violation.event)}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
