"""What a case says by reference: `${login.session_id}`, and the little that would be unreadable when written out."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from trust_core.identifiers import new_session_id

_REFERENCE: Final = re.compile(r"\$\{([a-z_0-9.]+)\}")


class UnknownReferenceError(Exception):
    """A case names something that no step before it has brought; the text says what."""


def resolve(value: Any, known: Mapping[str, Any]) -> Any:
    """Put what is known in place of references, however deep.

    - `${login.session_id}` alone is that value, of whatever type; within other text it is its text.
    - `${new_session_id}` is a session id that is well formed and that nobody has.
    - `{$repeat: [text, 512]}` is that text so many times over; `{$list: [value, 64]}` a list of so many copies in
      which `#` is the number of each.
    - `{$join: [text, text]}` is one text after the other; `{$add: [number, 1]}` is the sum.
    """
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, list):
        return [resolve(item, known) for item in value]
    if isinstance(value, Mapping):
        if len(value) == 1:
            ((name, argument),) = value.items()
            made = _MAKERS.get(name)
            if made is not None:
                return made(resolve(argument, known))
        return {name: resolve(item, known) for name, item in value.items()}
    return value


def _text(text: str, known: Mapping[str, Any]) -> Any:
    whole = _REFERENCE.fullmatch(text)
    if whole is not None:
        return _look_up(whole[1], known)
    return _REFERENCE.sub(lambda match: str(_look_up(match[1], known)), text)


def _look_up(path: str, known: Mapping[str, Any]) -> Any:
    if path == "new_session_id":
        return new_session_id(os.urandom)
    value: Any = known
    for part in path.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            raise UnknownReferenceError(f"nothing is known as ${{{path}}}")
    return value


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.replace("#", str(number))
    if isinstance(value, Mapping):
        return {name: _numbered(item, number) for name, item in value.items()}
    return [_numbered(item, number) for item in value] if isinstance(value, list) else value


_MAKERS: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "$repeat": lambda arguments: arguments[0] * arguments[1],
    "$list": lambda arguments: [_numbered(arguments[0], number) for number in range(arguments[1])],
    "$join": "".join,
    "$add": sum,
}
