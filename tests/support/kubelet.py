"""What the kubelet does to a container, done to a process: probes, signals and volumes, as Kubernetes has them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tools.processes import ROOT, ManagedProcess

PROBE_SECONDS: Final = 10.0
"""`timeoutSeconds` of a probe: longer than anybody would set it, for a machine that runs other tests too."""
PERIOD_SECONDS: Final = 0.1


def grpc_probe(address: str, service: str = "") -> bool:
    """A `grpc:` probe: a connection of its own, in plaintext, and `Check` of the service. Healthy is SERVING."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Any = HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PROBE_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def exec_probe(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
    """An `exec:` probe: a command inside the container. Healthy is exit code 0."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=PROBE_SECONDS, check=False,
    )  # fmt: skip
    return done.returncode == 0


def healthcheck(sidecar_socket: Path, *options: str) -> bool:
    """The exec probe of the sidecar."""
    command = [sys.executable, "-m", "bridge_sidecar", "healthcheck", *options]
    return exec_probe(command, {"BRIDGE_SIDECAR_SOCKET_PATH": str(sidecar_socket)})


def until(probe: Callable[[], bool], *, healthy: bool = True, seconds: float = 30.0) -> None:
    """Probe every period until it says so; as a startup probe does, which gates what comes after."""
    deadline = time.monotonic() + seconds
    while probe() is not healthy:
        assert time.monotonic() < deadline, f"not {'healthy' if healthy else 'unhealthy'} within {seconds:g} s"
        time.sleep(PERIOD_SECONDS)


def terminate(process: ManagedProcess, *, grace_seconds: float) -> int | None:
    """End a container: SIGTERM, and SIGKILL when the grace period is over. Returns the exit code."""
    process.signal(signal.SIGTERM)
    try:
        return process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return None
    finally:
        process.kill()


class MountedDirectory:
    """A Secret or ConfigMap mounted as a directory: all files change at once, when `..data` leads elsewhere."""

    def __init__(self, path: Path, files: Mapping[str, str], *, mode: int = 0o440) -> None:
        self.path = path
        self._mode = mode
        self._version = 0
        path.mkdir()
        self.update(files)

    def update(self, files: Mapping[str, str]) -> None:
        """Write a new directory and let `..data` lead to it in one step, as the kubelet's atomic writer does."""
        data, before = self.path / "..data", self.path / f"..{self._version}"
        self._version += 1
        now = self.path / f"..{self._version}"
        now.mkdir()
        for name, content in files.items():
            (now / name).touch(self._mode | 0o200)
            (now / name).write_text(content)
            (now / name).chmod(self._mode)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(Path("..data", name))
        fresh = self.path / "..data_tmp"
        fresh.symlink_to(now.name)
        fresh.rename(data)
        if before.exists():
            shutil.rmtree(before)

    def file(self, name: str) -> Path:
        """Where a container finds a file of it."""
        return self.path / name
