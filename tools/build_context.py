"""The files that a build of images may copy: the repository without what `.dockerignore` keeps out.

Patterns are those that the file needs: names, `*` within one directory, `**` for any number of them, `!` for
exceptions. The last one that matches decides, and a pattern that matches a directory matches what is in it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


class BuildContext:
    """One directory, and what of it a build may see."""

    def __init__(self, *, directory: Path) -> None:
        """Read the directory's `.dockerignore`."""
        self._directory = directory
        lines = (line.strip() for line in (directory / ".dockerignore").read_text().splitlines())
        self._patterns = [
            (line.startswith("!"), _expression(line.lstrip("!")))
            for line in lines
            if line and not line.startswith("#")
        ]

    def is_sent(self, path: str) -> bool:
        """Whether an engine would be given this file; the path is relative, with slashes."""
        sent = True
        for wanted, expression in self._patterns:
            if expression.fullmatch(path):
                sent = wanted
        return sent

    def files(self, source: str) -> Iterator[tuple[Path, str]]:
        """Give the files of one COPY source, each with its path below the source; a file alone has its name."""
        start = self._directory / source
        found = [start] if start.is_file() else sorted(path for path in start.rglob("*") if path.is_file())
        for file in found:
            if self.is_sent(file.relative_to(self._directory).as_posix()):
                yield file, file.name if start.is_file() else file.relative_to(start).as_posix()


def _expression(pattern: str) -> re.Pattern[str]:
    parts = [
        "(?:[^/]+/)*" if part == "**/" else re.escape(part).replace(r"\*", "[^/]*")
        for part in re.findall(r"\*\*/|[^/]*/?", pattern)
    ]
    return re.compile("".join(parts) + "(?:/.*)?")
