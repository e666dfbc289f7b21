"""Common passwords: the list that the zxcvbn library carries, and one of the deployment's own."""

import unicodedata
from pathlib import Path


class CommonPasswordList:
    """Case-folded passwords that are too frequent. Read at the first question, and kept."""

    def __init__(self, *, file: Path | None = None) -> None:
        """`file` holds one password a line, in UTF-8; it adds to the library's list."""
        self._file = file
        self._entries: frozenset[str] | None = None

    def __contains__(self, form: object) -> bool:
        """Whether it is one."""
        return form in self.load()

    def load(self) -> frozenset[str]:
        """Read the lists now. Raises OSError, UnicodeDecodeError."""
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def _read(self) -> frozenset[str]:
        # Imported here: the list takes a tenth of a second and some megabytes, and not every process asks.
        from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415

        entries = {entry.casefold() for entry in FREQUENCY_LISTS["passwords"]}
        if self._file is not None:
            lines = map(str.strip, self._file.read_text("utf-8").splitlines())
            entries |= {unicodedata.normalize("NFKC", line).casefold() for line in lines if line}
        return frozenset(entries)
