"""Flowless is updated under an app that never stops calling, as Kubernetes does it: old and new side by side."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.kubelet import grpc_probe, terminate, until
from tests.support.kubernetes_service import Service
from tests.support.load import Load
from tests.support.previous import is_there, previous_code
from tests.support.system import App
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, SidecarProcess, free_port

pytestmark = pytest.mark.long

SETTINGS: Mapping[str, str] = {
    **TESTING,
    "FLOWLESS_LAME_DUCK_SECONDS": "1",
    "FLOWLESS_ATTEMPTS_PER_IP_PER_MINUTE": "1000000",
    "FLOWLESS_ATTEMPTS_PER_BRIDGE_PER_MINUTE": "10000000",
}
EMAIL = "ada@example.org"
PROPAGATION_SECONDS = 0.3
"""A pod that ends leaves its Service a moment later than it is told to end."""


class Pod:
    """A replica of Flowless with an address of its own."""

    def __init__(self, directory: Path, number: int, database_url: str, environment: Mapping[str, str]) -> None:
        host = f"127.0.0.{number}"
        self.health = f"{host}:{free_port()}"
        self.address = f"{host}:{free_port()}"
        self.process = FlowlessProcess(
            directory=directory,
            name=f"flowless-{number}",
            listen=self.address,
            database_url=database_url,
            environment={**SETTINGS, **environment, "FLOWLESS_HEALTH_LISTEN": self.health},
        )

    def ready(self) -> bool:
        return grpc_probe(self.health, "readiness")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two old pods that serve, two new ones to come, and sidecars that find them in different ways."""

    old: Sequence[Pod]
    new: Sequence[Pod]
    service: Service
    sidecars: Sequence[SidecarProcess]
    apps: Sequence[App]
    session_id: str
    user_id: str

    def replace(self, leaving: Sequence[Pod], coming: Sequence[Pod]) -> None:
        """Replace one pod after the other, none before its successor is ready (maxSurge 1, maxUnavailable 0)."""
        for old, new in zip(leaving, coming, strict=True):
            new.process.start()
            until(new.ready)
            self.service.add(new.address)
            removal = threading.Timer(PROPAGATION_SECONDS, self.service.remove, [old.address])
            removal.start()
            code = terminate(old.process, grace_seconds=60)
            removal.join()
            assert code == 0, "it drained within its grace period"


@pytest.fixture
def cluster(run_dir: Path) -> Iterator[Cluster]:
    code = previous_code() if is_there() else {}
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        postgres.execute("CREATE DATABASE flowless")
        url = postgres.url("flowless")
        old = [Pod(run_dir, number, url, code) for number in (11, 12)]
        new = [Pod(run_dir, number, url, {}) for number in (21, 22)]
        old[0].process.migrate()
        secret = old[0].process.create_bridge("sidecar").secret
        for pod in (*old, *new):
            stack.callback(pod.process.stop)
        for pod in old:
            pod.process.start()
        service = stack.enter_context(Service(*(pod.address for pod in old)))
        everybody = ",".join(pod.address for pod in (*old, *new))  # as a headless Service resolves in the end
        sidecars = [
            stack.enter_context(
                SidecarProcess(
                    directory=run_dir,
                    name=f"sidecar-{number}",
                    upstream=upstream,
                    secret=secret,
                    # Of a machine that runs other tests beside this one.
                    max_staleness_seconds=5.0,
                    environment={"BRIDGE_SIDECAR_UPSTREAM_TIMEOUT_SECONDS": "4"},
                )
            )
            for number, upstream in enumerate((everybody, service.address))
        ]
        apps = [App(stack.enter_context(grpc.insecure_channel(sidecar.address))) for sidecar in sidecars]
        for app in apps:
            app.wait_for_lease()
        user = apps[0].register(EMAIL)
        session_id = apps[0].log_in(EMAIL).session_id
        yield Cluster(old, new, service, sidecars, apps, session_id, user.id)


@pytest.mark.timeout(400)
def test_an_update_and_a_rollback_fail_no_call(cluster: Cluster) -> None:
    with ExitStack() as stack:
        loads = [
            stack.enter_context(
                Load(app.channel, session_id=cluster.session_id, user_id=cluster.user_id, email=EMAIL)
            )
            for app in cluster.apps
        ]

        def all_go_on() -> None:
            for load in loads:
                load.goes_on()

        all_go_on()
        cluster.new[0].process.migrate()  # under the old pods, before any new one starts
        cluster.replace(cluster.old, cluster.new)
        all_go_on()
        # Nothing is migrated back: the version before serves on the schema that this one left, and says so.
        cluster.old[0].process.migrate()
        cluster.replace(cluster.new[:1], cluster.old[:1])
        all_go_on()
    assert [load.failures for load in loads] == [{}, {}]
    for app in cluster.apps:
        app.wait_for_lease()
