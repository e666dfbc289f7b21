"""How much of the machine hashing may have: what a container is allowed, where that is less than what is there."""

import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")
"""Of version 2, as a container sees its own; another layout is taken for no limit."""


def cores(cgroup: Path = _CGROUP) -> int:
    """Count the cores that this process may run on, and no more than its quota is worth, rounded up."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    match _words(cgroup / "cpu.max"):
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            return max(1, min(there, -(-int(quota) // int(period))))
    return there


def memory_bytes(cgroup: Path = _CGROUP) -> int | None:
    """Say how much memory all processes here may have together before the kernel ends one; `None` without a limit."""
    match _words(cgroup / "memory.max"):
        case [limit] if limit.isdigit():
            return int(limit)
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
