"""Does the whole of it notice a sidecar that breaks the guarantee, and clear one that keeps it? Real processes."""

from pathlib import Path

import pytest

from tests.faults.clients import Load
from tests.faults.history import Rule
from tests.faults.launch import Broken
from tests.faults.run import Result, run_schedule
from tests.faults.schedules import Fault, Schedule, Shape, Step
from tests.faults.world import Plan, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
TRIES = 4
"""On a machine that is busy with other things few questions come through; one run is enough elsewhere."""


def test_a_lease_that_never_ends_is_found_out_and_one_that_does_is_cleared_under_the_same_schedule(
    run_dir: Path,
) -> None:
    cut_off = [Step(at=0.5, fault=Fault.SIDECAR_PARTITION, target=target, duration=3.0) for target in (0, 1)]
    plan = Plan(
        shape=Shape(sidecars=2, replicas=1),
        max_staleness_seconds=0.5,
        broken={"sidecar-0": Broken.LEASE},
        small=False,
    )
    result = Result()
    with running(plan, run_dir) as world:
        for seed in range(TRIES):
            result.add(run_schedule(world, Schedule(seed=seed, steps=cut_off), Load(revokers=1, stock=40)))
            if result.report.violations:
                break
    violations = result.report.violations
    assert {violation.event.sidecar for violation in violations} == {"sidecar-0"}
    assert Rule.STALE_YES in {violation.rule for violation in violations}
    assert result.report.of_live_answered > 0
