"""What came of a run: the matrix for people, and the same for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clients.conformance.case_file import Case


@dataclass(slots=True, kw_only=True)
class Column:
    """The results of one driver or app. `not_run`: why nothing was run; empty where it was."""

    name: str
    runtime: str = ""
    not_run: str = ""
    build_failed: bool = False
    problems: dict[str, str] = field(default_factory=dict)
    """Name of the case -> what is not as it should be; empty where all is well."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether anything was not as it should be; not having run at all is not that."""
        return self.build_failed or any(self.problems.values())

    def cell(self, names: Sequence[str]) -> str:
        """Say in a word or two what came of these cases."""
        if self.build_failed:
            return "FAIL"
        if self.not_run:
            return "not run"
        played = [name for name in names if name in self.problems]
        failed = sum(bool(self.problems[name]) for name in played)
        if not played:
            return "FAIL" if self.failed else "-"
        if failed:
            return f"FAIL {failed}/{len(played)}"
        return f"ok {len(played)}" if len(names) > 1 else "ok"


def matrix(cases: Sequence[Case], columns: Sequence[Column], *, by_case: bool) -> str:
    """Draw the matrix: a row for each group, or for each case; a column for each driver or app."""
    if by_case:
        rows = [(f"{case.group}: {case.name}", [case.name]) for case in cases]
    else:
        groups = dict.fromkeys(case.group for case in cases)
        rows = [(group, [case.name for case in cases if case.group == group]) for group in groups]
    table = [["", *(column.name for column in columns)]]
    table += [[title, *(column.cell(names) for column in columns)] for title, names in rows]
    table.append(["", *("" if column.not_run else f"{column.seconds:.0f} s" for column in columns)])
    widths = [max(len(row[index]) for row in table) for index in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def details(columns: Sequence[Column]) -> Iterator[str]:
    """Say of each failure what is not as it should be, and of each column why it was not run."""
    for column in columns:
        if column.not_run:
            yield f"{column.name}: {'FAIL' if column.build_failed else 'not run'}: {column.not_run}"
        for name, problem in column.problems.items():
            if problem:
                yield f"{column.name}: {name}\n    " + problem.replace("\n", "\n    ")


def as_json(cases: Sequence[Case], columns: Sequence[Column]) -> dict[str, Any]:
    """Make what `--json` prints."""
    return {
        "cases": [{"group": case.group, "name": case.name} for case in cases],
        "results": [
            {
                "name": column.name,
                "runtime": column.runtime,
                "result": "FAIL" if column.failed else "not run" if column.not_run else "ok",
                "not_run": column.not_run,
                "seconds": round(column.seconds, 1),
                "problems": {name: problem for name, problem in column.problems.items() if problem},
                "passed": [name for name, problem in column.problems.items() if not problem],
            }
            for column in columns
        ],
    }
