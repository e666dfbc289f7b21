"""What `make bench-languages` takes from a language's program, and how it is laid out."""

import json
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.language_programs import (
    JWT,
    LIST,
    REDIS,
    VALIDATE,
    Measurement,
    Program,
    ProgramError,
    Task,
    programs,
    read,
    run,
)
from bench.languages import QUICK, Result, main, select, table, written
from tools.processes import ROOT

TASK = Task(
    socket="/run/bridge.sock",
    session_id="sess_a-session-id",
    client_ip="203.0.113.7",
    redis_socket="/run/redis.sock",
    redis_key="key",
    jwt="a.b.c",
    jwt_public_key_pem="pem",
    seconds=0.01,
    warmup_seconds=0.01,
    concurrency=(1, 8),
)
ONE = Measurement(what=VALIDATE, concurrency=1, calls=10, p50_us=200.0, p99_us=400.0, per_second=5000.0)
COMPLETE = [
    ONE,
    replace(ONE, concurrency=8, p50_us=800.0, p99_us=900.0, per_second=10_000.0),
    replace(ONE, what=REDIS, p50_us=100.0),
    replace(ONE, what=REDIS, concurrency=8, p50_us=400.0, per_second=20_000.0),
    replace(ONE, what=JWT, p50_us=50.0),
]
GO = Program(name="go", toolchain=("go",), build="client-go", run=("build/bench",))


def lines(measured: list[Measurement]) -> str:
    return "\n".join(json.dumps(asdict(m)) for m in measured)


def script(tmp_path: Path, text: str) -> Program:
    """Make a program of these lines of Python."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(text))
    return Program(name="snake", toolchain=("sh",), build="help", run=(sys.executable, "-I", str(file)))


def test_measurements_are_read_in_the_order_of_the_table() -> None:
    assert read(lines(COMPLETE[::-1]), TASK) == COMPLETE


@pytest.mark.parametrize(
    ("printed", "complaint"),
    [
        (lines(COMPLETE[:-1]), "instead of"),
        (lines([*COMPLETE, replace(ONE, concurrency=2)]), "instead of"),
        (lines([*COMPLETE, ONE]), "twice"),
        (lines([replace(ONE, what="get")]), "instead of"),
        ("warming up\n" + lines(COMPLETE), "Expecting value"),
        ("[]", "exactly"),
        ('{"what": "validate"}', "exactly"),
        (json.dumps({**asdict(ONE), "more": 1}), "exactly"),
        (lines([replace(ONE, calls=0)]), "calls is 0"),
        (lines([replace(ONE, p50_us=float("nan"))]), "p50_us is nan"),
        (lines([replace(ONE, per_second=-1.0)]), "per_second is -1"),
        (json.dumps({**asdict(ONE), "calls": "10"}), "calls is '10'"),
        (json.dumps({**asdict(ONE), "calls": True}), "calls is True"),
        (lines([replace(ONE, p50_us=500.0)]), "greater"),
    ],
)
def test_what_is_not_exactly_the_measurements_asked_for_is_refused(printed: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(printed, TASK)


def test_a_ratio_is_to_the_own_validate_with_as_many_calls_in_flight() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table([Result(GO, COMPLETE)]).splitlines()]
    assert rows[0][:3] == ["language", "what", "in flight"]
    assert [row[2:] for row in rows[2:]] == [
        ["1", "200", "400", "5,000", "", ""],
        ["8", "800", "900", "10,000", "", ""],
        ["1", "100", "400", "5,000", "0.500", "1.00"],
        ["8", "400", "400", "20,000", "0.500", "2.00"],
        ["1", "50.0", "400", "5,000", "0.250", "1.00"],
    ]


def test_a_language_without_its_toolchain_is_named_and_not_left_out() -> None:
    report = written([Result(GO, missing=["go"])], QUICK, "0.00")
    assert [cell.strip() for cell in report.split("| go")[1].split("|")[1:3]] == ["not run", ""]
    assert "- go is not run: go not found" in report


def test_what_a_command_lacks_is_missing() -> None:
    assert Program(name="x", toolchain=("sh", "no-such-command"), build="", run=()).missing() == ["no-such-command"]


def test_a_program_is_found_by_its_name_or_from_the_top_of_the_repository() -> None:
    shell = Program(name="x", toolchain=(), build="", run=("sh", "-c", "true")).command()
    assert Path(shell[0]).is_absolute()
    assert shell[1:] == ["-c", "true"]
    assert Program(name="x", toolchain=(), build="", run=(".ci/run",)).command() == [str(ROOT / ".ci" / "run")]
    for missing in ("no-such-command", "clients/no-such-program"):
        with pytest.raises(ProgramError, match=f"x: {missing} is not there"):
            Program(name="x", toolchain=(), build="", run=(missing,)).command()


def test_a_program_gets_its_task_on_standard_input_and_its_lines_are_read(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        f"""
        import json, sys
        task = json.load(sys.stdin)
        assert task["session_id"] == {TASK.session_id!r} and task["concurrency"] == [1, 8], task
        assert not any({TASK.session_id!r} in word for word in sys.argv)
        print({lines(COMPLETE)!r})
        """,
    )
    assert run(program, TASK) == COMPLETE


def test_a_program_that_fails_is_an_error_that_shows_what_it_said_without_the_session_id(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        f"""
        import sys
        print({lines(COMPLETE)!r})
        sys.exit("cannot validate " + {TASK.session_id!r})
        """,
    )
    with pytest.raises(ProgramError, match=r"(?s)snake ended with 1.*cannot validate sess_…") as error:
        run(program, TASK)
    assert TASK.session_id not in str(error.value)


def test_a_program_that_prints_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="no measurement"):
        run(script(tmp_path, "import sys; sys.stdin.read()"), TASK)


def test_a_program_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.language_programs.START_SECONDS", 0.2)
    with pytest.raises(ProgramError, match="took longer than"):
        run(script(tmp_path, "import time; time.sleep(600)"), TASK)


def test_our_list_is_read_and_names_each_language_once() -> None:
    names = [program.name for program in programs(LIST)]
    assert len(names) == len(set(names))


def test_a_list_with_an_entry_that_lacks_something_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- name: go\n")
    with pytest.raises(ProgramError, match="toolchain"):
        programs(file)


def test_a_language_that_is_not_listed_cannot_be_chosen() -> None:
    assert select([GO], []) == select([GO], ["go"]) == [GO]
    with pytest.raises(ProgramError, match="no such language: pascal; there is go"):
        select([GO], ["pascal"])


def test_require_all_fails_where_a_language_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- {name: ada, toolchain: [no-such-command], build: client-ada, run: [ada]}\n")
    assert main(["--quick", "--list-file", str(file)]) == 0
    assert "ada is not run: no-such-command not found" in capsys.readouterr().out
    assert main(["--quick", "--require-all", "--list-file", str(file)]) == 1
    assert "error: not run: ada" in capsys.readouterr().err


def test_a_program_that_cannot_be_built_fails_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- {name: ada, toolchain: [sh], build: no-such-target, run: [ada]}\n")
    assert main(["--quick", "--list-file", str(file)]) == 1
    assert "`make no-such-target` ended with 2" in capfd.readouterr().err
