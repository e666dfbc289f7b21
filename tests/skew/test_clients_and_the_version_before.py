"""Today's Python client in front of the pair of the version before: the cases that a real pair answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.conformance.case_file import Call, read_cases
from clients.conformance.driver import Driver
from clients.conformance.driver_list import read_drivers
from clients.conformance.play import play
from clients.conformance.world import World, running
from tests.support.previous import previous_code

pytestmark = pytest.mark.long

GROUPS = ("denials", "identity", "sessions", "trust_tokens", "revisions", "texts_and_edges")
CASES = tuple(
    case
    for case in read_cases()
    if case.group in GROUPS and all(step.socket == "sidecar" for step in case.steps if isinstance(step, Call))
)


@pytest.fixture(scope="module")
def previous_pair(module_dir: Path) -> Iterator[World]:
    with running(module_dir, code=previous_code()) as world:
        yield world


def test_todays_python_client_does_with_the_pair_of_the_version_before_what_it_does_with_todays(
    previous_pair: World, tmp_path: Path
) -> None:
    entry = next(driver for driver in read_drivers() if driver.name == "python-sync")
    assert len(CASES) > 50
    with Driver(command=entry.run, log=tmp_path / "log") as driver:
        problems = {case.name: play(case, driver, previous_pair) for case in CASES}
    assert {name: problem for name, problem in problems.items() if problem} == {}
