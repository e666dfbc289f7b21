"""The PEM files of TLS, which are replaced while a program runs: noticed when they change, read as one.

Certificate and key are two files, and whoever renews them writes one after the other, or swaps a symbolic link under
both. So what is read and tried counts only if nothing changed meanwhile; otherwise it is read again at the next look.
Whether the files are of any use, each program finds out in its own way, and keeps what it has until they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trust_core import small_file

LOOK_SECONDS: Final = 1.0
"""How often to look."""
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_PEM: Final = b"-----BEGIN "

_Fingerprint = tuple[small_file.Fingerprint, ...]


class TlsFilesError(Exception):
    """A file cannot be read or used. The text names it and holds nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """What the files held at one moment; `None` where no file is configured."""

    certificates: bytes | None
    key: bytes | None
    authorities: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPaths:
    """The files of one side of TLS; `None` where none is configured."""

    cert_file: Path | None
    key_file: Path | None
    ca_file: Path | None

    def all(self) -> tuple[Path | None, ...]:
        """Certificate, key, authorities."""
        return self.cert_file, self.key_file, self.ca_file


class TlsFiles:
    """Reads the files of one side of TLS. Not for use by several threads at once."""

    def __init__(self, *, paths: TlsPaths, check: Callable[[TlsPaths], None] | None = None) -> None:
        """`check` tries the files and raises `TlsFilesError`. Does no I/O yet."""
        self._paths = paths
        self._check = check
        self._seen: _Fingerprint | None = None

    def read(self) -> TlsMaterial:
        """Read them now. Raises `TlsFilesError`, also when they are being replaced at this moment."""
        before = self._fingerprint()
        contents = [None if path is None else _read(path) for path in self._paths.all()]
        if self._check is not None:
            self._check(self._paths)
        if self._fingerprint() != before:
            raise TlsFilesError("the files are being replaced")
        self._seen = before
        certificates, key, authorities = contents
        return TlsMaterial(certificates=certificates, key=key, authorities=authorities)

    def read_if_changed(self) -> TlsMaterial | None:
        """Read them if they are not as they were when they were read last. Raises `TlsFilesError`."""
        return None if self._fingerprint() == self._seen else self.read()

    def _fingerprint(self) -> _Fingerprint:
        return tuple(_fingerprint(path) for path in self._paths.all() if path is not None)


def _fingerprint(path: Path) -> small_file.Fingerprint:
    try:
        return small_file.fingerprint(path)
    except OSError as error:
        raise TlsFilesError(f"cannot read {path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        content, _ = small_file.read(path, most_bytes=_MAX_FILE_BYTES + 1)
    except small_file.NotRegularError:
        raise TlsFilesError(f"{path} is not a regular file") from None
    except OSError as error:
        raise TlsFilesError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise TlsFilesError(f"{path} is too large to be a PEM file")
    if _PEM not in content:
        # gRPC ends the whole program over an empty key or chain, and takes the system's authorities for empty ones.
        raise TlsFilesError(f"{path} holds no PEM")
    return content
