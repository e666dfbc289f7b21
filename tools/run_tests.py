"""Run the test suite, and what failed in it among real processes once more, alone.

The suite keeps all cores busy with several runs of both programs at once. A test that waits for a process may fail
for want of a turn, and says nothing then about the code. So a test of processes that failed is run again with nothing
beside it, and only what fails twice fails the run. What passed the second time is named: it is a test to mend. Many
failures at once have another cause and are not tried again. Nor is what waits for nobody (unit tests, stores), and
nothing of `tests/faults`: a race that shows itself once there is one.

    python -m tools.run_tests --numprocesses=3 --dist=loadfile
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

AGAIN: Final = ("tests/e2e/", "tests/integration/", "tests/clients/", "tests/skew/")
"""Tests that wait for processes."""
AGAIN_AT_MOST: Final = 5
"""More failures than these are not for want of a turn."""
FAILED: Final = 1
"""pytest's exit code for "tests failed"; the higher ones are for runs that say nothing of the tests."""


def failures(cache: Path) -> list[str]:
    """List the tests that failed in the last run, as pytest's cache has them."""
    try:
        return sorted(json.loads((cache / "v" / "cache" / "lastfailed").read_text()))
    except FileNotFoundError:
        return []


def run(arguments: list[str], *, cache: Path) -> int:
    """Run pytest with these arguments, and what failed again; return the exit code of what counts."""
    pytest = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}"]
    code = subprocess.run([*pytest, "--cache-clear", *arguments], check=False).returncode
    failed = failures(cache)
    may_pass = all(name.startswith(AGAIN) for name in failed)
    if code != FAILED or not may_pass or not 0 < len(failed) <= AGAIN_AT_MOST:
        return code
    print(f"\nonce more, alone: {len(failed)} that failed", flush=True)
    # By name, whatever the arguments say about where to look; and one after the other.
    code = subprocess.run([*pytest, "-p", "no:xdist", *failed], check=False).returncode
    if code == 0:
        print("\npassed only when nothing else ran:", *failed, sep="\n  ", flush=True)
    return code


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:], cache=Path(".pytest_cache")))
