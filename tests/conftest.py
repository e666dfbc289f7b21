"""Fixtures for every test, and a temporary directory that goes with the run."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import databases
from tests.support.preloaded import PreloadedLauncher
from tests.support.report_log import log_into_report
from tools.processes import CommandLineLauncher, ManagedProcess, temporary_directory
from trust_core import core_dumps

# How long an example takes depends on what else the machine does; `timeout` bounds a whole test.
hypothesis.settings.register_profile("repository", deadline=None)
hypothesis.settings.load_profile("repository")

_PRELOADED = PreloadedLauncher(fallback=CommandLineLauncher())
_BASE = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set up logging; keep `tmp_path` below a directory of this run alone, so that nothing stays behind."""
    log_into_report()
    for number in (signal.SIGHUP, signal.SIGINT):
        # Under `nohup`, or behind a script's `&`, this run goes on all the same, but what it starts is not born deaf.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    # Coverage measures a process from its start; forks of one that it does not measure would not be seen.
    if "COVERAGE_PROCESS_CONFIG" not in os.environ and not config.pluginmanager.hasplugin("_cov"):
        ManagedProcess.launcher = _PRELOADED
    if not hasattr(config, "workerinput") and config.option.basetemp is None:
        config.stash[_BASE] = Path(tempfile.mkdtemp(prefix="tl-tests-"))
        config.option.basetemp = config.stash[_BASE] / "t"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the schedules: the one file that keeps a core busy for a minute would be waited for at the end."""
    items.sort(key=lambda item: "test_simulation" not in item.nodeid)


def pytest_unconfigure(config: pytest.Config) -> None:
    databases.stop()
    _PRELOADED.stop()
    if base := config.stash.get(_BASE, None):
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(autouse=True)
def _log_into_report_again() -> Iterator[None]:
    """Whatever a test made of the log: the next one may not write into a stream that is closed by then."""
    yield
    log_into_report()


@pytest.fixture(autouse=True)
def _core_dumps_of_tests_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is run in a test's own process would forbid them to it, and to all that it starts, for good."""
    monkeypatch.setattr(core_dumps, "forbid", lambda: None)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A private directory with a path short enough for Unix sockets; `tmp_path` is often too long."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def module_dir() -> Iterator[Path]:
    """Like `run_dir`, for what all tests of a module share."""
    with temporary_directory() as directory:
        yield directory
