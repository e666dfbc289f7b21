"""What is committed: no address of anybody's machine or package index, and locks that hold what they say."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import ROOT, addresses_in, files, pinned

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SERVER_ONLY = {
    "aiosqlite",
    "alembic",
    "argon2-cffi",
    "email-validator",
    "prometheus-client",
    "psycopg",
    "pydantic",
    "pynacl",
    "redis",
    "rich",
    "sqlalchemy",
    "typer",
}


def test_no_file_names_a_package_index_or_a_path_of_this_machine() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            text = path.read_bytes().decode("latin-1")
        found += [f"{path.relative_to(ROOT)}: {address}" for address in addresses_in(text)]
    assert found == []


@pytest.mark.parametrize(
    "parts",  # in parts, or this file would be a find
    [
        ("--index", "-url https://packages.example/"),
        ("see https://mirror.example/repository", "/simple/"),
        ("find-links", " = /srv/wheels"),
        ("PIP_INDEX_URL", "=https://packages.example/"),
        ("cd /home", "/ada/code"),
        ("open('/ro", "ot/x')"),
        ("open('/Users", "/ada')"),
    ],
    ids=lambda parts: parts[0].split("/")[0],
)
def test_an_address_is_found_in_every_shape(parts: tuple[str, str]) -> None:
    assert addresses_in("".join(parts))


@pytest.mark.parametrize(
    "text",
    ["uv pip compile --no-emit-index-url --no-emit-find-links", "clients/home/x", "the root", "~/root", "/run/x"],
)
def test_harmless_text_is_not_taken_for_an_address(text: str) -> None:
    assert addresses_in(text) == []


def test_the_files_of_the_repository_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in files()}
    assert {"pyproject.toml", "Makefile", ".ci/run", "tests/unit/test_repository.py"} <= names
    assert not any(name.startswith(".venv") for name in names)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_every_package_with_hashes_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    pins = pinned(lock)
    assert len(pins) == len(re.findall(r"(?m)^[A-Za-z0-9]", text)) > 0
    assert all(hashes > 0 for _, hashes in pins.values())
    assert "://" not in text
    assert not re.search(r"(?m)^\s*-(?!-hash=)", text)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_agrees_with_the_one_that_the_tests_run_with(lock: Path) -> None:
    tested = pinned(ROOT / "requirements" / "dev.txt")
    assert {name: tested.get(name) for name in pinned(lock)} == pinned(lock)


def test_a_client_needs_the_generated_codes_libraries_and_nothing_else() -> None:
    needed = {"googleapis-common-protos", "grpcio", "protobuf", "typing-extensions"}
    assert set(pinned(ROOT / "requirements" / "client.txt")) == needed


def test_the_sidecar_installs_without_what_only_the_server_needs() -> None:
    server = set(pinned(ROOT / "requirements" / "server.txt"))
    assert server >= SERVER_ONLY
    assert not set(pinned(ROOT / "requirements" / "sidecar.txt")) & SERVER_ONLY


def test_bare_make_lists_every_target_with_its_help() -> None:
    makefiles = (ROOT / "Makefile", *sorted((ROOT / "clients").glob("*/client.mk")))
    targets = {name for file in makefiles for name in re.findall(r"(?m)^\.PHONY: (\S+)$", file.read_text())}
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(?m)^  make (\S+) +\S", printed)) == targets
