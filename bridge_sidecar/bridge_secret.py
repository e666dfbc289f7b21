"""The bridge secret: from a file that is read again when it changes, or from the environment.

It never stands on a command line, in a log, in an error or in `GetStatus`.
"""

import stat
from pathlib import Path
from typing import Any, Final, Protocol

from trust_core import logs, small_file
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.identifiers import bridge_of_secret

_LOOK_EVERY_NS: Final = NS_PER_SECOND
_MAX_FILE_BYTES: Final = 4_096


class SecretError(Exception):
    """The secret cannot be used. Says where and why, and nothing of what was found."""


class SecretSource(Protocol):
    """Where the credential of the next call comes from."""

    def current(self) -> str:
        """Return the secret. Never blocks for long, never raises once the program runs."""
        ...

    def doubt(self) -> None:
        """Flowless refused it: look again before the next call."""
        ...


class FixedSecret:
    """A secret that stays for the life of the process."""

    def __init__(self, *, secret: str) -> None:
        self._secret = _checked(secret, "BRIDGE_SIDECAR_SECRET")

    def current(self) -> str:
        """See `SecretSource.current`."""
        return self._secret

    def doubt(self) -> None:
        """There is nowhere to look again."""


class SecretFile:
    """A secret in a file. Looked at, at most once a second, when a call is made; read when it changed.

    What a change is, `small_file.fingerprint` says. When the new content cannot be used, the last good secret stays
    and a warning is logged; the first read must succeed.
    """

    def __init__(self, *, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._log: Any = logs.get_logger("bridge-sidecar")
        self._looked_at_ns = clock.elapsed_ns()
        self._seen = self._fingerprint()
        self._secret = self._read()

    def current(self) -> str:
        """See `SecretSource.current`."""
        now_ns = self._clock.elapsed_ns()
        if now_ns - self._looked_at_ns >= _LOOK_EVERY_NS:
            self._looked_at_ns = now_ns
            self._look()
        return self._secret

    def doubt(self) -> None:
        """See `SecretSource.doubt`."""
        self._looked_at_ns = self._clock.elapsed_ns() - _LOOK_EVERY_NS

    def _look(self) -> None:
        try:
            seen = self._fingerprint()
            if seen == self._seen:
                return
            self._seen = seen
            self._secret = self._read()
        except SecretError as error:
            self._log.warning("bridge secret not replaced", problem=str(error))
        else:
            self._log.info("bridge secret read again", file=str(self._path))

    def _fingerprint(self) -> small_file.Fingerprint:
        try:
            return small_file.fingerprint(self._path)
        except OSError as error:
            raise SecretError(f"cannot read {self._path}: {error.strerror}") from None

    def _read(self) -> str:
        try:
            content, mode = small_file.read(self._path, most_bytes=_MAX_FILE_BYTES)
        except small_file.NotRegularError:
            raise SecretError(f"{self._path} is not a regular file") from None
        except OSError as error:
            raise SecretError(f"cannot read {self._path}: {error.strerror}") from None
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            self._log.warning(
                "bridge secret file is open to others",
                file=str(self._path),
                mode=oct(stat.S_IMODE(mode)),
                remedy="chmod 0400, or 0440 with a group of its own",
            )
        return _checked(content.decode("ascii", "replace"), str(self._path))


def _checked(text: str, where: str) -> str:
    secret = text.strip()
    if bridge_of_secret(secret) is None:
        raise SecretError(
            f"{where} does not hold a bridge secret; it is one line `brdg_…`, "
            "printed once by `flowless bridges create` or `flowless bridges rotate`"
        )
    return secret
