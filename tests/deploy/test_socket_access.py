"""Who reaches the sidecar's socket in a pod: a real sidecar as its own user, in a directory as the kubelet makes it.

The kubelet gives an emptyDir to root and the pod's fsGroup, writable by everybody, with the set-group-id bit.
Becoming other users needs root; where the tests run as somebody else, these are skipped.
"""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.sidecar import new_secret

SIDECAR, APP, GROUP, OWN_GROUP = 10002, 20001, 10003, 4711
# Others may not be able to read this interpreter's files: what the program needs is loaded before it becomes them.
AS_ANOTHER = """
import encodings.idna, importlib, os, pkgutil, shutil, sys
import bridge_sidecar, trust_core
for package in (bridge_sidecar, trust_core):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from bridge_sidecar import cli
user, groups, *arguments = sys.argv[1:]
os.setgroups([int(group) for group in groups.split(",") if group])
os.setgid(int(user))
os.setuid(int(user))
sys.exit(cli.main(arguments))
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def _command(user: int, groups: list[int], *arguments: str) -> list[str]:
    return [sys.executable, "-c", AS_ANOTHER, str(user), ",".join(map(str, groups)), *arguments]


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory like an emptyDir's, that every user can get to."""
    top = Path(tempfile.mkdtemp(prefix="tl-pod-"))
    top.chmod(0o755)
    directory = top / "run"
    directory.mkdir()
    _as_kubelet(directory, GROUP)
    yield directory
    shutil.rmtree(top)


def _as_kubelet(directory: Path, group: int) -> None:
    os.chown(directory, 0, group)
    directory.chmod(0o2777)


def _serve(socket: Path, secret_file: Path, group: int) -> "subprocess.Popen[str]":
    secret_file.write_text(new_secret())
    os.chown(secret_file, 0, group)
    secret_file.chmod(0o440)
    variables = {
        "BRIDGE_SIDECAR_SOCKET_PATH": str(socket),
        "BRIDGE_SIDECAR_UPSTREAM": "127.0.0.1:1",
        "BRIDGE_SIDECAR_BRIDGE_SECRET_FILE": str(secret_file),
    }
    return subprocess.Popen(
        _command(SIDECAR, [group], "serve"), env=variables, umask=0o022, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _healthy(socket: Path, *, user: int, groups: list[int]) -> bool:
    command = _command(user, groups, "healthcheck", "--liveness", "--socket", str(socket))
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("group", [GROUP, OWN_GROUP], ids=["fsGroup", "a pod's own fsGroup"])
def test_the_apps_user_reaches_the_socket_by_the_pods_group_and_nobody_without_it_does(
    volume: Path, group: int
) -> None:
    _as_kubelet(volume, group)
    socket = volume / "bridge-sidecar" / "bridge.sock"
    with _serve(socket, volume.parent / "bridge-secret", group) as sidecar:
        try:
            assert sidecar.stdout is not None
            assert "listening" in sidecar.stdout.readline()
            assert socket.parent.stat().st_gid == socket.stat().st_gid == group
            assert socket.parent.stat().st_uid == SIDECAR
            assert not socket.parent.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP)
            assert _healthy(socket, user=APP, groups=[group])
            assert not _healthy(socket, user=APP, groups=[])
        finally:
            sidecar.terminate()


def test_the_volumes_own_root_is_no_place_for_the_socket(volume: Path) -> None:
    with _serve(volume / "bridge.sock", volume.parent / "bridge-secret", GROUP) as sidecar:
        said = sidecar.communicate(timeout=60)[1]
    assert sidecar.returncode == 4
    assert "writable by everybody" in said


def test_a_socket_is_reached_through_a_mount_that_cannot_be_written_to(volume: Path) -> None:
    socket = volume / "bridge-sidecar" / "bridge.sock"
    seen = volume.parent / "seen"
    seen.mkdir()
    mount = f"mount --bind {socket.parent} {seen} && mount -o remount,bind,ro {seen} || exit 77; "
    asked = _command(APP, [GROUP], "healthcheck", "--liveness", "--socket", f"{seen}/bridge.sock")
    check = f"{mount} touch {seen}/x 2>/dev/null && exit 78; exec {shlex.join(asked)}"
    with _serve(socket, volume.parent / "bridge-secret", GROUP) as sidecar:
        try:
            assert sidecar.stdout is not None
            assert "listening" in sidecar.stdout.readline()
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", check], cwd=ROOT, capture_output=True, check=False
            )
        finally:
            sidecar.terminate()
    if (done.returncode in (1, 77) and b"unshare" in done.stderr + done.stdout) or done.returncode == 77:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 0, done.stderr
