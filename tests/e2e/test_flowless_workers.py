"""Several workers on one port, as real processes over one SQLite file."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.flowless import Client
from tests.support.processes import children, is_alive
from tools.processes import ROOT, TESTING, FlowlessProcess
from trustlayer.v1 import types_pb2

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
ALL_SCOPES = ("validate", "identity", "sessions", "admin")


def _until(what: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _pids_serving(port: int, pids: frozenset[int]) -> set[int]:
    """Those of the processes that have a client's connection to the port."""
    # gRPC listens with IPv6 sockets for IPv4 too.
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return {
        pid
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if str(link.readlink()).removeprefix("socket:[").rstrip("]") in inodes
    }


@contextmanager
def _channels(address: str, count: int) -> Iterator[list[grpc.Channel]]:
    """Channels with a connection each."""
    channels = [grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)]
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(10)
        yield channels
    finally:
        for channel in channels:
            channel.close()


def _process(directory: Path, **options: str) -> FlowlessProcess:
    # Two processes write one file: on a busy machine one may wait long for the other's turn.
    environment = {**TESTING, "FLOWLESS_BUSY_TIMEOUT_SECONDS": "30"}
    return FlowlessProcess(directory=directory, arguments=("--workers", "2"), environment=environment, **options)  # type: ignore[arg-type]


def _serve(directory: Path, *arguments: str, listen: str) -> "subprocess.CompletedProcess[str]":
    url = f"sqlite:///{directory / 'flowless.db'}"
    environment = {**os.environ, **TESTING, "FLOWLESS_DATABASE_URL": url, "FLOWLESS_LISTEN": listen}
    command = [sys.executable, "-m", "flowless", "serve", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_every_worker_serves_and_all_end_with_the_supervisor(run_dir: Path) -> None:
    with _process(run_dir) as flowless:
        workers = children(flowless.pid)
        port = int(flowless.address.rpartition(":")[2])
        assert len(workers) == 2
        with _channels(flowless.address, 24):
            assert _pids_serving(port, workers) == workers
        assert {'"worker": 1' in flowless.log.read_text(), '"worker": 2' in flowless.log.read_text()} == {True}
        assert flowless.stop() == 0
        assert not any(map(is_alive, workers))
        assert flowless.log.read_text().count('"stopped"') == 2


def test_a_killed_worker_comes_back_while_calls_go_on(run_dir: Path) -> None:
    with _process(run_dir) as flowless:
        secret = flowless.create_bridge("b", ALL_SCOPES).secret
        before = children(flowless.pid)
        os.kill(victim := min(before), signal.SIGKILL)
        with grpc.insecure_channel(flowless.address) as channel:
            grpc.channel_ready_future(channel).result(10)
            assert Client(channel, secret).new_session().session_id
        _until(lambda: len(children(flowless.pid) - {victim}) == 2)
        assert '"worker ended"' in flowless.log.read_text()


def test_workers_drain_when_their_supervisor_is_killed(run_dir: Path) -> None:
    with _process(run_dir) as flowless:
        workers = children(flowless.pid)
        flowless.kill()
        _until(lambda: not any(map(is_alive, workers)))


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_a_port_that_workers_share_is_refused_to_another_flowless(run_dir: Path, arguments: tuple[str, ...]) -> None:
    with _process(run_dir) as flowless:
        done = _serve(run_dir, *arguments, listen=flowless.address)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"cannot listen on {flowless.address}" in done.stderr


def test_workers_are_refused_a_port_where_somebody_listens(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert f"cannot listen on {address}" in _serve(run_dir, "--workers", "2", listen=address).stderr


def test_a_missing_schema_ends_all_and_is_said_once(run_dir: Path) -> None:
    done = _serve(run_dir, "--workers", "3", listen="127.0.0.1:0")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("run `flowless migrate`") == 1


def test_a_unix_socket_takes_no_workers(run_dir: Path) -> None:
    done = _serve(run_dir, "--workers", "2", listen=f"unix:{run_dir}/s/s.sock")
    assert done.returncode == 4
    assert "a Unix socket has one owner" in done.stderr


def test_workers_write_one_database_without_errors_and_hear_of_each_others_revokes(run_dir: Path) -> None:
    with _process(run_dir) as flowless:
        secret = flowless.create_bridge("b", ALL_SCOPES).secret
        with _channels(flowless.address, 8) as channels:
            clients = [Client(channel, secret) for channel in channels]
            log_id, start = clients[0].end()
            revisions: list[int] = []
            failures: list[BaseException] = []

            def work(client: Client, number: int) -> None:
                try:
                    user: types_pb2.User = client.register(f"w{number}@example.org")
                    for _ in range(5):
                        session = client.log_in(user)
                        assert client.denial(session.session_id) == ""
                        revisions.append(client.revoke(session.session.handle))
                        assert client.denial(session.session_id) != ""
                except Exception as error:  # noqa: BLE001 - shown by the test
                    failures.append(error)

            with clients[0].watch(log_id=log_id, last_revision=start) as watch:
                watch.ready()
                threads = [threading.Thread(target=work, args=(c, n)) for n, c in enumerate(clients)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert failures == []
                seen, _ = watch.ping(1)
            assert sorted(revisions) == list(range(start + 1, start + 41))
            assert [row.revision for row in seen] == sorted(revisions)
