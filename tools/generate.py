"""Regenerate the Python code of `proto/` into `clients/python/src/trustlayer/v1`.

Everything in that directory is generated; nothing else is generated anywhere.
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
PACKAGE = Path("trustlayer") / "v1"


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
    (into / PACKAGE / "__init__.py").write_text('"""Generated from proto/trustlayer/v1; do not edit."""\n')


def main() -> int:
    """Generate, or compare with what is committed."""
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp)
        generate(fresh)
        if "--check" not in sys.argv[1:]:
            shutil.rmtree(TARGET / PACKAGE, ignore_errors=True)
            shutil.copytree(fresh / PACKAGE, TARGET / PACKAGE)
            return 0
        names = sorted({p.name for d in (fresh, TARGET) for p in (d / PACKAGE).glob("*.py*") if p.is_file()})
        _, differing, missing = filecmp.cmpfiles(fresh / PACKAGE, TARGET / PACKAGE, names, shallow=False)
        for name in sorted(differing + missing):
            print(f"generated code differs: {PACKAGE / name} (run `make proto`)", file=sys.stderr)
        return 1 if differing or missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
