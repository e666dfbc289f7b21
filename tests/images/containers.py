"""Containers of the built images, as a cluster runs them, and what the volumes that it mounts look like."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.processes import children
from tools.contained import Mount, command
from tools.image_root import BUILT
from tools.processes import LAUNCHER, STOP_SECONDS, CommandLine, ManagedProcess, Process

SOCKET_GROUP: Final = 10_003
FLOWLESS: Final = BUILT / "flowless"
SIDECAR: Final = BUILT / "bridge-sidecar"


class _ContainerLauncher:
    """Starts one image, with the arguments that its program is to be started with."""

    def __init__(self, *, words: Sequence[str]) -> None:
        self._words = words

    def launch(self, command: CommandLine, *, stdout: int, stderr: int) -> Process:
        """See `tools.processes.Launcher.launch`."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *self._words, *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
        )


class Container(ManagedProcess):
    """The image's program as process 1 of a container. Signals go to the program, not to what started it."""

    def __init__(
        self,
        *,
        image: Path,
        directory: Path,
        environment: Mapping[str, str],
        mounts: Sequence[Mount] = (),
        groups: Sequence[int] = (),
        user: str = "",
    ) -> None:
        """`directory` takes the log; the cluster's fsGroup is in `groups`."""
        super().__init__(
            name=image.name,
            module="",
            arguments=("serve",),
            environment={},
            log=directory / f"{image.name}.log",
        )
        self.launcher = _ContainerLauncher(  # type: ignore[misc] # this one's, not that of all
            words=command(image, scratch=directory, environment=environment, mounts=mounts, groups=groups, user=user)
        )

    @property
    def program(self) -> int:
        """Process id, outside the container, of its process 1."""
        (found,) = children(self.pid)
        return found

    def signal(self, signum: signal.Signals) -> None:
        """Send the program a signal."""
        os.kill(self.program, signum)

    def stop(self, *, timeout: float = STOP_SECONDS) -> int | None:
        """Send SIGTERM to the program; return its exit code, or that of SIGKILL after `timeout` seconds."""
        if not self.is_running:
            return None
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()


def python_inside(image: Path, code: str, *, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the image's own interpreter, as its user, in its packages."""
    interpreter = f"/opt/{image.name}/bin/python"
    words = command(image, scratch=directory, environment={}, entrypoint=(interpreter, "-c", code))
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def volume(directory: Path, name: str, *, mode: int = 0o2770, files: Mapping[str, str] | None = None) -> Path:
    """Make a directory as a cluster makes a volume of a pod with an fsGroup: root's, open to the group alone."""
    made = directory / name
    made.mkdir()
    for file, content in (files or {}).items():
        (made / file).write_text(content)
        os.chown(made / file, 0, SOCKET_GROUP)
        (made / file).chmod(0o440)
    os.chown(made, 0, SOCKET_GROUP)
    made.chmod(mode)
    return made
