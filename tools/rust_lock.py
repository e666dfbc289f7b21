"""Keep Cargo's lock without the address of a registry: `Cargo.lock` is made of `Cargo.pins`, and back.

Cargo names its registry beside each package and takes no lock without. What is committed, `Cargo.pins`, is the lock
without these lines: versions, checksums, and who needs whom. `restore` asks Cargo what it calls its registry and puts
the lines back; a build with `--locked` then fails if anything else is wanted. `save` leaves them out of a lock that
Cargo has changed. `restore` writes nothing where the lock is right already.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CRATE: Final = Path(__file__).resolve().parent.parent / "clients" / "rust"
LOCK: Final = CRATE / "Cargo.lock"
PINS: Final = CRATE / "Cargo.pins"
_SOURCE: Final = re.compile(r"(?m)^source = .*\n")
_MANIFEST: Final = '[package]\nname = "probe"\nversion = "0.1.0"\nedition = "2024"\n[dependencies]\nbytes = "1"\n'


def pins_of(lock: str) -> str:
    """Leave out where packages come from."""
    return _SOURCE.sub("", lock)


def lock_of(pins: str, source: str) -> str:
    """Put it back: packages with a checksum come from the registry, those without are our own."""
    return re.sub(r"(?m)^(?=checksum = )", source, pins)


def registry_source() -> str:
    """Ask Cargo what it calls its registry, by a lock of the smallest package."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "src").mkdir()
        (directory / "src" / "lib.rs").touch()
        (directory / "Cargo.toml").write_text(_MANIFEST)
        subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=directory, check=True)
        found = _SOURCE.search((directory / "Cargo.lock").read_text())
    if found is None:
        raise SystemExit("cargo writes locks of another form; see tools/rust_lock.py")
    return found[0]


def main() -> int:
    """Do what the command line says."""
    if sys.argv[1:] == ["save"]:
        PINS.write_text(pins_of(LOCK.read_text()))
        return 0
    if sys.argv[1:] != ["restore"]:
        print("usage: python -m tools.rust_lock restore | save", file=sys.stderr)
        return 2
    pins = PINS.read_text()
    if not LOCK.exists() or pins_of(LOCK.read_text()) != pins:
        LOCK.write_text(lock_of(pins, registry_source()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
