"""A replica that is told to end while its database is silent ends within the grace period all the same."""

from pathlib import Path

import pytest

from tests.support.kubelet import grpc_probe, terminate, until
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, free_port

pytestmark = pytest.mark.long

LAME_DUCK, DRAIN, MARGIN = 1, 1, 10
"""`MARGIN` is what the chart (`flowless.graceSeconds`) adds for the process itself."""


def test_a_replica_ends_in_time_though_the_database_has_fallen_silent(module_dir: Path) -> None:
    health = f"127.0.0.1:{free_port()}"
    with PostgresServer() as postgres:
        postgres.execute("CREATE DATABASE flowless")
        process = FlowlessProcess(
            directory=module_dir,
            database_url=postgres.url("flowless"),
            environment={
                **TESTING,
                "FLOWLESS_LAME_DUCK_SECONDS": str(LAME_DUCK),
                "FLOWLESS_DRAIN_SECONDS": str(DRAIN),
                "FLOWLESS_HEALTH_LISTEN": health,
            },
        )
        with process:
            until(lambda: grpc_probe(health, "readiness"))
            postgres.pause()
            until(lambda: grpc_probe(health, "readiness"), healthy=False, seconds=60)
            code = terminate(process, grace_seconds=LAME_DUCK + DRAIN + MARGIN)
            postgres.resume()
            assert code == 0
            assert "stopped without tidying up" in process.log.read_text()
