"""Logins while the processes that hash are killed, hang, or are told to stop; and what they leave behind."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.support.flowless import PASSWORD, Flowless, outcome, running_flowless
from tests.support.processes import children, is_alive
from tests.support.rpc import detail
from trustlayer.v1 import types_pb2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ENOUGH = 20.0


@pytest.fixture
def flowless(run_dir: Path) -> Iterator[Flowless]:
    """A Flowless with one hashing worker, which has started, and one place to wait for it."""
    # As many workers as cores, and this Flowless has one.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with running_flowless(run_dir, hashing_queue="1") as started:
            os.sched_setaffinity(0, cores)
            yield started
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture
def user(flowless: Flowless) -> types_pb2.User:
    return flowless.client.register()


def _worker(flowless: Flowless) -> int:
    (pid,) = children(flowless.process.pid)
    return pid


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _held_logins(flowless: Flowless, user: types_pb2.User) -> Iterator[list[Future[tuple[str, str]]]]:
    """Stop the worker in the middle of a login, and have another wait behind it."""
    os.kill(_worker(flowless), signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        logins = [threads.submit(outcome, lambda: flowless.client.log_in(user)) for _ in range(3)]
        # Once the third is refused, the others are where they should be.
        _until(lambda: any(login.done() for login in logins))
        (refused,) = [login for login in logins if login.done()]
        assert refused.result() == ("RESOURCE_EXHAUSTED", "HASHING_OVERLOADED")
        yield [login for login in logins if login is not refused]


def test_a_login_whose_worker_is_killed_is_finished_by_another(flowless: Flowless, user: types_pb2.User) -> None:
    killed = _worker(flowless)
    with _held_logins(flowless, user) as logins:
        os.kill(killed, signal.SIGKILL)
        assert [login.result(ENOUGH) for login in logins] == [("OK", "")] * 2
    assert _worker(flowless) != killed
    assert not Path(f"/proc/{killed}").exists()
    assert flowless.log_text.count('"hashing worker ended"') == 1


def test_a_flood_of_logins_is_refused_at_once_with_a_time_to_retry_and_validations_go_on(
    flowless: Flowless, user: types_pb2.User
) -> None:
    session_id = flowless.client.log_in(user).session_id
    with _held_logins(flowless, user) as logins:
        # The worker does nothing: whatever is answered now is answered without it.
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as caught:
                flowless.client.log_in(user)
            retry = detail(caught.value, error_details_pb2.RetryInfo)
            assert retry is not None
            assert retry.retry_delay.seconds == 1
            assert flowless.client.denial(session_id) == ""
        os.kill(_worker(flowless), signal.SIGCONT)
        assert [login.result(ENOUGH) for login in logins] == [("OK", "")] * 2


def test_a_server_that_is_killed_leaves_no_worker(flowless: Flowless, user: types_pb2.User) -> None:
    worker = _worker(flowless)
    flowless.process.kill()
    _until(lambda: not is_alive(worker))


def test_a_stop_that_reaches_the_workers_too_lets_a_login_end(flowless: Flowless, user: types_pb2.User) -> None:
    worker = _worker(flowless)
    with _held_logins(flowless, user) as logins:
        # As a terminal and a service manager do it.
        os.killpg(os.getpgid(flowless.process.pid), signal.SIGTERM)
        _until(lambda: '"draining"' in flowless.log_text)
        os.kill(worker, signal.SIGCONT)
        assert [login.result(ENOUGH) for login in logins] == [("OK", "")] * 2
    assert flowless.process.wait(ENOUGH) == 0
    assert not is_alive(worker)
    assert '"hashing worker ended"' not in flowless.log_text


def test_no_password_stands_in_a_command_line_or_an_environment(flowless: Flowless, user: types_pb2.User) -> None:
    flowless.client.log_in(user)
    server = flowless.process.pid
    for pid in (server, _worker(flowless)):
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert told
        assert PASSWORD.encode() not in told
    assert b"FLOWLESS" not in Path(f"/proc/{_worker(flowless)}/environ").read_bytes()
    assert PASSWORD not in flowless.log_text
