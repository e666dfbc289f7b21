"""What Linux tells of processes."""

from pathlib import Path


def children(pid: int) -> frozenset[int]:
    """Processes that this one has started and that are still there, zombies included."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return frozenset(int(child) for task in tasks for child in (task / "children").read_text().split())


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
