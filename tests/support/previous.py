"""The version before this one, to be run beside it: the tree of the commit that `tests/skew/previous` names.

Its programs run with this environment's dependencies and its own code. Without the history of the repository there is
nothing to run, and the tests that ask for it are skipped.
"""

import atexit
import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tools.processes import ROOT

_RECORD: Final = ROOT / "tests" / "skew" / "previous"
_PARTS: Final = ("flowless", "bridge_sidecar", "trust_core", "clients/python/src")


def previous_commit() -> str:
    """The recorded commit."""
    return _RECORD.read_text().split()[0]


@functools.cache
def _tree() -> Path | None:
    """Unpack the commit, once for this process; `None` without history."""
    archived = subprocess.run(
        ["git", "archive", "--format=tar", previous_commit(), *_PARTS], cwd=ROOT, capture_output=True, check=False
    )
    if archived.returncode != 0:
        return None
    directory = Path(tempfile.mkdtemp(prefix="tl-previous-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    # Python 3.11.2, which Debian has, knows no filters; the versions that want one say so.
    filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
        archive.extractall(directory, **filters)
    return directory


def is_there() -> bool:
    """Whether the repository's history holds it."""
    return _tree() is not None


def previous_code() -> Mapping[str, str]:
    """Variables with which a program, and what it starts, runs the version before. Skips the test without it."""
    tree = _tree()
    if tree is None:
        pytest.skip(f"no history here: {previous_commit()} is not in this repository")
    # Safe path: the working directory, which holds this version, does not go before it.
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "clients/python/src")))}
