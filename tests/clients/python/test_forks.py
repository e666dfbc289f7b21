"""No channel from before a fork is used after it: real pre-fork servers, plain forks and pools of processes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clients.conformance.app import running
from tests.clients.python.conftest import LoggedIn
from tests.support.http_client import exchange
from tools.processes import ROOT

pytestmark = pytest.mark.long

WORKERS = 3
MODULE = "tests.clients.python.apps.preloaded"


def _environment(socket: str, ada: LoggedIn, client_ip: str) -> Mapping[str, str]:
    return {"APP_SIDECAR_SOCKET": socket, "APP_SESSION_ID": ada.session_id, "APP_CLIENT_IP": client_ip}


def _ask_until_every_worker_answered(address: str) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for _ in range(400):
        answer = exchange(address, "GET", "/")
        assert answer.status == 200, answer
        answers.append(answer.json)
        if len({said["pid"] for said in answers}) == WORKERS:
            return answers
    raise AssertionError(f"not all workers answered: {answers[-1]}")


@pytest.mark.parametrize(
    ("kind", "app"), [("sync", "app"), ("gthread", "app"), ("asgi", "asgi_app")], ids=["sync", "threads", "asyncio"]
)
def test_gunicorns_workers_ask_by_channels_of_their_own(
    kind: str, app: str, run_dir: Path, socket: str, ada: LoggedIn, client_ip: str
) -> None:
    address = str(run_dir / "app.sock")
    command = [
        *(sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--worker-class", kind),
        *("--no-control-socket", "--worker-tmp-dir", str(run_dir), "--bind", f"unix:{address}", f"{MODULE}:{app}"),
    ]
    environment = _environment(socket, ada, client_ip)
    with running(command, address=address, log=run_dir / "server.log", environment=environment):
        answers = _ask_until_every_worker_answered(address)
    _check(answers, ada)


def test_uwsgis_workers_ask_by_channels_of_their_own(
    run_dir: Path, socket: str, ada: LoggedIn, client_ip: str
) -> None:
    address = str(run_dir / "app.sock")
    command = [
        *(
            str(Path(sys.executable).parent / "uwsgi"),
            "--master",
            "--die-on-term",
            "--no-orphans",
            "--enable-threads",
        ),
        *("--processes", str(WORKERS), "--http-socket", address, "--module", f"{MODULE}:app"),
        *("--pythonpath", str(ROOT), "--virtualenv", sys.prefix),
    ]
    environment = _environment(socket, ada, client_ip)
    with running(command, address=address, log=run_dir / "server.log", environment=environment):
        answers = _ask_until_every_worker_answered(address)
    _check(answers, ada)


def _check(answers: list[dict[str, Any]], ada: LoggedIn) -> None:
    pids = {said["pid"] for said in answers}
    (loaded_by,) = {said["loaded_by"] for said in answers}
    assert loaded_by not in pids, "the server did not preload: nothing was shown"
    assert {said["asyncio"] for said in answers} == {ada.email}
    assert {said.get("sync", ada.email) for said in answers} == {ada.email}


@pytest.fixture(scope="module")
def forked(socket: str, ada: LoggedIn, client_ip: str) -> dict[str, Any]:
    """What `apps/forking.py` said."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.clients.python.apps.forking"],
        input=json.dumps({"socket": socket, "session_id": ada.session_id, "client_ip": client_ip}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        said.update(json.loads(line))
    return said


@pytest.mark.parametrize(
    "where", ["parent before", "child", "child of a child", "asyncio before", "asyncio in a child", "parent after"]
)
def test_both_clients_work_on_either_side_of_a_fork(forked: dict[str, Any], where: str, ada: LoggedIn) -> None:
    assert forked[where] == ada.email


def test_a_child_opens_a_channel_of_its_own_and_leaves_its_parents_alone(forked: dict[str, Any]) -> None:
    assert (forked["child has its own"], forked["parent keeps its own"]) == ("True", True)


def test_pools_of_forked_processes_can_ask(forked: dict[str, Any], ada: LoggedIn) -> None:
    assert (forked["pool"], forked["pool is others"], forked["executor"]) == ([ada.email], True, [ada.email])


def test_one_asyncio_client_serves_any_number_of_loops_and_keeps_no_channel_of_an_ended_one(
    forked: dict[str, Any], ada: LoggedIn
) -> None:
    assert forked["loops one after the other"] == [ada.email] * 3
    assert forked["loops at the same time"] == [ada.email] * 3
    assert forked["channels that are kept"] <= 3


def test_a_child_of_a_process_whose_asyncio_client_is_open_is_told_so_at_once_instead_of_hanging(
    forked: dict[str, Any], ada: LoggedIn
) -> None:
    in_child, in_parent = forked["fork too late"]
    assert in_child.startswith("RuntimeError: this process was forked while its parent had an asyncio client open")
    assert in_parent == ada.email
