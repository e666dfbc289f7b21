import random
from itertools import combinations

import pytest

from tests.faults.schedules import (
    ALL,
    KINDS,
    Fault,
    Shape,
    Step,
    fits,
    fixed_schedules,
    processes,
    programs,
    random_schedule,
    schedule_of,
    touched,
)

SHAPE = Shape(sidecars=3, replicas=2)
EVERY = list(Fault)
SEEDS = range(400)


def step(fault: Fault, *, at: float = 1.0, target: int = 0, duration: float = 2.0) -> Step:
    return Step(at=at, fault=fault, target=target, duration=duration)


def test_every_fault_is_of_some_kind() -> None:
    assert set(KINDS) == set(Fault)


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    first = [random_schedule(seed, EVERY, SHAPE) for seed in SEEDS]
    assert first == [random_schedule(seed, EVERY, SHAPE) for seed in SEEDS]
    assert len({str(schedule.steps) for schedule in first}) == len(SEEDS)


def test_a_seed_does_not_depend_on_what_was_drawn_before() -> None:
    expected = random_schedule(7, EVERY, SHAPE)
    random.seed(1)
    random_schedule(6, EVERY, SHAPE)
    assert random_schedule(7, EVERY, SHAPE) == expected


def test_every_kind_is_reached_by_some_seed() -> None:
    assert {found.fault for seed in SEEDS for found in random_schedule(seed, EVERY, SHAPE).steps} == set(Fault)


def test_every_target_of_every_kind_is_reached_by_some_seed() -> None:
    for fault, kind in KINDS.items():
        found = {one.target for seed in range(60) for one in random_schedule(seed, [fault], SHAPE).steps}
        assert set(range(SHAPE.targets(kind.subject))) <= found, fault


def test_only_the_kinds_asked_for_are_drawn() -> None:
    kinds = [Fault.REDIS_FLUSH, Fault.SIDECAR_KILL]
    assert {one.fault for seed in SEEDS for one in random_schedule(seed, kinds, SHAPE).steps} == set(kinds)


def test_no_two_faults_of_one_thing_overlap() -> None:
    for seed in SEEDS:
        for one, other in combinations(random_schedule(seed, EVERY, SHAPE).steps, 2):
            if touched(one, SHAPE) & touched(other, SHAPE):
                assert one.ends_at < other.at or other.ends_at < one.at, seed


def test_a_fault_lasts_as_long_as_its_kind_says() -> None:
    for seed in SEEDS:
        for one in random_schedule(seed, EVERY, SHAPE).steps:
            shortest, longest = KINDS[one.fault].seconds
            assert shortest <= one.duration <= longest


def test_a_brief_schedule_is_brief() -> None:
    for seed in SEEDS:
        assert random_schedule(seed, EVERY, SHAPE, brief=True).ends_at < 10


@pytest.mark.parametrize("fault", EVERY)
def test_a_schedule_of_one_kind_has_only_that_kind_and_faults_that_fit(fault: Fault) -> None:
    for seed in range(20):
        steps = schedule_of(fault, seed, SHAPE).steps
        assert {one.fault for one in steps} == {fault}
        assert all(fits(one, steps[:number], SHAPE) for number, one in enumerate(steps))


def test_the_fixed_schedules_fit_and_have_every_kind_but_the_long_ones() -> None:
    schedules = fixed_schedules()
    for schedule in schedules:
        assert all(fits(one, schedule.steps[:number], SHAPE) for number, one in enumerate(schedule.steps))
    found = {one.fault for schedule in schedules for one in schedule.steps}
    assert set(Fault) - found == {fault for fault in Fault if fault.endswith("-10s")} | {Fault.NONE}


def test_a_replica_is_not_restarted_while_its_database_is_away() -> None:
    restart = step(Fault.FLOWLESS_KILL, target=1)
    assert not fits(restart, [step(Fault.POSTGRES_PAUSE_2S)], SHAPE)
    assert not fits(restart, [step(Fault.FLOWLESS_POSTGRES_CUT, target=1)], SHAPE)
    assert not fits(step(Fault.FLOWLESS_POSTGRES_CUT, target=ALL), [restart], SHAPE)
    assert fits(restart, [step(Fault.FLOWLESS_POSTGRES_CUT, target=0), step(Fault.REDIS_KILL)], SHAPE)


def test_names_of_what_is_touched() -> None:
    assert touched(step(Fault.SIDECAR_FLOWLESS_CUT, target=3), SHAPE) == {"sidecar-flowless-1-1"}
    assert len(touched(step(Fault.SIDECAR_FLOWLESS_CUT, target=ALL), SHAPE)) == 6
    assert touched(step(Fault.SIDECAR_PARTITION, target=2), SHAPE) == {
        "sidecar-flowless-2-0",
        "sidecar-flowless-2-1",
    }
    assert touched(step(Fault.MACHINE_PAUSE_2S), SHAPE) == set(processes(SHAPE))
    assert touched(step(Fault.NONE), SHAPE) == set()
    assert touched(step(Fault.CLOCK_BACK, target=3), SHAPE) == {f"clock-of-{programs(SHAPE)[3]}"}
    assert touched(step(Fault.REDIS_FLUSH), SHAPE) == {"redis"}
