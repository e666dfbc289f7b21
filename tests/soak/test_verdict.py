"""A leak is found, and what only warms up, jumps or trembles is not taken for one."""

import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.schedules import KINDS, Action, Fault, Shape, random_schedule
from tests.soak.__main__ import spare_the_first
from tests.soak.readings import Process, Reading, Readings, read
from tests.soak.tables import too_many
from tests.soak.trend import trend
from tests.soak.verdict import ALLOWED_MORE, Phases, judge

HOUR = 3_600.0
_NOISE = random.Random(1)


def _readings(
    mib: Callable[[float], float], *, seconds: float, descriptors: Callable[[float], int] = lambda _: 20
) -> list[Reading]:
    return [
        Reading(at=at, rss_mib=mib(at) + _NOISE.uniform(-1, 1), descriptors=descriptors(at), threads=9)
        for at in (number * seconds / 900 for number in range(900))
    ]


def _leaks(readings: list[Reading], *, seconds: float) -> list[str]:
    phases = Phases(faults_began=0.2 * seconds, faults_ended=0.85 * seconds, ended=seconds)
    (finding,) = judge({Process("sidecar-0", 1): readings}, phases)
    return finding.leaks()


@pytest.mark.parametrize(
    ("per_hour", "hours"), [(400.0, 0.05), (20.0, 1.0), (3.0, 8.0)], ids=["minutes", "an hour", "a night"]
)
def test_steady_growth_is_a_leak_and_a_longer_run_finds_a_slower_one(per_hour: float, hours: float) -> None:
    seconds = hours * HOUR
    found = _leaks(_readings(lambda at: 50 + per_hour * at / HOUR, seconds=seconds), seconds=seconds)
    assert len(found) == 1
    assert "memory grew" in found[0]


@pytest.mark.parametrize(
    "mib",
    [
        lambda _: 50.0,
        lambda at: 80 - 38 * math.exp(-at / 600),
        lambda at: 50.0 if at < 600 else 75.0,
        lambda at: 50.0 + 20 * (at % 60 < 6),
        lambda at: 90 - at / 100,
    ],
    ids=["flat", "warms up", "one jump before the second half", "comes and goes", "shrinks"],
)
def test_what_does_not_go_on_growing_is_no_leak(mib: Callable[[float], float]) -> None:
    assert _leaks(_readings(mib, seconds=HOUR), seconds=HOUR) == []


def test_bounds_hold_the_slope_and_are_wider_where_values_tremble() -> None:
    draw = random.Random(7)
    calm, wild = (
        trend([(at, at / HOUR * 10 + draw.gauss(0, sigma)) for at in range(0, 3_600, 4)]) for sigma in (0.1, 5.0)
    )
    for found in (calm, wild):
        assert found.lower <= 10 <= found.upper
    assert calm.upper - calm.lower < wild.upper - wild.lower


def test_too_few_readings_say_nothing() -> None:
    with pytest.raises(ValueError, match="four readings"):
        trend([(0.0, 1.0), (1.0, 2.0)])


def test_descriptors_left_open_by_faults_are_a_leak() -> None:
    def leaking(at: float) -> int:
        return 20 + round(at / 100)

    found = _leaks(_readings(lambda _: 50, seconds=HOUR, descriptors=leaking), seconds=HOUR)
    assert len(found) == 1
    assert "descriptors after the faults" in found[0]


def test_more_descriptors_during_faults_are_none() -> None:
    def busy(at: float) -> int:
        return 200 if 0.2 * HOUR < at < 0.8 * HOUR else 20 + ALLOWED_MORE // 2

    assert _leaks(_readings(lambda _: 50, seconds=HOUR, descriptors=busy), seconds=HOUR) == []


def test_a_process_that_came_later_is_not_compared_with_itself() -> None:
    late = [reading for reading in _readings(lambda at: at, seconds=HOUR) if reading.at > 0.5 * HOUR]
    phases = Phases(faults_began=0.2 * HOUR, faults_ended=0.85 * HOUR, ended=HOUR)
    assert judge({Process("sidecar-2", 7): late}, phases) == []


def test_a_real_process_that_leaks_is_seen_leaking() -> None:
    code = (
        "import os, sys, time\n"
        "held = []\n"
        "print('begun', flush=True)\n"
        "for _ in sys.stdin:\n"
        "    held.append(os.urandom(8 << 20)); held += [open(os.devnull) for _ in range(20)]\n"
        "    print('more', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as leaking:
        assert leaking.stdin is not None
        assert leaking.stdout is not None
        leaking.stdout.readline()
        before = read(leaking.pid, 0.0)
        leaking.stdin.write("\n")
        leaking.stdin.flush()
        leaking.stdout.readline()
        readings = Readings(pids=lambda: {"leaking": leaking.pid}, clock=time.monotonic, every=1.0)
        readings.take()
        ((process, (after,)),) = readings.of.items()
        leaking.stdin.close()
    assert process == Process("leaking", leaking.pid)
    assert before is not None
    assert after.rss_mib - before.rss_mib > 7
    assert after.descriptors - before.descriptors == 20
    assert read(leaking.pid, 0.0) is None


def test_rows_that_nobody_deletes_are_too_many() -> None:
    calls = Counter({("Login", "OK"): 10_000, ("Login", "UNAVAILABLE"): 50})
    assert too_many({"sessions": 900, "revocations": 10_000, "log_head": 1}, calls, 10.0) == []
    (complaint,) = too_many({"sessions": 9_000}, calls, 10.0)
    assert complaint.startswith("sessions holds 9000 rows")
    assert too_many({"replicas": 5_000}, calls, 10.0)
    assert too_many({"revocations": 20_000}, calls, 10.0)


def test_only_the_last_of_each_program_is_killed() -> None:
    shape = Shape()
    kills = [fault for fault in KINDS if KINDS[fault].action is Action.KILL]
    steps = [
        step
        for seed in range(50)
        for step in spare_the_first(random_schedule(seed, kinds=kills, shape=shape), shape).steps
    ]
    targets = {step.target for step in steps if step.fault in (Fault.SIDECAR_KILL, Fault.FLOWLESS_KILL)}
    assert targets == {shape.sidecars - 1, shape.replicas - 1}
