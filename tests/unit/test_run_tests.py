"""What failed beside others is tried again alone, and only what fails twice fails the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.long

WHERE = {"unit": "tests/unit", "race": "tests/faults"}
FLAKY = """
from pathlib import Path
def test_{name}():
    seen = Path(__file__).with_name("{name}.seen")
    first = not seen.exists()
    seen.touch()
    assert not first
"""


def run(directory: Path, **tests: str) -> subprocess.CompletedProcess[str]:
    for name, text in tests.items():
        file = directory / WHERE.get(name, "tests/e2e") / f"test_{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "tools.run_tests", "-q", f"--rootdir={directory}"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_passes_alone_does_not_fail_the_run_and_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, flaky=FLAKY.format(name="flaky"), fine="def test_fine(): pass")
    assert done.returncode == 0, done.stdout
    assert "passed only when nothing else ran:\n  tests/e2e/test_flaky.py::test_flaky\n" in done.stdout


def test_what_fails_twice_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, flaky=FLAKY.format(name="flaky"), broken="def test_broken(): assert False")
    assert done.returncode == 1
    assert "passed only" not in done.stdout


def test_many_failures_are_not_tried_again(tmp_path: Path) -> None:
    done = run(tmp_path, **{f"f{number}": FLAKY.format(name=f"f{number}") for number in range(6)})
    assert done.returncode == 1
    assert "once more" not in done.stdout


@pytest.mark.parametrize("name", ["unit", "race"])
def test_what_needs_no_turn_or_is_about_races_is_not_tried_again(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, **{name: FLAKY.format(name=name)})
    assert done.returncode == 1
    assert "once more" not in done.stdout


@pytest.mark.parametrize(("tests", "code"), [({}, 5), ({"bad": "import nothing_of_this_name"}, 2)])
def test_a_run_that_says_nothing_of_the_tests_fails(tmp_path: Path, tests: dict[str, str], code: int) -> None:
    assert run(tmp_path, **tests).returncode == code


def test_what_passes_is_run_once(tmp_path: Path) -> None:
    done = run(tmp_path, fine="def test_fine(): pass")
    assert done.returncode == 0
    assert "once more" not in done.stdout
