"""What the launcher does to a program, seen from inside one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.launch import Broken
from tools.processes import ROOT


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.launch", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("rule", list(Broken))
def test_a_rule_that_is_broken_exists(rule: Broken) -> None:
    done = launched("--break", rule, "-m", rule.program, "--version")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_reads_the_wall_clock_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "offset"
    text = (
        "import datetime, pathlib, sys; from tests.faults import launch; from trust_core.clock import SystemClock; "
        "file = pathlib.Path(sys.argv[1]); launch.set_wall_clock_by(file); clock = SystemClock(); "
        "difference = lambda: round((clock.now() - datetime.datetime.now(datetime.UTC)).total_seconds() / 60); "
        "file.write_text('3600'); print(difference()); file.write_text('-3600.0'); print(difference())"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["60", "-60"]
