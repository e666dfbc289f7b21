"""A crash leaves no memory behind: neither of a program, nor of the processes that it starts."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import children
from tests.support.system import System, running_system


@pytest.fixture(scope="module")
def system(module_dir: Path) -> Iterator[System]:
    with running_system(module_dir) as running:
        running.app.register("ada@example.org")  # starts a hashing worker
        yield running


def _core_of(pid: int) -> tuple[str, str]:
    """Hard limit on core files, and the filter of what they contain."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [line for line in limits if line.startswith("Max core file size")]
    return line.split()[5], Path(f"/proc/{pid}/coredump_filter").read_text().strip()


def test_neither_program_nor_its_workers_can_leave_memory_in_a_core(system: System) -> None:
    workers = children(system.flowless.pid)
    assert workers
    for pid in (system.flowless.pid, system.sidecar.pid, *workers):
        assert _core_of(pid) == ("0", "00000000")


def test_an_operator_can_allow_core_dumps(run_dir: Path) -> None:
    with running_system(
        run_dir,
        flowless_environment={"FLOWLESS_CORE_DUMPS": "true"},
        sidecar_environment={"BRIDGE_SIDECAR_CORE_DUMPS": "true"},
    ) as system:
        ours = Path("/proc/self/coredump_filter").read_text().strip()
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        expected = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        for pid in (system.flowless.pid, system.sidecar.pid):
            assert _core_of(pid) == (expected, ours)
