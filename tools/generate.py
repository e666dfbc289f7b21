"""Regenerate the Python code of the protos by `buf generate` and `clients/python/buf.gen.yaml`.

Of `proto/` it goes into `clients/python/src/trustlayer`, which apps install; of `clients/conformance/proto` into
`clients/conformance/generated`, which drivers and their runner use. Everything in those directories is generated. So
is what `tools/envoy_descriptor.py` writes, and nothing else. `--check` writes to a temporary directory instead and
fails on a difference.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_TEMPLATE: Final = "clients/python/buf.gen.yaml"


@dataclass(frozen=True, slots=True)
class Module:
    """Protos, and where their code goes: `packages`, below `target`, are replaced as a whole."""

    protos: str
    target: Path
    packages: tuple[str, ...]


MODULES: Final = (
    Module("proto", ROOT / "clients" / "python" / "src", ("trustlayer/v1", "trustlayer/pubflow")),
    Module("clients/conformance/proto", ROOT / "clients" / "conformance" / "generated", ("conformance",)),
)


def generate(module: Module, into: Path) -> None:
    """Write messages, services and the type stubs of both below `into`."""
    subprocess.run(
        [".venv/bin/buf", "generate", module.protos, "--template", _TEMPLATE, "--output", str(into)],
        check=True,
        cwd=ROOT,
    )
    protos = ROOT / module.protos
    for directory in sorted({p.parent.relative_to(protos) for p in protos.rglob("*.proto")}):
        text = f'"""Generated from {module.protos}/{directory.as_posix()}; do not edit."""\n'
        (into / directory / "__init__.py").write_text(text)
    for package in module.packages:
        if not (into / package / "__init__.py").exists():
            (into / package / "__init__.py").write_text('"""Generated; do not edit."""\n')


def _generated(directory: Path, module: Module) -> set[str]:
    """List what is there of generated code, below the directory."""
    found = (path for package in module.packages for path in (directory / package).rglob("*.py*"))
    return {str(path.relative_to(directory)) for path in found if "__pycache__" not in path.parts}


def _replace(module: Module, fresh: Path) -> None:
    for package in module.packages:
        shutil.rmtree(module.target / package, ignore_errors=True)
        shutil.copytree(fresh / package, module.target / package)


def _differing(module: Module, fresh: Path) -> list[str]:
    names = sorted(_generated(fresh, module) | _generated(module.target, module))
    _, differing, missing = filecmp.cmpfiles(fresh, module.target, names, shallow=False)
    return sorted(differing + missing)


def main() -> int:
    """Generate, or compare with what is committed."""
    failed = False
    for module in MODULES:
        with tempfile.TemporaryDirectory() as tmp:
            fresh = Path(tmp)
            generate(module, fresh)
            if "--check" not in sys.argv[1:]:
                _replace(module, fresh)
                continue
            for name in _differing(module, fresh):
                failed = True
                print(f"generated code differs: {name} (run `make client-python-generate`)", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
