"""Random faults on real processes, judged: `python -m tests.faults`. Exits with 1 when the guarantee was broken."""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence

from tests.faults import document, report
from tests.faults.clients import PATIENCE_SECONDS, Load
from tests.faults.launch import Broken
from tests.faults.run import Result, run_schedule
from tests.faults.schedules import Fault, Schedule, Shape, fixed_schedules, random_schedule, schedule_of
from tests.faults.world import Plan, World, break_all, running
from tools.processes import exit_on_sigterm, temporary_directory

QUICK_SEEDS = 5
SHOWN_VIOLATIONS = 5


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__, allow_abbrev=False)
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--minutes", type=float, help="go on for so long (30 unless told otherwise)")
    how_long.add_argument("--schedules", type=int, metavar="N", help="run N random schedules")
    how_long.add_argument("--by-kind", action="store_true", help="one kind of fault at a time, and a table of them")
    how_long.add_argument("--quick", action="store_true", help="every group of kinds briefly, and a few random seeds")
    parser.add_argument("--seed", type=int, help="the first schedule's; alone: that schedule only")
    parser.add_argument("--kinds", default="", metavar="A,B", help=f"of {', '.join(Fault)}")
    parser.add_argument("--revocations-per-kind", type=int, default=1_000, metavar="N", help="with --by-kind")
    parser.add_argument("--sidecars", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--max-staleness", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--write", action="store_true", help="with --by-kind: put the table into docs/guarantee.md")
    parser.add_argument(
        "--break", dest="broken", type=Broken, choices=list(Broken), help="break this rule on purpose"
    )
    arguments = parser.parse_args(argv)
    arguments.kinds = [Fault(name) for name in arguments.kinds.split(",") if name] or list(Fault)
    arguments.shape = Shape(sidecars=arguments.sidecars, replicas=arguments.replicas)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    exit_on_sigterm()
    plan = Plan(
        shape=arguments.shape,
        max_staleness_seconds=arguments.max_staleness,
        broken=break_all(arguments.broken, arguments.shape),
    )
    with temporary_directory() as directory, running(plan, directory) as world:
        result = by_kind(world, arguments) if arguments.by_kind else at_random(world, arguments)
    totals = result.report
    print(
        f"{result.schedules} schedules, {totals.revocations} revocations, {totals.validations} validations, "
        f"worst delay {totals.worst_delay_ns / 1e6:.0f} ms, {len(totals.violations)} violations, "
        f"{totals.availability:.2%} of valid sessions answered"
    )
    for seed in result.failing_seeds:
        print(f"broken under seed {seed}")
    return 1 if totals.violations else 0


def at_random(world: World, arguments: argparse.Namespace) -> Result:
    total = Result()
    for schedule in _schedules(arguments):
        load = Load(stock=80) if arguments.quick else Load()
        total.add(_run(world, schedule, load, _replay(arguments, schedule.seed)))
    return total


def _schedules(arguments: argparse.Namespace) -> Iterator[Schedule]:
    if arguments.quick and arguments.seed is None:
        yield from fixed_schedules()
    first = random.randrange(1_000_000, 1_000_000_000) if arguments.seed is None else arguments.seed
    ends = time.monotonic() + 60 * (arguments.minutes or 30)
    count = arguments.schedules
    if arguments.seed is not None and not arguments.minutes:
        count = count or 1
    elif arguments.quick:
        count = QUICK_SEEDS
    seed = first
    while (seed < first + count) if count else (time.monotonic() < ends):
        yield random_schedule(seed, arguments.kinds, arguments.shape, brief=arguments.quick)
        seed += 1


def by_kind(world: World, arguments: argparse.Namespace) -> Result:
    """Each kind alone, until it has seen enough revocations."""
    seed = first = random.randrange(1_000_000, 1_000_000_000) if arguments.seed is None else arguments.seed
    results: dict[Fault, Result] = {}
    total = Result()
    for fault in arguments.kinds:
        result = results[fault] = Result()
        # A deployment in which hardly any revoke succeeds ends, too.
        most = 10 + arguments.revocations_per_kind // 20
        while result.report.revocations < arguments.revocations_per_kind and result.schedules < most:
            schedule = schedule_of(fault, seed, arguments.shape)
            again = f"python -m tests.faults --by-kind --kinds {fault} --revocations-per-kind 1 {_options(arguments)}"
            result.add(_run(world, schedule, Load(revokes_per_second=50.0, stock=250), f"{again} --seed {seed}"))
            seed += 1
        total.add(result)
    table = report.by_kind(
        results,
        (
            f"{arguments.sidecars} sidecars",
            f"{arguments.replicas} replicas",
            f"max_staleness {arguments.max_staleness * 1_000:.0f} ms",
            f"seeds {first} to {seed - 1}",
            f"{total.schedules} schedules",
            "apps that wait for an answer for " + " or ".join(f"{seconds:g} s" for seconds in PATIENCE_SECONDS),
        ),
    )
    print(table)
    if arguments.write:
        document.write(document.GUARANTEE, "faults", table)
    return total


def _options(arguments: argparse.Namespace) -> str:
    broken = f" --break {arguments.broken}" if arguments.broken else ""
    return (
        f"--sidecars {arguments.sidecars} --replicas {arguments.replicas} "
        f"--max-staleness {arguments.max_staleness:g}{broken}"
    )


def _replay(arguments: argparse.Namespace, seed: int) -> str:
    """The command that does the same again."""
    if arguments.quick and seed <= len(fixed_schedules()):
        return f"python -m tests.faults --quick {_options(arguments)}"
    kinds = "" if arguments.kinds == list(Fault) else f" --kinds {','.join(arguments.kinds)}"
    quick = " --quick" if arguments.quick else ""
    return f"python -m tests.faults{quick} --seed {seed}{kinds} {_options(arguments)}"


def _run(world: World, schedule: Schedule, load: Load, replay: str) -> Result:
    print(f"seed {schedule.seed}: {schedule.faults}", flush=True)
    for step in schedule.steps:
        print(f"  {step}")
    result = run_schedule(world, schedule, load)
    seen = result.report
    print(
        f"  {seen.revocations} revocations, {seen.validations} validations in {result.seconds:.1f} s; worst delay "
        f"{seen.worst_delay_ns / 1e6:.0f} ms; {seen.availability:.2%} of valid sessions answered; "
        f"{len(seen.violations)} violations",
        flush=True,
    )
    for violation in seen.violations[:SHOWN_VIOLATIONS]:
        print(f"  {violation.rule} on {violation.event.sidecar}: {violation.text}\n    {violation.event}")
    if seen.violations:
        print(f"  again: {replay}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
