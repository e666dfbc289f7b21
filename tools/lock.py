"""Resolve `pyproject.toml` and that of `clients/python` into `requirements/*.txt`: exact versions and hashes.

The client itself is in no lock: it is installed from this tree, as the programs are.

Extras stay in the locks: without `package[extra]==` pip resolves the extra anew, and fails once a newer version
exists.

What is pinned stays pinned as long as it fits; `--upgrade` takes newer versions. `--check` writes to a temporary
directory instead and fails on a difference: pyproject.toml was changed without `make lock`. Needs the package index.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LOCKS = {
    "dev": (
        *("--extra", "sidecar", "--extra", "sidecar-metrics", "--extra", "server", "--extra", "tracing"),
        *("--group", "dev"),
    ),
    "client": (),
    "sidecar": ("--extra", "sidecar"),
    "sidecar-metrics": ("--extra", "sidecar", "--extra", "sidecar-metrics"),
    "sidecar-tracing": ("--extra", "sidecar", "--extra", "tracing"),
    "sidecar-image": ("--extra", "sidecar", "--extra", "sidecar-metrics", "--extra", "tracing"),
    "server": ("--extra", "server"),
    "server-tracing": ("--extra", "server", "--extra", "tracing"),
    "build": ("--group", "build"),
}
"""One lock per way of installing; the others are constrained by `dev`, which comes first, so that they agree."""

PROJECTS = {"build": (), "client": ("clients/python/pyproject.toml",)}
"""Whose requirements are locked, where it is not both programs': nobody's but a group's, or the Python client's."""


def compile_locks(into: Path, *options: str) -> None:
    """Write all locks, starting from the versions of those that are there."""
    for name, extras in LOCKS.items():
        constraint = () if name == "dev" else ("--constraint", str(into / "dev.txt"))
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
            "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-strip-extras",
            "--custom-compile-command", "make lock", *options, *extras, *constraint,
            *PROJECTS.get(name, ("pyproject.toml",)), "--no-emit-package", "trustlayer",
            "--output-file", str(into / f"{name}.txt"),
        ]  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _pins(lock: Path) -> list[str]:
    """Names, versions and markers. Not the hashes: a package may gain files for other platforms after its release."""
    return [line.rstrip(" \\") for line in lock.read_text().splitlines() if "--hash=" not in line]


def main() -> int:
    """Write the locks, or compare with what is committed."""
    options = sys.argv[1:]
    if "--check" not in options:
        compile_locks(REQUIREMENTS, *options)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp) / "requirements"
        shutil.copytree(REQUIREMENTS, fresh)
        compile_locks(fresh)
        differing = [name for name in LOCKS if _pins(fresh / f"{name}.txt") != _pins(REQUIREMENTS / f"{name}.txt")]
    for name in differing:
        print(f"requirements/{name}.txt does not follow from pyproject.toml (run `make lock`)", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
