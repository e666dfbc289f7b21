"""Where the bridge secret comes from, and that it stays there."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_sidecar.bridge_secret import FixedSecret, SecretError, SecretFile
from tests.support.clock import FakeClock
from tests.support.sidecar import new_secret
from trust_core import logs

ONE, TWO = new_secret(), new_secret()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(style="json", stream=stream)
    yield stream
    logs.configure()


def _file(directory: Path, content: str, mode: int = 0o600) -> Path:
    path = directory / "secret"
    path.write_text(content)
    path.chmod(mode)
    return path


def _events(log: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in log.getvalue().splitlines()]


def test_white_space_around_the_secret_does_not_matter(tmp_path: Path) -> None:
    assert SecretFile(path=_file(tmp_path, f"\n {ONE}\n\n"), clock=FakeClock()).current() == ONE
    assert FixedSecret(secret=f"{ONE}\n").current() == ONE


@pytest.mark.parametrize(
    "content",
    ["", "hunter2hunter2", ONE[:-1], ONE[:-1] + "!", f"{ONE}\n{TWO}", "\0" * 99],
    ids=["nothing", "a password", "cut short", "misspelt", "two secrets", "binary"],
)
def test_what_is_not_a_secret_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(SecretError) as error:
        SecretFile(path=_file(tmp_path, content), clock=FakeClock())
    assert "flowless bridges create" in str(error.value)
    assert not content.strip() or content.strip() not in str(error.value)
    with pytest.raises(SecretError, match="BRIDGE_SIDECAR_SECRET"):
        FixedSecret(secret=content)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        SecretFile(path=tmp_path / "none", clock=FakeClock())


def test_a_changed_file_is_read_again_at_most_once_a_second(tmp_path: Path, log: io.StringIO) -> None:
    clock, path = FakeClock(), _file(tmp_path, ONE)
    secret = SecretFile(path=path, clock=clock)
    path.write_text(TWO + "\n")
    assert secret.current() == ONE
    clock.advance(1)
    assert secret.current() == TWO
    assert _events(log) == ["bridge secret read again"]
    assert TWO not in log.getvalue()


def test_a_replaced_file_is_seen_like_a_changed_one(tmp_path: Path) -> None:
    clock, path = FakeClock(), _file(tmp_path, ONE)
    secret = SecretFile(path=path, clock=clock)
    new = tmp_path / "new"
    new.write_text(TWO)
    new.rename(path)
    clock.advance(1)
    assert secret.current() == TWO


def test_a_doubted_secret_is_looked_at_before_the_next_call(tmp_path: Path) -> None:
    path = _file(tmp_path, ONE)
    secret = SecretFile(path=path, clock=FakeClock())
    path.write_text(TWO + "\n")
    secret.doubt()
    assert secret.current() == TWO


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("oops"), lambda path: path.unlink()])
def test_a_file_that_turned_bad_leaves_the_last_good_secret(tmp_path: Path, log: io.StringIO, spoil: object) -> None:
    clock, path = FakeClock(), _file(tmp_path, ONE)
    secret = SecretFile(path=path, clock=clock)
    assert callable(spoil)
    spoil(path)
    clock.advance(1)
    assert secret.current() == ONE
    assert "bridge secret not replaced" in _events(log)
    path.write_text(TWO)
    clock.advance(1)
    assert secret.current() == TWO


def test_a_file_that_others_may_read_is_warned_of(tmp_path: Path, log: io.StringIO) -> None:
    SecretFile(path=_file(tmp_path, ONE, 0o640), clock=FakeClock())
    assert _events(log) == []
    SecretFile(path=_file(tmp_path, ONE, 0o644), clock=FakeClock())
    assert _events(log) == ["bridge secret file is open to others"]


def test_a_fifo_in_the_files_place_blocks_nothing_and_the_last_good_secret_stays(
    tmp_path: Path, log: io.StringIO
) -> None:
    clock, path = FakeClock(), _file(tmp_path, ONE)
    source = SecretFile(path=path, clock=clock)
    path.unlink()
    os.mkfifo(path, 0o600)
    clock.advance(2)
    assert source.current() == ONE
    assert "not a regular file" in log.getvalue()
    with pytest.raises(SecretError, match="not a regular file"):
        SecretFile(path=path, clock=clock)
    path.unlink()
    _file(tmp_path, TWO)
    clock.advance(2)
    assert source.current() == TWO
