"""A Unix socket that is ours alone: private directory, right mode from its first moment, never stolen.

grpcio unlinks whatever lies at the path it binds, and unlinks the path again when it stops, whoever owns it by then.
So it binds beside the path and the socket is *renamed* into place: the path appears with its final mode, a stale
file is replaced atomically, and at the end the path is removed only if it still leads to our socket. A lock file
beside it keeps a second process away; it is never removed, since removing it would let two processes hold "the" lock.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

MODE: Final = 0o660
_DIRECTORY_MODE: Final = 0o750
_MAX_PATH_BYTES: Final = 100
"""`sun_path` holds 108 bytes with the final NUL; the name that is bound has four more characters."""


class SocketError(Exception):
    """The socket cannot be had. The text says what to do."""


class UnixSocket:
    """Claims a path. `claim` blocks only for a moment; call it before the event loop has other work."""

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)
        self._bound = Path(f"{path}.new")
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None

    def claim(self, bind: Callable[[str], object]) -> None:
        """Take the path and let `bind` listen at the address that it is given. Raises `SocketError`."""
        if len(os.fsencode(self._path)) > _MAX_PATH_BYTES:
            raise SocketError(
                f"the socket's path is longer than {_MAX_PATH_BYTES} bytes, which Unix sockets do not allow"
            )
        try:
            self._require_private_directory()
            self._take_lock()
            self._require_nobody_listens()
            self._bound.unlink(missing_ok=True)
            self._bind(bind)
        except OSError as error:
            self.release()
            raise SocketError(
                f"cannot listen on {self._path}: {error.strerror or 'the address is refused'}"
            ) from None
        except SocketError:
            self.release()
            raise

    def _require_private_directory(self) -> None:
        directory = self._path.parent
        try:
            directory.mkdir(mode=_DIRECTORY_MODE)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise SocketError(f"{directory.parent} does not exist; create it, or use another path") from None
        found = directory.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise SocketError(f"{directory} is not a directory")
        if found.st_mode & stat.S_IWOTH:
            raise SocketError(
                f"{directory} is writable by everybody, so anybody could replace the socket; "
                f"use a directory of its own, for example {directory}/trustlayer/{self._path.name}, which is created"
            )
        if found.st_uid not in (os.geteuid(), 0):
            raise SocketError(
                f"{directory} belongs to another user, who could replace the socket; use one of your own"
            )

    def _take_lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(f"{self._path}.lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SocketError(f"another process holds {self._path}; stop it, or use another path") from None

    def _require_nobody_listens(self) -> None:
        try:
            kind = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(kind):
            raise SocketError(f"{self._path} exists and is not a socket; remove it, or use another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            code = probe.connect_ex(os.fspath(self._path))
        if code not in (errno.ECONNREFUSED, errno.ENOENT):
            raise SocketError(f"another program listens on {self._path}; stop it, or use another path")

    def _bind(self, bind: Callable[[str], object]) -> None:
        # The umask is the process' own and holds for the bind alone: no other thread creates files here.
        before = os.umask(0o777 & ~MODE)
        try:
            bind(f"unix:{self._bound}")
        except RuntimeError:
            raise OSError(errno.EADDRNOTAVAIL, "the address is refused") from None
        finally:
            os.umask(before)
        made = self._bound.lstat()
        if stat.S_IMODE(made.st_mode) != MODE:
            raise SocketError(f"{self._path}: its mode would be {stat.S_IMODE(made.st_mode):o} instead of {MODE:o}")
        self._inode = (made.st_dev, made.st_ino)
        self._bound.rename(self._path)

    def is_reachable(self) -> bool:
        """Whether the path leads to our socket: who removes or replaces it cuts us off from all who would connect."""
        try:
            found = self._path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def release(self) -> None:
        """Remove the socket if the path still leads to it, and let go of the lock. Idempotent."""
        if self.is_reachable():
            with suppress(OSError):  # gone meanwhile
                self._path.unlink()
        self._inode = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
