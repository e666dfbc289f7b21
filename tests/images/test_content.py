"""What is in the images, and what is not."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.containers import FLOWLESS, SIDECAR, python_inside

IMAGES = pytest.mark.parametrize("image", [FLOWLESS, SIDECAR], ids=lambda image: image.name)
TOOLS = {
    *("gcc", "cc", "c++", "g++", "clang", "tcc", "as", "ld", "make", "cargo", "rustc", "go"),
    *("pip", "pip3", "apt", "apt-get", "dpkg", "sh", "bash", "dash", "busybox", "perl", "su", "sudo", "mount"),
    *("curl", "wget", "git", "ssh", "nc"),
}
SERVER_PACKAGES = {
    *("sqlalchemy", "alembic", "aiosqlite", "psycopg", "psycopg_binary", "redis", "limits"),
    *("argon2", "bcrypt", "nacl", "pyseto", "cryptography", "zxcvbn"),
    *("pydantic", "pydantic_settings", "pydantic_core", "typer", "rich", "httpx", "aiosmtplib", "flowless"),
}


def _everything(image: Path) -> Iterator[tuple[str, os.stat_result]]:
    root = image / "root"
    for path in (root, *root.rglob("*")):
        yield f"/{path.relative_to(root)}", path.lstat()


@IMAGES
def test_an_image_has_no_compiler_no_installer_and_no_shell(image: Path) -> None:
    executable = {
        path.rpartition("/")[2]
        for path, found in _everything(image)
        if found.st_mode & 0o111 and not stat.S_ISDIR(found.st_mode)
    }
    assert executable & TOOLS == set()
    assert "python3.11" in executable  # the look at what is executable finds something


@IMAGES
@pytest.mark.parametrize("module", ["pip", "ensurepip", "setuptools", "wheel", "hatchling", "tests"])
def test_nothing_can_be_installed_or_tested_in_an_image(image: Path, module: str, tmp_path: Path) -> None:
    done = python_inside(image, f"import {module}", directory=tmp_path)
    assert "ModuleNotFoundError" in done.stderr


def test_the_sidecars_image_has_no_package_of_the_server() -> None:
    def names(image: Path) -> set[str]:
        return {path.name for path in image.glob("root/opt/*/lib/python3*/site-packages/*")}

    assert names(SIDECAR) & SERVER_PACKAGES == set()
    assert names(FLOWLESS) >= SERVER_PACKAGES, "a name in this list is wrong"
    assert "bridge_sidecar" in names(SIDECAR)
    assert "bridge_sidecar" not in names(FLOWLESS)


@IMAGES
def test_everything_belongs_to_root_and_nobody_else_can_write_it(image: Path) -> None:
    loose = [
        path
        for path, found in _everything(image)
        if (found.st_uid, found.st_gid) != (0, 0)
        or (not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o022 and path != "/tmp")
    ]
    assert loose == []


@IMAGES
def test_no_file_gives_its_caller_anothers_rights_and_none_is_a_device(image: Path) -> None:
    odd = [
        path
        for path, found in _everything(image)
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID)
        or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode))
    ]
    assert odd == []


@IMAGES
def test_nothing_of_the_repository_comes_along_but_the_packages(image: Path) -> None:
    names = {path for path, _ in _everything(image)}
    strays = [path for path in names if path.endswith((".git", "Dockerfile", "Makefile", ".pem", ".key"))]
    # Certificates that gRPC and certifi hold are public.
    assert [path for path in strays if not path.endswith(("roots.pem", "cacert.pem"))] == []
    assert not {path for path in names if path.startswith(("/src", "/dist", "/home"))}


@IMAGES
def test_every_library_that_is_there_finds_what_it_needs(image: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, os, sys, sysconfig\n"
        "from pathlib import Path\n"
        "directory = Path(sysconfig.get_path('stdlib'), 'lib-dynload')\n"
        "names = sorted({file.name.partition('.')[0] for file in directory.glob('*.so')})\n"
        "assert len(names) > 10\n"
        "for name in names: __import__(name)\n"
    )
    done = python_inside(image, code, directory=tmp_path)
    assert done.returncode == 0, done.stderr


@IMAGES
def test_no_module_has_to_be_compiled_at_a_start(image: Path) -> None:
    sources = [path for path, _ in _everything(image) if path.endswith(".py")]
    compiled = {path for path, _ in _everything(image) if path.endswith(".pyc")}
    missing = [
        path
        for path in sources
        if f"{Path(path).parent}/__pycache__/{Path(path).stem}.cpython-311.pyc" not in compiled
    ]
    assert len(sources) > 500
    assert missing == []


@IMAGES
def test_scanners_are_told_which_packages_of_debian_are_in_it(image: Path) -> None:
    status = (image / "root" / "var" / "lib" / "dpkg" / "status").read_text()
    assert {"libc6", "libssl3", "python3.11-minimal"} <= {
        line.removeprefix("Package: ") for line in status.splitlines() if line.startswith("Package: ")
    }
    assert "debian" in (image / "root" / "etc" / "os-release").read_text().lower()


@pytest.mark.parametrize(
    ("image", "uid"), [(FLOWLESS, 10_001), (SIDECAR, 10_002)], ids=["flowless", "bridge-sidecar"]
)
def test_an_image_says_who_runs_it_and_how_it_is_stopped(image: Path, uid: int) -> None:
    kept = json.loads((image / "image.json").read_text())
    assert kept["user"] == f"{uid}:{uid}"
    assert kept["stop_signal"] == "SIGTERM"
    assert kept["entrypoint"] == [f"/opt/{image.name}/bin/{image.name}"]
    assert kept["labels"]["org.opencontainers.image.title"] == image.name
    assert not [name for name in kept["environment"] if "SECRET" in name or "PASSWORD" in name]
