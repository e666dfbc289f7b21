"""Write the tables of `docs/operations/metrics.md` from what the programs declare: `make metrics-doc`.

With `--check` it writes nothing and fails when the document is not what would be written. That the programs serve
what they declare is shown by `tests/e2e/test_metrics.py`.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import bridge_sidecar.metrics
import flowless.adapters.metrics
from tools.processes import ROOT
from trust_core import metric_families

PAGE: Final = ROOT / "docs" / "operations" / "metrics.md"
_BEGIN: Final = "<!-- {}: written by `make metrics-doc` -->"
_END: Final = "<!-- end -->"
_SPANS: Final = (
    ("flowless", flowless.adapters.metrics.CATALOGUE),
    ("bridge-sidecar", bridge_sidecar.metrics.CATALOGUE),
)


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| metric | kind | labels | what it says |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _of_catalogue(catalogue: metric_families.Catalogue) -> Iterator[str]:
    return _table(
        (f"`{f.shown_name}`", f.kind, ", ".join(f"`{label}`" for label in f.labels), f.text)
        for f in catalogue.families
    )


def _of_process() -> Iterator[str]:
    return _table((f"`{name}`", kind, "", text) for name, kind, text in metric_families.PROCESS)


def written(page: str) -> str:
    """Put the tables into the page. Raises ValueError where it has no place for one."""
    tables = {name: _of_catalogue(catalogue) for name, catalogue in _SPANS} | {"process": _of_process()}
    for name, lines in tables.items():
        begin = _BEGIN.format(name)
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(_END)
        if not (found and ended):
            raise ValueError(f"{PAGE.name} has no place that begins with {begin}")
        page = "\n".join([f"{before}{begin}", *lines, f"{_END}{after}"])
    return page


def main(arguments: Sequence[str]) -> int:
    """Write the document, or say whether it is as it should be."""
    page = PAGE.read_text()
    fresh = written(page)
    if "--check" in arguments:
        if page != fresh:
            print("docs/operations/metrics.md is not up to date: make metrics-doc", file=sys.stderr)
        return int(page != fresh)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
