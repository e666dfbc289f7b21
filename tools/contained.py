"""Start a built image's program the way a cluster does, without a container engine.

Its root is read-only and is all that it sees of this machine's files, apart from the mounts that it is given; it is
process 1 of a process namespace of its own, has the image's user and groups, no capability, nothing in its
environment but the image's and the given variables, and can gain no privilege. The network is this machine's, so
that it finds servers on loopback.

As a program it is what starts in the namespaces: `python tools/contained.py SPEC`, with the JSON that
`ContainedProcess` writes. Needs root (or the user namespace that `tools/image_root.py` goes into).
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of this machine and where the program sees it."""

    source: Path
    target: str
    writable: bool = False


def command(
    image: Path,
    *,
    scratch: Path,
    environment: Mapping[str, str],
    mounts: Sequence[Mount] = (),
    groups: Sequence[int] = (),
    user: str = "",
    entrypoint: Sequence[str] = (),
) -> list[str]:
    """Return the command that starts the image in `image` (`root` and `image.json`); append arguments of the program.

    `scratch` is a directory for the description of the start; `user` and `entrypoint` instead of the image's.
    """
    kept = json.loads((image / "image.json").read_text())
    spec = {
        "root": str(image / "root"),
        "mounts": [[str(mount.source), mount.target, mount.writable] for mount in mounts],
        "user": user or kept["user"],
        "groups": list(groups),
        "environment": {**kept["environment"], **environment},
        "directory": kept["directory"],
        "entrypoint": list(entrypoint) or kept["entrypoint"],
    }
    file = scratch / f"contained-{os.urandom(4).hex()}.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(spec))
    unshare = [
        shutil.which("unshare") or "unshare",
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--ipc",
        "--uts",
    ]
    return [*unshare, "--", sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(file)]


def main() -> None:
    """Mount, go into the root, give up everything, and become the program. Runs as process 1 of its namespace."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    root = Path(spec["root"])
    _mount("--bind", root, root)
    _mount("-o", "remount,bind,ro,nosuid", root)
    _mount("-t", "proc", "proc", root / "proc")
    _mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", root / "dev")
    for device in _DEVICES:
        (root / "dev" / device).touch()
        _mount("--bind", Path("/dev") / device, root / "dev" / device)
    for source, target, writable in spec["mounts"]:
        _mount("--bind", Path(source), root / target.lstrip("/"))
        if not writable:
            _mount("-o", "remount,bind,ro", root / target.lstrip("/"))
    libc = ctypes.CDLL(None, use_errno=True)
    os.chroot(root)
    os.chdir(spec["directory"])
    uid, gid = map(int, spec["user"].split(":"))
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setgid(gid)
    os.setuid(uid)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A change of user clears it, so only here; the parent is unshare.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    words = [*spec["entrypoint"], *sys.argv[2:]]
    os.execve(words[0], words, spec["environment"])


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
