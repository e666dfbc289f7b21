"""Run many simulated schedules: `python -m tests.faults.simulated --schedules 100000 [--core] [--first SEED]`.

Without `--first` the seeds begin anywhere, and the first one is printed: the same number runs the same schedules.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.faults.history import NS_PER_MS, Report
from tests.faults.simulated.rules import run_schedules
from tests.faults.simulated.simulation import schedule


def simulated(first: int, count: int, *, core: bool) -> tuple[Report, list[str]]:
    """Run schedules in this process; return what they show together, and a line for each violation."""
    total = Report()
    failed: list[str] = []
    for plan, report in run_schedules([schedule(seed, core=core) for seed in range(first, first + count)]):
        total.add(report)
        failed += [f"seed {plan.seed}: {violation.rule}: {violation.text}" for violation in report.violations]
    total.violations.clear()  # told in `failed`
    return total, failed


def spread(first: int, count: int, *, core: bool, processes: int) -> tuple[Report, list[str]]:
    """The same in several processes. Raises `subprocess.CalledProcessError` when one of them breaks down."""
    shares = [(first + count * i // processes, first + count * (i + 1) // processes) for i in range(processes)]
    command = [sys.executable, "-m", "tests.faults.simulated", "--processes", "1", "--json", *(["--core"] * core)]
    running = [
        subprocess.Popen(
            [*command, "--first", str(begin), "--schedules", str(end - begin)],
            stdout=subprocess.PIPE,
        )
        for begin, end in shares
    ]
    total = Report()
    failed: list[str] = []
    try:
        for process in running:
            output, _ = process.communicate()
            if process.returncode not in (0, 1):
                raise subprocess.CalledProcessError(process.returncode, process.args)
            answer: dict[str, Any] = json.loads(output)
            total.add(Report(**answer["report"]))
            failed += answer["failed"]
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return total, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run simulated schedules and print what they show; exit with 1 on a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulated", description=main.__doc__)
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, help="the first seed; default: a random one")
    parser.add_argument("--core", action="store_true", help="one sidecar over a model of Flowless: faster")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    arguments = parser.parse_args(argv)
    first = random.randrange(2**40) if arguments.first is None else arguments.first
    began = time.monotonic()
    if arguments.processes > 1:
        report, failed = spread(first, arguments.schedules, core=arguments.core, processes=arguments.processes)
    else:
        report, failed = simulated(first, arguments.schedules, core=arguments.core)
    if arguments.json:
        print(json.dumps({"report": asdict(report), "failed": failed}))
        return 1 if failed else 0
    print(
        f"{arguments.schedules:,} schedules from seed {first} in {time.monotonic() - began:.0f} s: "
        f"{report.revocations:,} revocations, {report.barriers:,} barriers reached, "
        f"{report.validations:,} validations, "
        f"worst delay {report.worst_delay_ns / NS_PER_MS:.0f} ms, "
        f"availability {report.availability:.1%}, {len(failed)} violations"
    )
    for line in failed:
        print(line)
    if failed:
        print(
            f"python -m tests.faults.simulated.replay SEED{' --core' if arguments.core else ''} shows what happened"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
