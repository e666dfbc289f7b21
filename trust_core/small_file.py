"""A small file that an operator names: read without ever waiting for it, and known again when it has changed."""

import os
import stat
from pathlib import Path

Fingerprint = tuple[int, int, int, int]


class NotRegularError(OSError):
    """The path leads to a directory, a device or a pipe."""


def read(path: Path, *, most_bytes: int) -> tuple[bytes, int]:
    """Return at most that many bytes of a regular file, and its mode. Raises OSError.

    Without O_NONBLOCK a FIFO would hold the event loop until somebody writes, and so for ever.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularError(0, "is not a regular file")
        return file.read(most_bytes), mode


def fingerprint(path: Path) -> Fingerprint:
    """Say which content a path leads to, without reading it. Raises OSError.

    A change is a new inode, size or modification time: both an edited file and a swapped symbolic link (as
    orchestrators mount files) are seen.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
