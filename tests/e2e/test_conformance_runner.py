"""The runner of the conformance cases finds what is wrong with a client: a driver that is wrong in each way."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.conformance.case_file import read_cases
from clients.conformance.driver import Driver
from clients.conformance.driver_list import read_drivers
from clients.conformance.play import play
from clients.conformance.world import World, running
from conformance.v1.conformance_pb2 import Describe, DriverRequest
from tests.support.broken_driver import Wrong

CASES = {case.name: case for case in read_cases()}
RESTART = "a client outlives the restart of its sidecar, whose socket is another then"
CRASH = "a call that is under way when the sidecar crashes is unavailable"
# How it is wrong, the case that finds it, and what is said.
FOUND = [
    (Wrong.ACTIVE_FOR_A_DENIAL, "a session id that nobody was given is unknown", "expected denied, got active"),
    (Wrong.ACTIVE_FOR_A_DENIAL, "a reason that the client does not know is a denial", "expected denied, got active"),
    (Wrong.ACTIVE_FOR_NEITHER, "an answer that is neither a session nor a denial is unavailable", "got active"),
    (Wrong.ACTIVE_FOR_NOBODY, "a session of nobody is unavailable", "expected unavailable, got active"),
    (Wrong.FAILURE_OF_OTHERS, "a wrong question that no sidecar speaks of is unavailable", "got failure"),
    (Wrong.DENIED_FOR_UNAVAILABLE, "an answer of ours that says unavailable is not made again", "got denied"),
    (Wrong.SWALLOWS_ERRORS, "a user who is not there is not found", "expected failure, got response"),
    (Wrong.SWALLOWS_ERRORS, "a validation is made four times at most", "expected unavailable, got active"),
    (Wrong.RETRIES_LOGIN, "a login is never made again", "expected error, got response"),
    (Wrong.RETRIES_ANSWERS, "an answer of ours that says unavailable is not made again", "it.calls is 4, not 1"),
    (Wrong.NEVER_RETRIES, "a validation that no sidecar answered is made again", "got unavailable"),
    (Wrong.RETRIES_FOR_EVER, "a validation is made four times at most", "it.calls is"),
    (Wrong.RETRIES_AT_ONCE, "a validation that no sidecar answered is made again", "it.gaps["),
    (Wrong.RETRIES_AT_ONCE, "a validation is made four times at most", "it.gaps["),
    (Wrong.IGNORES_DEADLINES, "another call that is not answered before its deadline fails with that", "in time"),
    (Wrong.NO_DEFAULT_DEADLINE, "a validation without a deadline has one of two seconds", "it.deadline is"),
    (Wrong.NEW_DEADLINE, "a repeated call has what is left of the deadline, not a new one", "it.deadlines[1] is"),
    (Wrong.IGNORES_CANCELLING, "who gives up another call is told so, and the server sees it", "expected cancelled"),
    (Wrong.SESSION_ID_IN_ERRORS, "the largest revision is asked for without loss", "hold a session id"),
    (Wrong.SESSION_ID_IN_CAUSES, "the largest revision is asked for without loss", "hold a session id"),
    (Wrong.SESSION_ID_IN_CAUSES, "a session id that nobody was given is unknown", "hold a session id"),
    (Wrong.HIDES_ERRORS, "a session id that nobody was given is unknown", "what its language prints"),
    (Wrong.FORGETS_FIELDS, "a path without its method is a wrong field", "failure.fields is not there"),
    (Wrong.ONE_CONNECTION, RESTART, "got unavailable"),
    (Wrong.ONE_CONNECTION, CRASH, "the client is not back"),
    (Wrong.DIES, "what is not a session id is malformed", "the driver ended (exit code 3)"),
    (Wrong.GARBAGE, "what is not a session id is malformed", "what is no answer"),
    (Wrong.SAYS_BROKEN, "what is not a session id is malformed", "got broken {'broken': 'on purpose'}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(module_dir: Path) -> Iterator[World]:
    with running(module_dir) as world:
        yield world


@pytest.fixture
def mended(world: World) -> Iterator[World]:
    yield world
    world.mend()


@contextmanager
def driver_that_is(wrong: Wrong, log: Path) -> Iterator[Driver]:
    command = (sys.executable, "-m", "tests.support.broken_driver", wrong.value)
    with Driver(command=command, log=log) as driver:
        assert driver.ask(DriverRequest(describe=Describe()), timeout=60).description.language == "python"
        yield driver


@pytest.mark.parametrize(
    ("wrong", "name", "said"), FOUND, ids=[f"{wrong}-{number}" for number, (wrong, *_) in enumerate(FOUND)]
)
def test_a_client_that_is_wrong_is_found_out(
    mended: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong, name: str, said: str
) -> None:
    monkeypatch.setattr("clients.conformance.play._PATIENCE_SECONDS", 1.0)
    with driver_that_is(wrong, tmp_path / "log") as driver:
        assert said in play(CASES[name], driver, mended)


def test_the_same_cases_find_nothing_wrong_with_a_client_that_is_right(world: World, tmp_path: Path) -> None:
    problems: dict[str, str] = {}
    with driver_that_is(Wrong.NOTHING, tmp_path / "log") as driver:
        for name in sorted({name for _, name, _ in FOUND}):
            problems[name] = play(CASES[name], driver, world)
        assert driver.stop() == 0
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_a_case_begins_when_the_client_has_its_sidecar_again_after_the_case_before(
    world: World, tmp_path: Path
) -> None:
    # A sidecar is back sooner than this client tries again: the next case would meet a client that waits.
    with driver_that_is(Wrong.ALMOST_TOO_LATE, tmp_path / "log") as driver:
        assert [
            play(CASES[name], driver, world)
            for name in (CRASH, "a user is registered and found by id, address and name")
        ] == ["", ""]


def test_the_python_client_keeps_the_rules_that_take_no_time(world: World, tmp_path: Path) -> None:
    entry = next(driver for driver in read_drivers() if driver.name == "python-sync")
    cases = [case for case in CASES.values() if case.group in {"denials", "newer_sidecar", "retries"}]
    assert len(cases) > 30
    with Driver(command=entry.run, log=tmp_path / "log") as driver:
        problems = {case.name: play(case, driver, world) for case in cases}
        assert driver.stop() == 0
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_every_way_to_be_wrong_is_tried() -> None:
    assert {wrong for wrong, *_ in FOUND} == set(Wrong) - {Wrong.NOTHING, Wrong.ALMOST_TOO_LATE}
