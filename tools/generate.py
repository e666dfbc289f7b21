"""Regenerate the Python code of `proto/` into `clients/python/src/trustlayer`, a directory for each package.

Everything in those directories is generated. So is what `tools/envoy_descriptor.py` writes, and nothing else.
`--check` writes to a temporary directory instead and fails on a difference.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "clients" / "python" / "src"
PACKAGES = (Path("trustlayer") / "v1", Path("trustlayer") / "pubflow")
"""What is replaced as a whole."""


def generate(into: Path) -> None:
    """Write messages, services and the type stubs of both below `into`."""
    sources = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}",
            f"--python_out={into}", f"--grpc_python_out={into}",
            f"--mypy_out={into}", f"--mypy_grpc_out={into}", *sources,
        ],
        check=True,
        env={**os.environ, "PATH": plugins},
    )  # fmt: skip
    for directory in sorted({p.parent.relative_to(PROTO) for p in PROTO.rglob("*.proto")}):
        text = f'"""Generated from proto/{directory.as_posix()}; do not edit."""\n'
        (into / directory / "__init__.py").write_text(text)
    (into / PACKAGES[1] / "__init__.py").write_text('"""Generated; do not edit."""\n')


def _generated(directory: Path) -> list[str]:
    """List what is there of generated code, below the directory."""
    found = (path for package in PACKAGES for path in (directory / package).rglob("*.py*"))
    return [str(path.relative_to(directory)) for path in found if "__pycache__" not in path.parts]


def main() -> int:
    """Generate, or compare with what is committed."""
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp)
        generate(fresh)
        if "--check" not in sys.argv[1:]:
            for package in PACKAGES:
                shutil.rmtree(TARGET / package, ignore_errors=True)
                shutil.copytree(fresh / package, TARGET / package)
            return 0
        found = (
            p.relative_to(d) for d in (fresh, TARGET) for package in PACKAGES for p in (d / package).rglob("*.py*")
        )
        names = sorted({str(path) for path in found if "__pycache__" not in path.parts})
        _, differing, missing = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
        for name in sorted(differing + missing):
            print(f"generated code differs: {name} (run `make proto`)", file=sys.stderr)
        return 1 if differing or missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
