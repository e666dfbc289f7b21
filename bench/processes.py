"""The sidecar as it is deployed: from a wheel, in an environment that holds only what it needs.

The developers' environment has more installed, which must not count as the sidecar's memory.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.processes import ROOT, ProcessError

INSTALL_SECONDS: Final = 600.0
# This tree's distributions that the sidecar is made of: the standard's generated code, and the programs.
OURS: Final = (ROOT / "clients" / "python", ROOT)


def sidecar_only_python(directory: Path) -> tuple[str, ...]:
    """Make a throw-away environment with the sidecar's locked dependencies and this tree's wheels.

    Returns the command of its interpreter, which imports nothing from this tree.
    """
    environment = directory / "environment"
    wheels = directory / "wheels"
    python = environment / "bin" / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--quiet")
    _run(sys.executable, "-m", "venv", str(environment))
    _run(*pip, "install", "--require-hashes", "--requirement", str(ROOT / "requirements" / "sidecar.txt"))
    for project in OURS:
        _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels), cwd=project)
    _run(*pip, "install", "--no-deps", *map(str, wheels.glob("*.whl")))
    # Says which distribution is missing, where the sidecar would only say which import failed.
    _run(*pip, "check")
    return str(python), "-I"


def _run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONNOUSERSITE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ProcessError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr or done.stdout}")
