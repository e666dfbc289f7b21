"""What the runner prints and how it ends."""

from pathlib import Path

import pytest

from clients.conformance.__main__ import exit_code, main
from clients.conformance.case_file import Case
from clients.conformance.driver_list import DriverListError, read_drivers
from clients.conformance.matrix import Column, as_json, details, matrix

CASES = tuple(
    Case(group=group, name=name, given={}, steps=()) for group, name in (("g", "one"), ("g", "two"), ("h", "three"))
)
GOOD = Column(name="go", problems={"one": "", "two": "", "three": ""})
BAD = Column(name="java", problems={"one": "", "two": "step 1: wrong", "three": ""})
ABSENT = Column(name="rust", not_run="this machine has no cargo")
UNBUILT = Column(name="typescript", not_run="make client-typescript failed", build_failed=True)
COLUMNS = (GOOD, BAD, ABSENT, UNBUILT)


def test_the_matrix_tells_what_is_well_what_failed_and_what_was_not_run() -> None:
    rows = [line.split("  ") for line in matrix(CASES, COLUMNS, by_case=False).splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == ["go", "java", "rust", "typescript"]
    assert cells[1] == ["g", "ok 2", "FAIL 1/2", "not run", "FAIL"]
    assert cells[2] == ["h", "ok", "ok", "not run", "FAIL"]


def test_a_driver_that_does_not_even_start_has_failed() -> None:
    column = Column(name="go", problems={"(the start)": "the driver ended"})
    assert column.cell(["one", "two"]) == "FAIL"
    assert exit_code([column], require_all=False) == 1


def test_the_details_name_each_failure_and_each_language_that_was_not_run() -> None:
    assert list(details(COLUMNS)) == [
        "java: two\n    step 1: wrong",
        "rust: not run: this machine has no cargo",
        "typescript: FAIL: make client-typescript failed",
    ]


def test_programs_are_told_the_same() -> None:
    told = as_json(CASES, COLUMNS)
    assert [driver["result"] for driver in told["results"]] == ["ok", "FAIL", "not run", "FAIL"]
    assert told["results"][1]["problems"] == {"two": "step 1: wrong"}


@pytest.mark.parametrize(
    ("columns", "require_all", "code"),
    [
        ([GOOD], False, 0),
        ([GOOD], True, 0),
        ([GOOD, ABSENT], False, 0),
        ([GOOD, ABSENT], True, 3),
        ([GOOD, BAD], False, 1),
        ([BAD, ABSENT], True, 1),
        ([UNBUILT], False, 1),
        ([], False, 2),
        ([ABSENT], False, 2),
    ],
)
def test_the_exit_code_tells_failures_and_what_was_not_run(
    columns: list[Column], require_all: bool, code: int
) -> None:
    assert exit_code(columns, require_all=require_all) == code


@pytest.mark.parametrize("arguments", [["--only", "cobol"], ["--case", "no such case"]])
def test_a_name_that_is_not_there_is_a_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "name: go",
        "- {name: go, toolchain: [go], build: client-go}",
        "- {name: go, toolchain: go, build: client-go, run: [x]}",
        "- &a {name: go, toolchain: [go], build: client-go, run: [x]}\n- *a",
    ],
)
def test_a_wrong_list_of_drivers_is_a_mistake(text: str, tmp_path: Path) -> None:
    file = tmp_path / "drivers.yaml"
    file.write_text(text)
    with pytest.raises(DriverListError):
        read_drivers(file)


def test_a_toolchain_that_is_not_there_is_found_missing(tmp_path: Path) -> None:
    file = tmp_path / "drivers.yaml"
    file.write_text("- {name: x, toolchain: [sh, no-such-compiler], build: x, run: [x]}")
    assert read_drivers(file)[0].missing == ("no-such-compiler",)
