"""The images' content does the main job as in a cluster: read-only, unprivileged, with volumes mounted as there."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.images.containers import FLOWLESS, SIDECAR, SOCKET_GROUP, Container, volume
from tests.support import databases
from tests.support.http_client import exchange
from tests.support.system import BROWSER, App
from tools.contained import Mount, command
from tools.processes import SIDECAR_SCOPES, TESTING, free_port, temporary_directory, write_signing_key
from trustlayer.v1 import session_pb2, types_pb2

APP_UID = 20_000
UNAVAILABLE = 3
LISTEN_BACK_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Pods:
    """Flowless, and a sidecar whose socket stands in a volume of its own."""

    flowless: Container
    sidecar: Container
    socket_volume: Path
    app: App
    metrics_ports: tuple[int, int]


@contextmanager
def _flowless(directory: Path, database_url: str) -> Iterator[tuple[Container, str, int]]:
    """Migrate and make a bridge as a cluster's jobs do, then serve; gives the bridge's secret too, and the port."""
    port = free_port()
    write_signing_key(directory / "signing-key")
    keys = volume(directory, "keys", mode=0o750, files={"signing-key": (directory / "signing-key").read_text()})
    container = Container(
        image=FLOWLESS,
        directory=directory,
        groups=(SOCKET_GROUP,),
        mounts=(
            Mount(keys, "/etc/flowless"),
            Mount(volume(directory, "data"), "/var/lib/flowless", writable=True),
        ),
        environment={
            **TESTING,
            "FLOWLESS_DATABASE_URL": database_url,
            "FLOWLESS_LISTEN": "127.0.0.1:0",
            "FLOWLESS_METRICS_LISTEN": f"127.0.0.1:{port}",
            "FLOWLESS_SIGNING_KEY_FILE": "/etc/flowless/signing-key",
        },
    )
    container.run_command("migrate")
    container.run_command("keys", "rotate")
    scopes = [word for scope in SIDECAR_SCOPES for word in ("--scope", scope)]
    created = json.loads(container.run_command("bridges", "create", "app", *scopes, "--json"))
    with container:
        yield container, created["secret"], port


@contextmanager
def _pods(directory: Path, database_url: str) -> Iterator[Pods]:
    with ExitStack() as stack:
        flowless, secret, flowless_metrics = stack.enter_context(_flowless(directory, database_url))
        port = free_port()
        socket_volume = volume(directory, "socket")
        secrets = volume(directory, "secret", mode=0o750, files={"bridge-secret": secret})
        config = volume(directory, "config", mode=0o755, files={"bridge-sidecar.toml": "routes_required = false\n"})
        sidecar = Container(
            image=SIDECAR,
            directory=directory,
            groups=(SOCKET_GROUP,),
            mounts=(
                Mount(secrets, "/etc/bridge-sidecar/secret"),
                Mount(config, "/etc/bridge-sidecar/config"),
                Mount(socket_volume, "/run/bridge-sidecar", writable=True),
            ),
            environment={
                "BRIDGE_SIDECAR_CONFIG": "/etc/bridge-sidecar/config/bridge-sidecar.toml",
                "BRIDGE_SIDECAR_UPSTREAM": flowless.address,
                "BRIDGE_SIDECAR_BRIDGE_SECRET_FILE": "/etc/bridge-sidecar/secret/bridge-secret",
                "BRIDGE_SIDECAR_METRICS_LISTEN": f"127.0.0.1:{port}",
            },
        )  # fmt: skip
        stack.enter_context(sidecar)
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{socket_volume / 'bridge.sock'}"))
        app = App(channel)
        app.wait_for_lease(timeout=LISTEN_BACK_SECONDS)
        yield Pods(flowless, sidecar, socket_volume, app, (flowless_metrics, port))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pods(request: pytest.FixtureRequest) -> Iterator[Pods]:
    database = (
        nullcontext("sqlite:////var/lib/flowless/flowless.db")
        if request.param == "sqlite"
        else databases.new_postgres_database(migrated=False)
    )
    with temporary_directory() as directory, database as url, _pods(directory, url) as pods:
        yield pods


def _as_app(
    pods: Pods, directory: Path, session_id: str, *, groups: tuple[int, ...]
) -> subprocess.CompletedProcess[str]:
    """Ask the sidecar from a container of another user, as an app does: it has the socket's volume read-only."""
    words = command(
        SIDECAR,
        scratch=directory,
        environment={},
        user=f"{APP_UID}:{APP_UID}",
        groups=groups,
        mounts=(Mount(pods.socket_volume, "/run/bridge-sidecar"),),
    )
    check = [*words, "check", "-", "--json", "--ip", BROWSER.client_ip]
    return subprocess.run(
        check,
        input=session_id,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_session_is_valid_until_it_is_revoked(pods: Pods) -> None:
    pods.app.register("ada@example.org")
    login = pods.app.log_in("ada@example.org")
    assert pods.app.validate(login.session_id).session.user.email == "ada@example.org"
    revoke = session_pb2.RevokeSessionRequest(handle=login.session.handle)
    revoked = pods.app.sessions.RevokeSession(revoke, timeout=10)
    denied = pods.app.validate(login.session_id, min_revision=revoked.revision)
    assert denied.denial.reason == types_pb2.DENIAL_REASON_REVOKED


def test_an_app_of_another_user_reaches_the_socket_by_its_group_alone(pods: Pods, tmp_path: Path) -> None:
    pods.app.register("bob@example.org")
    session_id = pods.app.log_in("bob@example.org").session_id
    allowed = _as_app(pods, tmp_path, session_id, groups=(SOCKET_GROUP,))
    assert allowed.returncode == 0, allowed.stderr
    refused = _as_app(pods, tmp_path, session_id, groups=())
    assert refused.returncode == UNAVAILABLE, refused.stdout


def test_both_programs_run_without_a_privilege_as_their_images_user(pods: Pods) -> None:
    for container, uid in ((pods.flowless, 10_001), (pods.sidecar, 10_002)):
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{container.program}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert fields["Uid"].split() == [str(uid)] * 4
        assert fields["Gid"].split() == [str(uid)] * 4
        assert fields["Groups"].split() == [str(SOCKET_GROUP)]
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert fields["NoNewPrivs"].strip() == "1"
        assert fields["NSpid"].split()[-1] == "1"


def test_nothing_can_be_written_but_the_volumes(pods: Pods) -> None:
    for container, volumes in ((pods.flowless, {"/var/lib/flowless"}), (pods.sidecar, {"/run/bridge-sidecar"})):
        mounts = [line.split() for line in Path(f"/proc/{container.program}/mountinfo").read_text().splitlines()]
        writable = {words[4] for words in mounts if "rw" in words[5].split(",")}
        assert {path for path in writable if not path.startswith(("/dev", "/proc"))} == volumes
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            Path("/proc", str(container.program), "root", "tmp", "file").touch()


def test_both_programs_show_metrics(pods: Pods) -> None:
    for port, name in zip(pods.metrics_ports, ("flowless_", "bridge_sidecar_"), strict=True):
        answer = exchange(port, "GET", "/metrics")
        assert answer.status == 200
        assert name.encode() in answer.body


def test_the_exec_probe_of_the_sidecar_passes(pods: Pods) -> None:
    pods.sidecar.run_command("healthcheck")


def test_process_1_drains_on_sigterm_and_ends_with_zero(pods: Pods) -> None:
    # The last one: a module's tests run in their order, and these containers are the module's.
    assert pods.sidecar.stop(timeout=30) == 0
    assert pods.flowless.stop(timeout=30) == 0
    assert "stopped" in pods.sidecar.log.read_text()
