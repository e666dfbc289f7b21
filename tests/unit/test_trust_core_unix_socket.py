"""A socket that is ours alone."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from trust_core.unix_socket import SocketError, UnixSocket


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for opened in sockets:
        opened.close()


def _listen(sockets: list[socket.socket], address: str) -> None:
    opened = socket.socket(socket.AF_UNIX)
    sockets.append(opened)
    opened.bind(address.removeprefix("unix:"))
    opened.listen()


def _refuse(_: str) -> None:
    pytest.fail("must not bind")


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_the_directory_and_the_socket_are_private_from_the_start(
    run_dir: Path, listening: list[socket.socket]
) -> None:
    path = run_dir / "own" / "bridge.sock"
    claimed = UnixSocket(path=str(path))
    claimed.claim(lambda address: _listen(listening, address))
    assert _connects(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o007 == 0
    claimed.release()
    claimed.release()
    assert not path.exists()


def test_a_second_claim_is_refused_while_the_first_is_held(run_dir: Path, listening: list[socket.socket]) -> None:
    path = run_dir / "bridge.sock"
    first = UnixSocket(path=str(path))
    first.claim(lambda address: _listen(listening, address))
    with pytest.raises(SocketError, match="another process holds"):
        UnixSocket(path=str(path)).claim(_refuse)
    assert _connects(path)
    first.release()
    again = UnixSocket(path=str(path))
    again.claim(lambda address: _listen(listening, address))
    again.release()


def test_a_socket_that_another_program_listens_on_is_not_stolen(
    run_dir: Path, listening: list[socket.socket]
) -> None:
    path = run_dir / "bridge.sock"
    _listen(listening, str(path))
    with pytest.raises(SocketError, match="another program listens"):
        UnixSocket(path=str(path)).claim(_refuse)
    assert _connects(path)


def test_a_stale_socket_is_replaced(run_dir: Path, listening: list[socket.socket]) -> None:
    path = run_dir / "bridge.sock"
    for left_behind in (path, run_dir / "bridge.sock.new"):
        stale: list[socket.socket] = []
        _listen(stale, str(left_behind))
        stale[0].close()
    claimed = UnixSocket(path=str(path))
    claimed.claim(lambda address: _listen(listening, address))
    assert _connects(path)
    claimed.release()


def test_a_socket_that_is_not_ours_any_more_is_left_alone(run_dir: Path, listening: list[socket.socket]) -> None:
    path = run_dir / "bridge.sock"
    claimed = UnixSocket(path=str(path))
    claimed.claim(lambda address: _listen(listening, address))
    path.unlink()
    _listen(listening, str(path))
    claimed.release()
    assert _connects(path)


def test_what_is_not_a_socket_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "bridge.sock"
    path.write_text("precious")
    with pytest.raises(SocketError, match="not a socket"):
        UnixSocket(path=str(path)).claim(_refuse)
    assert path.read_text() == "precious"


def test_a_directory_that_everybody_may_write_is_refused_with_a_way_out(run_dir: Path) -> None:
    open_directory = run_dir / "open"
    open_directory.mkdir()
    open_directory.chmod(0o1777)
    with pytest.raises(SocketError, match="use a directory of its own"):
        UnixSocket(path=str(open_directory / "bridge.sock")).claim(_refuse)


def test_a_missing_parent_directory_is_named(run_dir: Path) -> None:
    with pytest.raises(SocketError, match="does not exist; create it"):
        UnixSocket(path=str(run_dir / "a" / "b" / "bridge.sock")).claim(_refuse)


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(SocketError, match="100 bytes"):
        UnixSocket(path="/run/" + "x" * 96).claim(_refuse)


def test_a_lock_that_is_a_symbolic_link_is_not_followed(run_dir: Path) -> None:
    (run_dir / "bridge.sock.lock").symlink_to(run_dir / "elsewhere")
    with pytest.raises(SocketError):
        UnixSocket(path=str(run_dir / "bridge.sock")).claim(_refuse)
    assert not (run_dir / "elsewhere").exists()


def test_a_failed_bind_lets_go_of_the_lock(run_dir: Path, listening: list[socket.socket]) -> None:
    path = run_dir / "bridge.sock"

    def fail(_: str) -> None:
        raise RuntimeError("grpc says no")

    with pytest.raises(SocketError, match="cannot listen"):
        UnixSocket(path=str(path)).claim(fail)
    claimed = UnixSocket(path=str(path))
    claimed.claim(lambda address: _listen(listening, address))
    claimed.release()
