"""The cases as they stand in `cases/*.yaml`, read strictly: a word that is not known is a mistake."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clients.conformance.methods import METHODS, VALIDATE

DIRECTORY: Final = Path(__file__).resolve().parent / "cases"
OUTCOMES: Final = ("active", "denied", "unavailable", "failure", "error", "response", "cancelled")
"""What a call may be expected to come to; `error` is `unavailable` or `failure`, whichever the client's type is."""
ACTIONS: Final = ("sidecar", "flowless", "database", "session_was", "revoke", "script", "wait_for")
SOURCES: Final = ("browser", "elsewhere", "proxy")
"""Where a request to an app may come from."""
PAGES: Final = ("passes", "refused", "never_passes")
"""What may be expected of a request to an app."""


class CaseError(Exception):
    """A file of cases is wrong; the text says where and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanwhile:
    """What happens while a call is under way, so many seconds after it began."""

    after: float
    do: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call by the driver. Times in seconds.

    `eventually`: made again until it is as expected, for so long at most. `repeat`: made so many times.
    """

    method: str
    request: Mapping[str, Any] = field(default_factory=dict)
    socket: str = "sidecar"
    timeout: float | None = None
    cancel_after: float | None = None
    known_as: str = ""
    outcome: str = "response"
    expected: Any = field(default_factory=dict)
    at_most: float | None = None
    at_least: float | None = None
    eventually: float = 0.0
    repeat: int = 1
    meanwhile: Meanwhile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """A change to the world."""

    action: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saw:
    """What the scripted sidecar is expected to have seen of one method."""

    method: str
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """One request to an app that has a client's middleware.

    `outcome` is one of `PAGES`: `passes` expects the address of the session's user, or none; `refused` a status and a
    reason; `never_passes` anything else than to get in. `eventually`: as with a call.
    """

    path: str
    outcome: str
    expected: Any
    headers: tuple[Any, ...] = ()
    source: str = "browser"
    eventually: float = 0.0


Step = Call | Do | Saw | Get


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case: a sentence, what there is beforehand, and what happens then."""

    group: str
    name: str
    given: Mapping[str, Any]
    steps: tuple[Step, ...]

    @property
    def asks_app(self) -> bool:
        """Whether it is played with apps, which have a middleware, and not with clients."""
        return any(isinstance(step, Get) for step in self.steps)


def read_cases(directory: Path = DIRECTORY) -> tuple[Case, ...]:
    """Read all files of cases in their order by name. Raises `CaseError`."""
    files = sorted(directory.glob("*.yaml"))
    cases = tuple(case for file in files for case in cases_of(file.stem, file.read_text(encoding="utf-8")))
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CaseError(f"more than one case has this name: {twice[0]}")
    return cases


def cases_of(group: str, text: str) -> tuple[Case, ...]:
    """Read one file's text. Raises `CaseError`."""
    entries = yaml.safe_load(text)
    if not isinstance(entries, list):
        raise CaseError(f"{group}: must be a list of cases")
    return tuple(_case(group, entry) for entry in entries)


def _case(group: str, entry: Any) -> Case:
    where = f"{group}: {entry.get('case') if isinstance(entry, dict) else entry!r}"
    taken = _fields(where, entry, needed=("case", "steps"), others=("given",))
    steps = tuple(_step(f"{where}, step {number}", step) for number, step in enumerate(taken["steps"], 1))
    if not any(isinstance(step, Call | Get) for step in steps):
        raise CaseError(f"{where}: calls nothing")
    if any(isinstance(step, Get) for step in steps) and any(isinstance(step, Call | Saw) for step in steps):
        raise CaseError(f"{where}: asks an app and a client")
    given = _fields(where, taken.get("given") or {}, needed=(), others=("user", "login"))
    return Case(group=group, name=str(taken["case"]), given=given, steps=steps)


