"""What Flowless tells the kubelet on its health port, while what it stands on comes and goes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.flowless import Client, code_of, failure_of, outcome
from tests.support.kubelet import grpc_probe, until
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, ProcessError, free_port

pytestmark = pytest.mark.long

SETTINGS = {
    **TESTING,
    "FLOWLESS_BUSY_TIMEOUT_SECONDS": "1",
    "FLOWLESS_LAME_DUCK_SECONDS": "3",
    "FLOWLESS_DRAIN_SECONDS": "30",
}


class Probed:
    """A Flowless with a health port, over PostgreSQL."""

    def __init__(self, process: FlowlessProcess, postgres: PostgresServer, health: str) -> None:
        self.process = process
        self.postgres = postgres
        self.health = health

    def ready(self) -> bool:
        return grpc_probe(self.health, "readiness")

    def alive(self) -> bool:
        return grpc_probe(self.health, "liveness")

    def told(self, what: str) -> int:
        return self.process.log.read_text().count(what)


@pytest.fixture(scope="module")
def probed(module_dir: Path) -> Iterator[Probed]:
    health = f"127.0.0.1:{free_port()}"
    with PostgresServer() as postgres:
        postgres.execute("CREATE DATABASE flowless")
        process = FlowlessProcess(
            directory=module_dir,
            database_url=postgres.url("flowless"),
            environment={**SETTINGS, "FLOWLESS_HEALTH_LISTEN": health},
        )
        with process:
            yield Probed(process, postgres, health)


def test_a_replica_that_serves_is_alive_and_ready_and_says_so_under_each_name(probed: Probed) -> None:
    until(probed.ready)
    assert grpc_probe(probed.health, "")
    assert probed.alive()


def test_the_health_port_serves_nothing_else(probed: Probed) -> None:
    with grpc.insecure_channel(probed.health) as channel:
        health: Any = HealthStub(channel)
        unknown = failure_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="trustlayer.v1"), timeout=20))
        assert code_of(unknown) == "NOT_FOUND"
        listing: Any = channel.unary_unary("/trustlayer.v1.SessionService/ListSessions")
        assert outcome(lambda: listing(b"", timeout=20)) == ("UNIMPLEMENTED", "")


def test_a_database_that_is_away_makes_a_replica_unready_and_leaves_it_alive(probed: Probed) -> None:
    until(probed.ready)
    probed.postgres.stop()
    until(probed.ready, healthy=False)
    assert probed.alive()
    probed.postgres.start()
    until(probed.ready)


def test_a_database_that_hangs_makes_a_replica_unready_and_leaves_it_alive(probed: Probed) -> None:
    until(probed.ready)
    probed.postgres.pause()
    try:
        until(probed.ready, healthy=False)
        assert probed.alive()
    finally:
        probed.postgres.resume()
    until(probed.ready)


def test_a_schema_that_this_flowless_cannot_serve_on_makes_a_replica_unready_until_it_can_again(
    probed: Probed,
) -> None:
    until(probed.ready)
    (version,) = json.loads(probed.process.run_command("migrate", "--json"))["after"].split()

    def is_now(name: str) -> None:
        probed.postgres.execute(f"UPDATE alembic_version SET version_num = '{name}'", "flowless")

    is_now("9999_9998")
    try:
        until(probed.ready, healthy=False)
        assert probed.alive()
        assert probed.told("not ready: the schema was changed") == 1
        is_now(f"9999_{version[:4]}")
        until(probed.ready)
    finally:
        is_now(version)


def test_a_replica_that_drains_is_unready_and_alive_and_still_answers(run_dir: Path) -> None:
    health = f"127.0.0.1:{free_port()}"
    environment = {**SETTINGS, "FLOWLESS_HEALTH_LISTEN": health}
    with FlowlessProcess(directory=run_dir, environment=environment) as process:
        secret = process.create_bridge("b").secret
        with grpc.insecure_channel(process.address) as channel:
            client = Client(channel, secret)
            user = client.register()
            until(lambda: grpc_probe(health, "readiness"))
            process.signal(signal.SIGTERM)
            until(lambda: grpc_probe(health, "readiness"), healthy=False)
            assert grpc_probe(health, "liveness")
            assert client.log_in(user).session_id
        assert process.wait(30) == 0


def test_a_port_that_is_taken_ends_the_start_with_its_name(run_dir: Path) -> None:
    with FlowlessProcess(directory=run_dir, environment=TESTING) as process:
        other = FlowlessProcess(
            directory=run_dir, name="other", environment={**TESTING, "FLOWLESS_HEALTH_LISTEN": process.address}
        )
        with pytest.raises(ProcessError, match=f"cannot listen on {process.address}"):
            other.start()


def test_workers_take_no_health_port(run_dir: Path) -> None:
    process = FlowlessProcess(directory=run_dir, environment={**TESTING, "FLOWLESS_HEALTH_LISTEN": "127.0.0.1:7680"})
    with pytest.raises(ProcessError, match="run more replicas"):
        process.run_command("serve", "--workers", "2")


def test_a_second_sigterm_ends_it_at_once_and_a_hangup_drains_it(run_dir: Path) -> None:
    environment = {**TESTING, "FLOWLESS_LAME_DUCK_SECONDS": "60"}
    with FlowlessProcess(directory=run_dir, environment=environment) as process:
        process.signal(signal.SIGHUP)
        until(lambda: '"draining"' in process.log.read_text())
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_a_second_sigterm_ends_all_workers_at_once(run_dir: Path) -> None:
    environment = {**TESTING, "FLOWLESS_LAME_DUCK_SECONDS": "60"}
    with FlowlessProcess(directory=run_dir, arguments=("--workers", "2"), environment=environment) as process:
        process.signal(signal.SIGTERM)
        until(lambda: process.log.read_text().count('"draining"') == 2)
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 1
        assert "workers killed that did not drain" in process.log.read_text()
