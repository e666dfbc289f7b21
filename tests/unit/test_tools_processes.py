"""The way in which demo, run, tests and bench start programs: no endless waits, nothing left running."""

import io
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tools.processes import (
    ROOT,
    SOCKET_PATH_BYTES,
    ManagedProcess,
    ProcessError,
    SidecarProcess,
    temporary_directory,
)


def _actor(part: str, directory: Path, echo: io.StringIO | None = None) -> ManagedProcess:
    return ManagedProcess(
        name="actor",
        module="tests.support.actor",
        arguments=(part,),
        environment={},
        log=directory / "actor.log",
        echo=echo,
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_announces_its_address_and_ends_with_the_block(tmp_path: Path) -> None:
    with _actor("good", tmp_path) as actor:
        pid = actor.pid
        assert actor.address == "stage:1"
        assert _exists(pid)
    assert not _exists(pid)


def test_a_program_ends_when_the_block_fails(tmp_path: Path) -> None:
    actor = _actor("good", tmp_path)
    with pytest.raises(KeyboardInterrupt), actor:
        raise KeyboardInterrupt
    assert not actor.is_running


def test_a_program_that_ends_before_it_is_ready_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"(?s)ended with 3 before it was ready.*playing dies"):
        _actor("dies", tmp_path).start()


def test_a_program_that_says_something_else_is_reported_and_ended(tmp_path: Path) -> None:
    actor = _actor("wrong", tmp_path)
    with pytest.raises(ProcessError, match="hello"):
        actor.start()
    assert not actor.is_running


def test_a_program_that_is_never_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    actor = _actor("silent", tmp_path)
    with pytest.raises(ProcessError, match=r"not ready after 0\.5 s"):
        actor.start(timeout=0.5)
    assert not actor.is_running


def test_a_program_that_does_not_hear_sigterm_is_killed(tmp_path: Path) -> None:
    actor = _actor("deaf", tmp_path)
    actor.start()
    assert actor.stop(timeout=0.2) == -signal.SIGKILL


def test_a_stopped_program_can_be_started_again_and_keeps_its_log(tmp_path: Path) -> None:
    actor = _actor("good", tmp_path)
    actor.start()
    first = actor.pid
    actor.kill()
    actor.start()
    assert actor.pid != first
    actor.stop()
    assert actor.log.read_text() == "playing good\n" * 2


def test_a_program_cannot_be_started_twice_at_once(tmp_path: Path) -> None:
    with _actor("good", tmp_path) as actor, pytest.raises(RuntimeError, match="runs already"):
        actor.start()


def test_stopping_what_was_never_started_does_nothing(tmp_path: Path) -> None:
    assert _actor("good", tmp_path).stop() is None


def test_echoed_log_lines_name_their_program_and_are_kept_too(tmp_path: Path) -> None:
    echo = io.StringIO()
    with _actor("good", tmp_path, echo):
        pass
    assert echo.getvalue() == "actor          | playing good\n"
    assert (tmp_path / "actor.log").read_text() == "playing good\n"


def test_the_callers_own_settings_do_not_reach_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLESS_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("BRIDGE_SIDECAR_UPSTREAM", "elsewhere:1")
    with _actor("good", tmp_path) as actor:
        environment = Path(f"/proc/{actor.pid}/environ").read_bytes()
    assert b"FLOWLESS_LISTEN" not in environment
    assert b"BRIDGE_SIDECAR_UPSTREAM" not in environment


def test_a_program_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys, time\n"
            "from tools.processes import ManagedProcess\n"
            "actor = ManagedProcess(name='actor', module='tests.support.actor', arguments=('deaf',),\n"
            "                       environment={}, log=pathlib.Path(sys.argv[1]))\n"
            "actor.start()\n"
            "print(actor.pid, flush=True)\n"
            "time.sleep(600)\n",
            str(tmp_path / "actor.log"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    with starter:
        assert starter.stdout is not None
        actor = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    ended, _, _ = select.select([actor], [], [], 20)  # a pidfd is readable once its process has ended
    os.close(actor)
    assert ended


def test_the_temporary_directory_is_private_short_and_goes_away() -> None:
    with temporary_directory() as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert len(str(directory)) <= SOCKET_PATH_BYTES // 2 + 12
        (directory / "left").write_text("behind")
    assert not directory.exists()


def test_a_long_temporary_directory_of_the_system_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with temporary_directory() as directory:
        assert long not in directory.parents


def test_a_sidecars_secret_is_readable_by_its_owner_alone(run_dir: Path) -> None:
    sidecar = SidecarProcess(directory=run_dir, upstream="127.0.0.1:1", secret="first")
    sidecar.write_secret("second")
    assert sidecar.secret_file.read_text() == "second\n"
    assert stat.S_IMODE(sidecar.secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(sidecar.socket.parent.stat().st_mode) == 0o700


def test_a_directory_too_deep_for_a_unix_socket_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long for a Unix socket"):
        SidecarProcess(directory=tmp_path / ("x" * 100), upstream="127.0.0.1:1", secret="secret")
