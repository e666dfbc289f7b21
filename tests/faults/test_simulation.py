"""Twenty thousand random schedules of faults around the sidecar's core, and more of both programs, in virtual time.

A schedule that fails says its seed; `python -m tests.faults.simulated.replay SEED [--core]` shows what happened.
"""

import pytest

from tests.faults.simulated import simulation
from tests.faults.simulated.__main__ import simulated, spread
from tests.faults.simulated.rules import CHECK_AND_TOMBSTONE, RULES, TOMBSTONE, Rule, hunt
from tests.faults.simulated.simulation import FAULTS, schedule

CORE_SCHEDULES = 20_000
ALL_SCHEDULES = 500
pytestmark = pytest.mark.timeout(600)


def test_the_sidecars_core_keeps_the_guarantee_in_every_schedule() -> None:
    total, failed = spread(0, CORE_SCHEDULES, core=True, processes=1)
    assert failed == []
    # It was put to the test: most revokes went through, sessions were asked for, and most questions were answered.
    assert total.revocations > 1.5 * CORE_SCHEDULES
    assert total.validations > 10 * CORE_SCHEDULES
    assert total.availability > 0.8
    assert total.worst_delay_ns > 0


def test_both_programs_keep_the_guarantee_in_every_schedule() -> None:
    total, failed = spread(0, ALL_SCHEDULES, core=False, processes=1)
    assert failed == []
    assert total.revocations > 2 * ALL_SCHEDULES
    assert total.barriers > 0.5 * ALL_SCHEDULES
    assert total.availability > 0.8


@pytest.mark.parametrize("core", [True, False])
def test_a_seed_replays_to_the_same_history_whatever_ran_before(core: bool) -> None:
    histories = {seed: simulation.simulated(schedule(seed, core=core)) for seed in range(25)}
    for seed in (24, 3, 11, 0):
        assert str(simulation.simulated(schedule(seed, core=core))) == str(histories[seed])


def test_every_fault_is_drawn() -> None:
    drawn = {planned.kind for seed in range(300) for planned in schedule(seed).faults}
    assert drawn == set(FAULTS)


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_checker_finds_that_a_rule_is_broken(rule: Rule) -> None:
    """With a bound on how many schedules it may take: a broken rule that shows once in a life is not tested."""
    assert hunt(rule, range(6_000), until_violated=True).violating == 1


@pytest.mark.long
def test_the_tombstone_alone_is_not_what_the_guarantee_stands_on() -> None:
    """A replica checks every entry of Redis. Without the check the tombstone is all there is, and matters."""
    seeds = range(60)
    assert hunt(TOMBSTONE, seeds).violating == 0
    check_only = next(rule for rule in RULES if rule.name == "check on Redis")
    assert hunt(CHECK_AND_TOMBSTONE, seeds).violating > 1.2 * hunt(check_only, seeds).violating


def test_the_tests_of_the_rules_put_everything_back() -> None:
    assert simulated(0, 20, core=False)[1] == []
