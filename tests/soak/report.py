"""What a run came to, as text, and what of it is a complaint."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.history import Report
from tests.soak import tables
from tests.soak.readings import Process, Reading
from tests.soak.verdict import ALLOWED_MIB, Finding, Phases, judge

LOG_BYTES_PER_CALL: Final = 200
"""Far less than a line for each: calls that go well are not logged, and what fails is counted."""
SHOWN_VIOLATIONS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was seen."""

    seed: int
    faults: int
    phases: Phases
    readings: Mapping[Process, Sequence[Reading]]
    calls: Counter[tuple[str, str]]
    guarantee: Report
    rows_before: Mapping[str, int]
    rows_after: Mapping[str, int]
    ended_per_second: float
    log_bytes: Mapping[str, int]


def complaints(outcome: Outcome, findings: Sequence[Finding]) -> list[str]:
    """Say what must not be so."""
    found = [f"{finding.process.name}: {leak}" for finding in findings for leak in finding.leaks()]
    if not {"flowless-0", "sidecar-0"} <= {finding.process.name for finding in findings}:
        found.append("no replica or no sidecar lived from the beginning to the end: nothing is known of leaks")
    found += tables.too_many(outcome.rows_after, outcome.calls, outcome.ended_per_second)
    calls = sum(outcome.calls.values())
    if sum(outcome.log_bytes.values()) > LOG_BYTES_PER_CALL * calls:
        found.append(f"logs hold more than {LOG_BYTES_PER_CALL} bytes per call")
    found += [f"{violation.rule}: {violation.text}" for violation in outcome.guarantee.violations[:SHOWN_VIOLATIONS]]
    answered = sum(count for (_, ended), count in outcome.calls.items() if ended in ("OK", "ACTIVE", "DENIED"))
    if answered < calls / 2:
        found.append(f"only {answered} of {calls} calls were answered: this was no load")
    return found


def show(outcome: Outcome) -> list[str]:
    """Print everything; return the complaints."""
    phases, findings = outcome.phases, judge(outcome.readings, outcome.phases)
    print(
        f"{phases.ended:.0f} s, {outcome.faults} faults between {phases.faults_began:.0f} and "
        f"{phases.faults_ended:.0f} s, seed {outcome.seed}\n"
    )
    print(
        "process       RSS MiB: start  middle     end | MiB/hour in 2nd half (95 % bounds)    | descriptors  threads"
    )
    for one in findings:
        memory = one.memory
        bounds = f"{memory.per_hour:+8.1f} ({memory.lower:+.1f} to {memory.upper:+.1f})"
        print(
            f"{one.process.name:<21} {one.rss[0]:7.1f} {one.rss[1]:7.1f} {one.rss[2]:7.1f} | {bounds:<39}"
            f"| {one.descriptors[0]:4d} -> {one.descriptors[1]:<4d} {one.threads[0]:3d} -> {one.threads[1]}"
        )
    hours = max((one.memory.hours for one in findings), default=0.0)
    if hours:
        print(f"A leak slower than {ALLOWED_MIB / hours:.1f} MiB/hour would not have been found in this time.")
    _show_rest(outcome)
    found = complaints(outcome, findings)
    print("\n" + "\n".join(f"FAILED: {one}" for one in found) if found else "\nNothing grows that should not.")
    return found


def _show_rest(outcome: Outcome) -> None:
    print("\nrows              before    after")
    for table, after in outcome.rows_after.items():
        print(f"{table:<16} {outcome.rows_before[table]:7d}  {after:7d}")
    total = sum(outcome.log_bytes.values())
    calls = sum(outcome.calls.values())
    print(f"\nlogs: {total / 1024:.0f} KiB for {calls} calls; " + ", ".join(
        f"{name} {size / 1024:.0f} KiB" for name, size in outcome.log_bytes.items()
    ))  # fmt: skip
    print("\ncalls, and how they ended:")
    for name in dict.fromkeys(name for name, _ in outcome.calls):
        ends = {ended: count for (of, ended), count in sorted(outcome.calls.items()) if of == name}
        print(f"  {name:<20} " + ", ".join(f"{ended} {count}" for ended, count in ends.items()))
    seen = outcome.guarantee
    print(
        f"\n{seen.validations} validations judged, {seen.availability:.2%} of valid sessions answered, worst delay "
        f"of a revocation {seen.worst_delay_ns / 1e6:.0f} ms, {len(seen.violations)} violations"
    )