def _fields(where: str, entry: Any, *, needed: tuple[str, ...], others: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CaseError(f"{where}: must be a mapping")
    unknown = [str(name) for name in entry if name not in needed + others]
    missing = [name for name in needed if name not in entry]
    if unknown or missing:
        raise CaseError(
            f"{where}: has {', '.join(unknown) or 'nothing'} too many and lacks {', '.join(missing) or 'nothing'}"
        )
    return entry


def _step(where: str, entry: Any) -> Step:
    if isinstance(entry, dict) and "do" in entry:
        return Do(action=_action(where, _fields(where, entry, needed=("do",), others=())["do"]))
    if isinstance(entry, dict) and "saw" in entry:
        taken = _fields(where, entry, needed=("saw", "expect"), others=())
        return Saw(method=_method(where, taken["saw"]), expected=taken["expect"])
    if isinstance(entry, dict) and "get" in entry:
        return _get(where, entry)
    return _call(where, entry)


def _get(where: str, entry: Any) -> Get:
    taken = _fields(where, entry, needed=("get",), others=("headers", "from", "eventually", *PAGES))
    outcomes = [name for name in PAGES if name in taken]
    source = taken.get("from", "browser")
    headers = taken.get("headers", [])
    if len(outcomes) != 1:
        raise CaseError(f"{where}: must expect one of {', '.join(PAGES)}")
    if source not in SOURCES:
        raise CaseError(f"{where}: from must be one of {', '.join(SOURCES)}")
    refused = taken.get("refused", [0, ""])
    if not isinstance(refused, list) or [type(part) for part in refused] != [int, str]:
        raise CaseError(f"{where}: refused is a status and a reason")
    if not all(isinstance(header, list) and len(header) == 2 for header in headers):
        raise CaseError(f"{where}: a header is a name and a value")
    return Get(
        path=str(taken["get"]),
        outcome=outcomes[0],
        expected=taken[outcomes[0]],
        headers=tuple(headers),
        source=source,
        eventually=float(taken.get("eventually", 0)),
    )


def _action(where: str, action: Any) -> Mapping[str, Any]:
    if not isinstance(action, dict) or len(action) != 1 or next(iter(action)) not in ACTIONS:
        raise CaseError(f"{where}: do must be one of {', '.join(ACTIONS)}")
    return action


def _method(where: str, name: Any) -> str:
    if name not in METHODS:
        raise CaseError(f"{where}: {name} is no method that the socket serves")
    return str(name)


_CALL: Final[Mapping[str, Callable[[Any], Any]]] = {
    "socket": str,
    "timeout": float,
    "cancel_after": float,
    "at_most": float,
    "at_least": float,
    "eventually": float,
    "repeat": int,
    "request": dict,
}
"""Fields of a call that are taken as they are, and their types."""


def _call(where: str, entry: Any) -> Call:
    taken = _fields(where, entry, needed=("call",), others=(*_CALL, "as", "expect", "meanwhile"))
    method = taken["call"] if taken["call"] == VALIDATE else _method(where, taken["call"])
    if method == VALIDATE and "expect" not in taken:
        raise CaseError(f"{where}: does not say what is expected of validate")
    outcome, expected = _expectation(where, taken.get("expect", {"response": {}}), method)
    meanwhile = taken.get("meanwhile")
    if meanwhile is not None:
        during = _fields(where, meanwhile, needed=("after", "do"), others=())
        meanwhile = Meanwhile(after=float(during["after"]), do=_action(where, during["do"]))
    return Call(
        method=method,
        known_as=str(taken.get("as", "")),
        outcome=outcome,
        expected=expected,
        meanwhile=meanwhile,
        **{name: kind(taken[name]) for name, kind in _CALL.items() if name in taken},
    )


def _expectation(where: str, expect: Any, method: str) -> tuple[str, Any]:
    if not isinstance(expect, dict) or len(expect) != 1 or next(iter(expect)) not in OUTCOMES:
        raise CaseError(f"{where}: expect must be one of {', '.join(OUTCOMES)}")
    ((outcome, expected),) = expect.items()
    if outcome in (("response", "error") if method == VALIDATE else ("active", "denied")):
        raise CaseError(f"{where}: {method} does not come to {outcome}")
    if outcome == "denied":
        expected = {"reason": expected}
    return str(outcome), {} if expected is None else expected
