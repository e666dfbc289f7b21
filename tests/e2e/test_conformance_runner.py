"""The runner of the conformance cases finds what is wrong with a client or a middleware, for each way to be wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.conformance.app import serving
from clients.conformance.case_file import read_cases
from clients.conformance.driver import Driver
from clients.conformance.driver_list import read_drivers
from clients.conformance.play import play
from clients.conformance.play_app import AppPlayer
from clients.conformance.world import World, running
from conformance.v1.conformance_pb2 import Describe, DriverRequest
from tests.support.broken_app_ways import Wrong as WrongApp
from tests.support.broken_driver import Wrong

pytestmark = pytest.mark.long

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
SPELLINGS = "what an app did not name is denied, and no spelling of a path gets around a session"
OUTAGE = "an app that cannot know refuses with 503, also where a session is optional"
MALFORMED = "what an app is sent as a session id and is none is malformed"
NONE_SENT = "an app tells who sends no session id to log in"
# How an app is wrong, the case that finds it, and what is said.
FOUND_IN_APPS = [
    (WrongApp.LETS_ALL_IN, NONE_SENT, "expected 401 SESSION_MISSING, got 200"),
    (WrongApp.LETS_ALL_IN, SPELLINGS, "expected no way in, got 200"),
    (WrongApp.FOLDS_PATHS, SPELLINGS, "expected no way in, got 200"),
    (WrongApp.LETS_THE_UNSURE_IN, OUTAGE, "expected 503 UNAVAILABLE, got 200"),
    (WrongApp.DENIES_THE_UNSURE, OUTAGE, "expected 503 UNAVAILABLE, got 401"),
    (WrongApp.FORBIDS_THE_DENIED, MALFORMED, "expected 401 MALFORMED, got 403"),
    (WrongApp.NO_CHALLENGE, NONE_SENT, "www-authenticate is None"),
    (WrongApp.ONE_CHALLENGE, MALFORMED, "www-authenticate is Bearer, not"),
    (WrongApp.MAY_BE_CACHED, NONE_SENT, "cache-control is None"),
    (WrongApp.NO_RETRY_AFTER, OUTAGE, "retry-after is None"),
    (WrongApp.PLAIN_TEXT, NONE_SENT, "content-type is text/plain"),
    (WrongApp.SAYS_TOO_MUCH, NONE_SENT, "the body is"),
    (WrongApp.TELLS_SESSION_IDS, "an app lets in who has a session, by cookie or as a bearer", "holds a session id"),
    (WrongApp.LOGS_SESSION_IDS, "an app lets in who has a session, by cookie or as a bearer", "its log holds"),
    (
        WrongApp.TAKES_THE_FIRST_OF_TWO,
        "an app takes two different session ids in one place for none, whichever of them is right",
        "expected 401 MALFORMED, got 200",
    ),
    (WrongApp.TAKES_IT_FROM_THE_QUERY, NONE_SENT, "expected 401 SESSION_MISSING, got 401"),
    (WrongApp.BELIEVES_EVERYBODY, "to an app the client IP is the peer's, whatever the request claims", "got 401"),
    (WrongApp.FORGETS_DEVICES, "an app's route may ask for a mode", "expected 401 DEVICE_MISMATCH, got 200"),
    (WrongApp.DIES, "an app's route may take a session or none", "did not answer"),
]


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


@contextmanager
def app_that_is(wrong: WrongApp, world: World, directory: Path) -> Iterator[AppPlayer]:
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:{port}"]
    # One that dies is not started anew within the case.
    command += ["--timeout", "600", "tests.support.broken_app:app"]
    environment = {"BROKEN_APP": wrong.value}
    with serving(command, sidecar=world.socket("sidecar"), log=directory / "log", environment=environment) as app:
        playing = AppPlayer(app, world)
        playing.warm_up()
        yield playing


@pytest.mark.parametrize(
    ("wrong", "name", "said"),
    FOUND_IN_APPS,
    ids=[f"{wrong}-{number}" for number, (wrong, *_) in enumerate(FOUND_IN_APPS)],
)
def test_a_middleware_that_is_wrong_is_found_out(
    mended: World, tmp_path: Path, wrong: WrongApp, name: str, said: str
) -> None:
    with app_that_is(wrong, mended, tmp_path) as playing:
        assert said in (playing.play(CASES[name]) or playing.logged_secrets())


def test_the_same_cases_find_nothing_wrong_with_a_middleware_that_is_right(world: World, tmp_path: Path) -> None:
    with app_that_is(WrongApp.NOTHING, world, tmp_path) as playing:
        problems = {name: playing.play(CASES[name]) for name in sorted({name for _, name, _ in FOUND_IN_APPS})}
        problems["the log"] = playing.logged_secrets()
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_every_way_for_a_middleware_to_be_wrong_is_tried() -> None:
    assert {wrong for wrong, *_ in FOUND_IN_APPS} == set(WrongApp) - {WrongApp.NOTHING}
    assert {wrong for wrong, *_ in FOUND} == set(Wrong) - {Wrong.NOTHING, Wrong.ALMOST_TOO_LATE}
