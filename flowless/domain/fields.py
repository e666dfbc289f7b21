"""Checks of fields that callers send: collect every violation, then refuse once."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trust_core.errors import Violation, invalid

_EXACT: Final = 2**53
"""Whole numbers up to here are exact in a double, which is all that a protobuf Struct holds (RFC 8259, section 6)."""
MAX_VIOLATIONS: Final = 8
"""The first ones are told: an error travels in metadata, of which clients accept 8 KiB."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Fields:
    """Collects violations. Use one per request; call `refuse` before using any of the values."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Note one violation, once."""
        violation = Violation(field=field, description=description)
        if violation not in self._violations and len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(violation)

    def refuse(self) -> None:
        """Raise INVALID_FIELD with everything noted; do nothing when all is well."""
        if self._violations:
            raise invalid(*self._violations)

    def text(self, field: str, value: str, *, most: int, least: int = 0) -> None:
        """Note a text that is too short, too long (in characters) or holds control characters."""
        if least and not value:
            self.add(field, "required")
        elif not least <= len(value) <= most:
            self.add(field, f"{least} to {most} characters" if least else f"at most {most} characters")
        elif _CONTROL.search(value):
            self.add(field, "must not hold control characters")

    def matching(self, field: str, value: str, pattern: re.Pattern[str], description: str) -> None:
        """Note a text that the pattern does not match as a whole."""
        if pattern.fullmatch(value) is None:
            self.add(field, description)

    def utf8(self, field: str, value: str, *, most: int) -> None:
        """Note a text longer than `most` bytes in UTF-8. Any character is welcome: it is only ever digested."""
        if len(value.encode("utf-8", "surrogatepass")) > most:
            self.add(field, f"at most {most} bytes")

    def json_object(self, field: str, value: Mapping[str, Any], *, most: int, deepest: int) -> None:
        """Note an object that JSON cannot express, longer than `most` bytes, too deep, or that databases refuse."""
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            self.add(field, "a JSON object with finite numbers")
            return
        if len(text.encode("utf-8", "surrogatepass")) > most:
            self.add(field, f"at most {most} bytes as JSON")
        depth, numbers_fit = _measured(value)
        if depth > deepest:
            self.add(field, f"at most {deepest} objects and lists inside one another")
        if not numbers_fit:
            self.add(field, "no whole numbers beyond 2**53, which clients cannot read exactly")
        # Without escaped backslashes: what is left as \u0000 is NUL and not a text that looks like it.
        if "\\u0000" in text.replace("\\\\", "") or any("\ud800" <= c <= "\udfff" for c in text):
            self.add(field, "must not hold NUL or half a surrogate pair")

    def size(self, field: str, values: Sequence[object], *, most: int) -> None:
        """Note a list that is too long."""
        if len(values) > most:
            self.add(field, f"at most {most} items")


def _measured(value: object) -> tuple[int, bool]:
    """Count the objects and lists inside one another, and say whether every number fits a double. No recursion."""
    depth, numbers_fit = 0, True
    level = [value]
    while level:
        inner: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, int) and abs(each) > _EXACT:
                numbers_fit = False
        nested = any(isinstance(each, Mapping | list) for each in level)
        depth += nested
        level = inner
    return depth, numbers_fit
