"""A small file that an operator names, read without ever waiting for it."""

import os
import stat
from pathlib import Path


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
