"""A pod with a native sidecar, and Flowless beside it, as the kubelet starts, probes and ends them."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.kubelet import MountedDirectory, grpc_probe, healthcheck, terminate, until
from tests.support.load import Load
from tests.support.system import BRIDGE, App, prepared_flowless
from tools.processes import FlowlessProcess, SidecarProcess, free_port

pytestmark = pytest.mark.long

GRACE_SECONDS = 30.0
EMAIL = "ada@example.org"
RULES = '[[routes]]\nname = "all"\nmatch = ["* /**"]\n'


@dataclass(frozen=True, slots=True)
class Pod:
    """An app's pod: its volumes, its sidecar, and where the kubelet probes."""

    sidecar: SidecarProcess
    secret: MountedDirectory
    config: MountedDirectory
    health: str

    def started(self) -> bool:
        """The startup probe, an exec one, that gates the app."""
        return healthcheck(self.sidecar.socket)

    def ready(self) -> bool:
        return grpc_probe(self.health, "readiness")

    def alive(self) -> bool:
        return grpc_probe(self.health, "liveness")


@pytest.fixture
def flowless(run_dir: Path) -> Iterator[tuple[FlowlessProcess, str]]:
    address = f"127.0.0.1:{free_port()}"  # one that starts again is found where it was
    with prepared_flowless(run_dir, listen=address, environment={"FLOWLESS_LAME_DUCK_SECONDS": "0"}) as prepared:
        yield prepared


@pytest.fixture
def pod(run_dir: Path, flowless: tuple[FlowlessProcess, str]) -> Iterator[Pod]:
    process, bridge_secret = flowless
    secret = MountedDirectory(run_dir / "secret", {"bridge-secret": bridge_secret})
    config = MountedDirectory(run_dir / "config", {"bridge-sidecar.toml": RULES})
    health = f"127.0.0.1:{free_port()}"
    sidecar = SidecarProcess(
        directory=run_dir,
        upstream=process.address,
        secret=bridge_secret,
        environment={
            "BRIDGE_SIDECAR_BRIDGE_SECRET_FILE": str(secret.file("bridge-secret")),
            "BRIDGE_SIDECAR_CONFIG": str(config.file("bridge-sidecar.toml")),
            "BRIDGE_SIDECAR_HEALTH_LISTEN": health,
            "HOME": "/nonexistent",
        },
    )
    try:
        yield Pod(sidecar, secret, config, health)
    finally:
        sidecar.stop()


def test_an_app_starts_after_the_first_lease_and_its_sidecar_ends_after_it(
    pod: Pod, flowless: tuple[FlowlessProcess, str]
) -> None:
    process, _ = flowless
    process.stop()
    pod.sidecar.start()
    # Alive while Flowless is away, so that nobody restarts it; but no app begins behind it.
    until(pod.alive)
    assert not pod.started()
    assert not pod.ready()
    process.start()
    until(pod.started)
    assert pod.ready()
    with grpc.insecure_channel(pod.sidecar.address) as channel:
        app = App(channel)
        user = app.register(EMAIL)
        session_id = app.log_in(EMAIL).session_id
        # The app is told to end first, and goes on validating until it has; then the sidecar is.
        with Load(channel, session_id=session_id, user_id=user.id) as load:
            load.goes_on()
        assert load.failures == {}
        assert pod.ready()
    assert terminate(pod.sidecar, grace_seconds=GRACE_SECONDS) == 0
    assert not pod.sidecar.socket.exists()


def test_a_readiness_that_was_reached_outlives_flowless_and_ends_with_the_pod(
    pod: Pod, flowless: tuple[FlowlessProcess, str]
) -> None:
    process, _ = flowless
    pod.sidecar.start()
    until(pod.ready)
    process.stop()
    with grpc.insecure_channel(pod.sidecar.address) as channel:
        app = App(channel)
        until(lambda: app.status().lease_held, healthy=False)
    assert pod.ready()
    assert pod.started()
    assert pod.alive()
    assert terminate(pod.sidecar, grace_seconds=GRACE_SECONDS) == 0
    assert not pod.alive()


