"""The drivers that there are, `drivers.yaml`, and the apps, `apps.yaml`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

DRIVERS: Final = Path(__file__).resolve().parent / "drivers.yaml"
APPS: Final = DRIVERS.with_name("apps.yaml")
_FIELDS: Final = {"name": str, "toolchain": list, "build": str, "run": list}


class DriverListError(Exception):
    """A list is wrong; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverEntry:
    """One driver or app: commands without which it is not run, the make target that builds it, how it is run."""

    name: str
    toolchain: tuple[str, ...]
    build: str
    run: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Commands of the toolchain that this machine does not have."""
        return tuple(command for command in self.toolchain if shutil.which(command) is None)


def read_drivers(file: Path = DRIVERS) -> tuple[DriverEntry, ...]:
    """Read a list, of drivers or of apps. Raises `DriverListError`."""
    entries = yaml.safe_load(file.read_text(encoding="utf-8")) or []
    if not isinstance(entries, list):
        raise DriverListError("must be a list")
    for entry in entries:
        if not isinstance(entry, dict) or {name: type(value) for name, value in entry.items()} != _FIELDS:
            raise DriverListError(f"each entry has name, toolchain, build and run: {entry!r:.200}")
    drivers = tuple(
        DriverEntry(
            name=entry["name"],
            toolchain=tuple(map(str, entry["toolchain"])),
            build=entry["build"],
            run=tuple(map(str, entry["run"])),
        )
        for entry in entries
    )
    if len({driver.name for driver in drivers}) != len(drivers):
        raise DriverListError("two of them have one name")
    return drivers
