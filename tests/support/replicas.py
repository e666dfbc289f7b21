"""Several Flowless replicas over one PostgreSQL and one Redis, and sidecars that know all of them: real processes."""

import base64
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from tests.support.rpc import reason
from tests.support.system import App
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, SidecarProcess, free_port
from tools.redis_server import RedisServer
from trustlayer.v1 import types_pb2

STALENESS_SECONDS: Final = 3.0
UPSTREAM_TIMEOUT_SECONDS: Final = 2.0
"""Longer than by default: other tests run on this machine, and a slow call is not what is looked for here."""
SETTINGS: Final[Mapping[str, str]] = {**TESTING, "FLOWLESS_LAME_DUCK_SECONDS": "0.3"}


def outcome(app: App, session_id: str) -> str:
    """ACTIVE, a denial's name, or an error's code and reason."""
    try:
        answer = app.validate(session_id)
    except grpc.RpcError as error:
        return f"{error.code().name}: {reason(error)}"
    if answer.HasField("session"):
        return "ACTIVE"
    return types_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_")


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation under load: when it started and ended, on which sidecar, of which session, and what it was."""

    started: float
    app: int
    session_id: str
    outcome: str
    ended: float


@dataclass(slots=True)
class Load:
    """Validations without a pause: a thread for each app, going round the sessions."""

    apps: Sequence[App]
    session_ids: Sequence[str]
    seen: list[Validation] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def _drive(self, number: int) -> None:
        while not self._ended.is_set():
            for session_id in self.session_ids:
                started = time.monotonic()
                answer = outcome(self.apps[number], session_id)
                self.seen.append(Validation(started, number, session_id, answer, time.monotonic()))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Load during the block."""
        threads = [threading.Thread(target=self._drive, args=(number,)) for number in range(len(self.apps))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def other_than_active(self) -> list[Validation]:
        """What was not a yes."""
        return [validation for validation in self.seen if validation.outcome != "ACTIVE"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs. The last sidecar has room for two sessions only, so nearly all of its validations are misses."""

    postgres: PostgresServer
    replicas: Sequence[FlowlessProcess]
    redis: RedisServer
    sidecars: Sequence[SidecarProcess]
    apps: Sequence[App]
    secret: str


@contextmanager
def deployment(directory: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Deployment]:
    """Start PostgreSQL, Redis, two replicas and three sidecars. `environment` is for the replicas."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        postgres.execute("CREATE DATABASE flowless")
        redis = stack.enter_context(RedisServer())
        key_file = directory / "redis.key"
        key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
        settings = {
            **SETTINGS,
            "FLOWLESS_REDIS_URL": redis.url,
            "FLOWLESS_REDIS_KEY_FILE": str(key_file),
            "FLOWLESS_REDIS_TIMEOUT_SECONDS": "0.05",  # of a machine that runs other tests beside this one
            **(environment or {}),
        }
        ports = [free_port(), free_port()]  # a replica that restarts keeps its own
        replicas = [
            FlowlessProcess(
                directory=directory,
                name=f"flowless-{number}",
                listen=f"127.0.0.1:{port}",
                database_url=postgres.url("flowless"),
                environment=settings,
            )
            for number, port in enumerate(ports)
        ]
        migrating = [threading.Thread(target=replica.migrate) for replica in replicas]
        for thread in migrating:
            thread.start()
        for thread in migrating:
            thread.join()
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start()
        secret = replicas[0].create_bridge("sidecar").secret
        addresses = [replica.address for replica in replicas]
        sidecars = [
            stack.enter_context(
                SidecarProcess(
                    directory=directory,
                    name=f"sidecar-{number}",
                    upstream=",".join(addresses[number % 2 :] + addresses[: number % 2]),
                    secret=secret,
                    max_staleness_seconds=STALENESS_SECONDS,
                    environment={
                        "BRIDGE_SIDECAR_CACHE_MAX_ENTRIES": entries,
                        "BRIDGE_SIDECAR_UPSTREAM_TIMEOUT_SECONDS": f"{UPSTREAM_TIMEOUT_SECONDS:g}",
                    },
                )
            )
            for number, entries in enumerate(("1000", "1000", "2"))
        ]
        channels = [stack.enter_context(grpc.insecure_channel(sidecar.address)) for sidecar in sidecars]
        apps = [App(channel) for channel in channels]
        for app in apps:
            app.wait_for_lease()
        yield Deployment(
            postgres=postgres, redis=redis, replicas=replicas, sidecars=sidecars, apps=apps, secret=secret
        )
