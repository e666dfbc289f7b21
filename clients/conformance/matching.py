"""Is this what the case expects? A subset is asked for: what a case does not mention may be anything."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_MISSING: Final = object()


def differences(expected: Any, found: Any, *, where: str = "") -> Iterator[str]:
    """Say what is not as expected, a line each; nothing when it matches.

    A mapping matches one that has at least these names; a list one of the same length. What is empty (0, false, no
    text, no items) matches what is not there: protobuf does not tell the two apart. A mapping of a single name that
    begins with `$` asks something else: see `_ASKED`.
    """
    where = where or "the answer"
    if isinstance(expected, Mapping) and len(expected) == 1:
        ((name, argument),) = expected.items()
        if isinstance(name, str) and name.startswith("$"):
            yield from _asked(name, argument, found, where)
            return
    if isinstance(expected, Mapping):
        if found is _MISSING and not expected:
            yield f"{where} is not there"
        elif found is not _MISSING and not isinstance(found, Mapping):
            yield f"{where} is {_shown(found)}, not {_shown(expected)}"
        else:
            for name, value in expected.items():
                inner = found.get(name, _MISSING) if isinstance(found, Mapping) else _MISSING
                yield from differences(value, inner, where=f"{where}.{name}")
    elif isinstance(expected, list):
        yield from _lists(expected, found, where)
    elif found is _MISSING and not expected:
        return
    elif found is _MISSING or isinstance(expected, bool) != isinstance(found, bool) or expected != found:
        yield f"{where} is {_shown(found)}, not {_shown(expected)}"


def _lists(expected: list[Any], found: Any, where: str) -> Iterator[str]:
    items = [] if found is _MISSING else found
    if not isinstance(items, list) or len(items) != len(expected):
        yield f"{where} is {_shown(found)}, not {_shown(expected)}"
        return
    for number, (wanted, item) in enumerate(zip(expected, items, strict=True)):
        yield from differences(wanted, item, where=f"{where}[{number}]")


def _asked(name: str, argument: Any, found: Any, where: str) -> Iterator[str]:
    if name not in _ASKED:
        raise ValueError(f"{where}: {name} is none of {', '.join(_ASKED)}")
    holds = _ASKED[name]
    if not holds(argument, found):
        yield f"{where} is {_shown(found)}, which is not {name} {_shown(argument)}"


def _contains(argument: Any, found: Any) -> bool:
    if isinstance(found, list):
        return any(not list(differences(argument, item)) for item in found)
    return isinstance(found, str) and isinstance(argument, str) and argument in found


def _number(found: Any) -> float:
    return float(found) if isinstance(found, int | float) else float("nan")


_ASKED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$present": lambda wanted, found: (found not in (_MISSING, "", [], {})) is wanted,
    "$matches": lambda pattern, found: isinstance(found, str) and re.fullmatch(pattern, found, re.DOTALL) is not None,
    "$length": lambda length, found: len(() if found is _MISSING else found) == length,
    "$contains": _contains,
    "$not": lambda other, found: any(differences(other, found)),
    "$one_of": lambda values, found: any(not list(differences(value, found)) for value in values),
    "$at_least": lambda least, found: _number(0 if found is _MISSING else found) >= least,
    "$at_most": lambda most, found: _number(0 if found is _MISSING else found) <= most,
}
"""What can be asked of a value instead of a value."""


def _shown(value: Any) -> str:
    """Show a value, not endlessly."""
    if value is _MISSING:
        return "not there"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