def test_secret_and_rules_that_the_kubelet_swaps_are_taken_over(
    pod: Pod, flowless: tuple[FlowlessProcess, str]
) -> None:
    process, _ = flowless
    pod.sidecar.start()
    until(pod.ready)
    with grpc.insecure_channel(pod.sidecar.address) as channel:
        app = App(channel)
        user = app.register(EMAIL)
        with Load(channel, session_id=app.log_in(EMAIL).session_id, user_id=user.id) as load:
            rotated = json.loads(process.run_command("bridges", "rotate", BRIDGE, "--overlap", "1h", "--json"))
            pod.secret.update({"bridge-secret": rotated["secret"]})
            pod.config.update({"bridge-sidecar.toml": RULES + '[[routes]]\nname = "more"\nmatch = ["GET /more"]\n'})
            load.until(lambda: "bridge secret read again" in pod.sidecar.log.read_text())
            load.until(lambda: app.status().rules == 2)
            load.goes_on()
    assert load.failures == {}


def test_a_container_that_does_not_end_is_killed_and_the_next_one_takes_its_socket(pod: Pod) -> None:
    pod.sidecar.start()
    until(pod.ready)
    pod.sidecar.signal(signal.SIGSTOP)
    assert terminate(pod.sidecar, grace_seconds=0.2) is None
    assert pod.sidecar.socket.exists(), "nobody tidied up"
    pod.sidecar.start()
    until(pod.started)


def test_an_ordinary_container_serves_an_app_that_is_told_to_end_at_the_same_moment(
    run_dir: Path, flowless: tuple[FlowlessProcess, str]
) -> None:
    process, secret = flowless
    environment = {"BRIDGE_SIDECAR_LAME_DUCK_SECONDS": "3"}
    sidecar = SidecarProcess(directory=run_dir, upstream=process.address, secret=secret, environment=environment)
    with sidecar, grpc.insecure_channel(sidecar.address) as channel:
        app = App(channel)
        app.wait_for_lease()
        user = app.register(EMAIL)
        session_id = app.log_in(EMAIL).session_id
        until(lambda: healthcheck(sidecar.socket))
        with Load(channel, session_id=session_id, user_id=user.id) as load:
            sidecar.signal(signal.SIGTERM)
            until(lambda: healthcheck(sidecar.socket), healthy=False)
            load.goes_on()
        assert load.failures == {}
        assert sidecar.wait(GRACE_SECONDS) == 0


UNSHARE = shutil.which("unshare") or ""


def _can_mount() -> bool:
    return bool(UNSHARE) and subprocess.run([UNSHARE, "--mount", "true"], check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="may not mount")
def test_a_sidecar_writes_to_no_file_system_but_the_sockets(
    run_dir: Path, flowless: tuple[FlowlessProcess, str]
) -> None:
    process, secret = flowless
    volume = run_dir / "sidecar"
    volume.mkdir(mode=0o700)
    read_only = (
        f"mount --bind {volume} {volume} && mount -o remount,ro,bind / && "
        f'! touch {run_dir}/probe 2>/dev/null && exec "$@"'
    )
    sidecar = SidecarProcess(
        directory=run_dir,
        upstream=process.address,
        secret=secret,
        python=(UNSHARE, "--mount", "--propagation", "private", "sh", "-c", read_only, "sh", sys.executable),
    )
    with sidecar:
        until(lambda: healthcheck(sidecar.socket))
        with grpc.insecure_channel(sidecar.address) as channel:
            assert App(channel).register(EMAIL).id
        assert sorted(path.name for path in volume.iterdir()) == ["bridge.sock", "bridge.sock.lock"]
        assert terminate(sidecar, grace_seconds=GRACE_SECONDS) == 0
