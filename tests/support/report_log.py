"""What the programs' parts log while they run in a test's own process goes into the report of that test."""

import logging
import sys

from trust_core import logs


class _Report:
    """Standard output as it is at the moment: pytest gives each test one of its own."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return False


def log_into_report(*, level: str = "debug") -> None:
    """Set up logging for this process as it is outside of tests that set it up themselves.

    structlog's own defaults will not do: its renderer for terminals cannot take exceptions as we describe them.
    """
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    logs.configure(level=level, style="json", stream=_Report())  # type: ignore[arg-type]  # all that is used of it
    root.handlers[:], root.level = handlers, root_level
