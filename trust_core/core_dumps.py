"""Core dumps, which would write every secret in memory to a disk or to whoever collects them: none, unless allowed.

Two locks, because each has a gap. The limit on the size of core files does not hold for cores that the kernel pipes
to a program (systemd-coredump, apport). The filter of what a core contains holds for these as well: without any
segment of memory nothing of a secret is in one. Both are inherited by every program that this one starts.

`PR_SET_DUMPABLE` is left alone: it would also give `/proc/PID` to root and so break debuggers, profilers and whoever
counts open files, to keep out processes of the same user, who can read this program's secret files anyway.
"""

import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

_FILTER: Final = Path("/proc/self/coredump_filter")


def forbid() -> None:
    """Forbid them from now on, for this process and its children. Never fails: the two locks hold one by one."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        _FILTER.write_text("0")
