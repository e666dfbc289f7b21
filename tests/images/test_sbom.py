"""The bill of materials names what is in an image: all of it, and in the version that the lock pins."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.images.containers import FLOWLESS, SIDECAR
from tests.support.repository import ROOT, pinned


@pytest.fixture(
    scope="module", params=[(FLOWLESS, "server-tracing"), (SIDECAR, "sidecar-image")], ids=["flowless", "sidecar"]
)
def listed(request: pytest.FixtureRequest) -> tuple[Path, str, dict[str, Any]]:
    image, lock = request.param
    subprocess.run([sys.executable, "-m", "tools.sbom", image.name], cwd=ROOT, check=True, timeout=60)
    return image, lock, json.loads((image / "sbom.cdx.json").read_text())


def test_it_names_every_python_package_in_the_version_of_the_lock(listed: tuple[Path, str, dict[str, Any]]) -> None:
    _, lock, bom = listed
    python = {
        component["name"]: component["version"]
        for component in bom["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    locked = {name: version for name, (version, _) in pinned(ROOT / "requirements" / f"{lock}.txt").items()}
    del python["trustlayer"], python["trustlayer-programs"]
    # A lock is for every platform; an image has what its own one needs.
    assert {name: locked.get(name) for name in python} == python
    assert {"grpcio", "protobuf", "structlog"} <= set(python)


def test_it_names_every_package_and_library_of_debian(listed: tuple[Path, str, dict[str, Any]]) -> None:
    image, _, bom = listed
    status = (image / "root" / "var" / "lib" / "dpkg" / "status").read_text()
    debian = [component for component in bom["components"] if component["purl"].startswith("pkg:deb/debian/")]
    assert len(debian) == status.count("Package: ") > 10


def test_it_says_what_needs_what(listed: tuple[Path, str, dict[str, Any]]) -> None:
    _, _, bom = listed
    needs = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in bom["dependencies"]}
    assert {"python:protobuf", "python:trustlayer"} <= needs["python:trustlayer-programs"]
    assert "python:protobuf" in needs["python:trustlayer"]
    assert bom["specVersion"] == "1.6"
