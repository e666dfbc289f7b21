"""After a backup was restored no session comes back to life: not in Flowless, not in a sidecar, not out of Redis."""

import base64
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.replicas import SETTINGS, outcome
from tests.support.system import App
from tools.postgres_server import PostgresServer
from tools.processes import FlowlessProcess, SidecarProcess, free_port
from tools.redis_server import RedisServer

pytestmark = pytest.mark.long

DATABASE = "flowless"
ENOUGH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    postgres: PostgresServer
    flowless: FlowlessProcess
    app: App


@pytest.fixture
def running(run_dir: Path) -> Iterator[Running]:
    with PostgresServer() as postgres, RedisServer() as redis:
        postgres.execute(f"CREATE DATABASE {DATABASE}")
        key_file = run_dir / "redis.key"
        key_file.write_text(base64.b64encode(os.urandom(32)).decode())
        flowless = FlowlessProcess(
            directory=run_dir,
            listen=f"127.0.0.1:{free_port()}",
            database_url=postgres.url(DATABASE),
            environment={
                **SETTINGS,
                "FLOWLESS_REDIS_URL": redis.url,
                "FLOWLESS_REDIS_KEY_FILE": str(key_file),
            },
        )
        with flowless:
            secret = flowless.create_bridge("sidecar").secret
            sidecar = SidecarProcess(directory=run_dir, upstream=flowless.address, secret=secret)
            with sidecar, grpc.insecure_channel(sidecar.address) as channel:
                app = App(channel)
                app.wait_for_lease()
                yield Running(postgres, flowless, app)


def test_after_a_restore_and_its_command_no_session_of_the_backup_is_valid(running: Running, run_dir: Path) -> None:
    app, postgres, flowless = running.app, running.postgres, running.flowless
    app.register("ada@example.org")
    revoked, live = app.log_in("ada@example.org"), app.log_in("ada@example.org")
    for login in (revoked, live):
        assert outcome(app, login.session_id) == "ACTIVE"
    postgres.dump(DATABASE, run_dir / "backup")
    flowless.run_command("sessions", "revoke", revoked.session.handle)
    later = app.log_in("ada@example.org")

    flowless.stop()
    postgres.restore(DATABASE, run_dir / "backup")
    said = json.loads(flowless.run_command("after-restore", "--yes", "--json"))
    assert said["users_whose_sessions_ended"] == 1
    flowless.start()

    deadline = time.monotonic() + ENOUGH_SECONDS
    while outcome(app, live.session_id) != "REVOKED":
        assert time.monotonic() < deadline, outcome(app, live.session_id)
    assert [outcome(app, login.session_id) for login in (revoked, later)] == ["REVOKED", "UNKNOWN"]
    assert outcome(app, app.log_in("ada@example.org").session_id) == "ACTIVE"


def test_a_restore_without_the_command_is_noticed_when_a_sidecar_knows_better(
    running: Running, run_dir: Path
) -> None:
    app, postgres, flowless = running.app, running.postgres, running.flowless
    app.register("ada@example.org")
    login = app.log_in("ada@example.org")
    postgres.dump(DATABASE, run_dir / "backup")
    flowless.run_command("sessions", "revoke", login.session.handle)
    deadline = time.monotonic() + ENOUGH_SECONDS
    while app.status().applied_revision < 1:
        assert time.monotonic() < deadline
    flowless.stop()
    postgres.restore(DATABASE, run_dir / "backup")
    flowless.start()
    while "was the database restored from a backup?" not in flowless.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
