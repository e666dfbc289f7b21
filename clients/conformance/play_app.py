"""Play one case with one app: ask as a browser would, and compare with what every middleware answers."""

import re
import time
from typing import Any, Final

import grpc

from clients.conformance.app import App, AppError, Page
from clients.conformance.beforehand import beforehand
from clients.conformance.case_file import Case, Do, Get
from clients.conformance.references import UnknownReferenceError, resolve
from clients.conformance.world import World, WorldError
from tools.processes import ProcessError

ADDRESSES: Final = {"browser": "127.0.0.5", "elsewhere": "127.0.0.6", "proxy": "127.0.0.9"}
"""Who asks from where. Apps trust the proxy, and nobody else."""
BROWSER: Final = {"client_ip": ADDRESSES["browser"], "device_fingerprint": "device", "user_agent": "agent"}
_BACK_SECONDS: Final = 2.5
"""As for clients: so long an app may take to have its sidecar again."""
_FIRST_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.02
_SESSION_ID: Final = re.compile(r"sess_[0-9A-Za-z]{20,}")
_CHALLENGES: Final = {
    "SESSION_MISSING": "Bearer",
    "AUTHENTICATION_TOO_OLD": 'Bearer error="insufficient_user_authentication"',
}
_CHALLENGE: Final = 'Bearer error="invalid_token"'


class AppPlayer:
    """Plays cases with one app. For one thread."""

    def __init__(self, app: App, world: World) -> None:
        self._app = app
        self._world = world
        self._session_ids: set[str] = set()

    def warm_up(self) -> None:
        """Wait until the app has the sidecar: what a runtime loads at its first request is no matter of deadlines.

        Raises `AppError`.
        """
        if not self._has_sidecar(_FIRST_SECONDS):
            raise AppError(f"has no sidecar after {_FIRST_SECONDS:g} s")

    def play(self, case: Case) -> str:
        """Play the case, and mend the world; say what is not as it should be, or nothing.

        Raises `WorldError`, `ScriptError` or ValueError where the case cannot be played, which is no app's fault.
        """
        known = beforehand(case, self._world, BROWSER)
        try:
            problem = self._play(case, known)
        except AppError as error:
            problem = str(error)
        self._world.mend()
        try:
            back = self._has_sidecar(_BACK_SECONDS)
        except AppError as error:
            return problem or str(error)
        return problem or ("" if back else f"has no sidecar {_BACK_SECONDS:g} s after all was mended")

    def logged_secrets(self) -> str:
        """Say that the app's log holds a session id of a case, or nothing."""
        log = self._app.log.read_text(errors="replace")
        return "its log holds a session id" if any(session_id in log for session_id in self._session_ids) else ""

    def _play(self, case: Case, known: dict[str, Any]) -> str:
        for number, step in enumerate(case.steps, 1):
            try:
                match step:
                    case Do():
                        self._world.do(resolve(step.action, known))
                    case Get():
                        if problem := self._get(step, known):
                            return f"step {number} ({step.path}): {problem}"
                    case _:
                        raise WorldError("an app is no driver")
            except (UnknownReferenceError, ProcessError, grpc.RpcError) as error:
                raise WorldError(f"step {number}: {error}") from None
        return ""

    def _get(self, step: Get, known: dict[str, Any]) -> str:
        path = resolve(step.path, known)
        headers = [(str(name), str(value)) for name, value in resolve(list(step.headers), known)]
        # Also those that nobody was given: an app cannot know which they are.
        self._session_ids.update(found for _, value in headers for found in _SESSION_ID.findall(value))
        expected = resolve(step.expected, known)
        until = time.monotonic() + step.eventually
        while True:
            page = self._app.get(path, headers, source=ADDRESSES[step.source])
            problem = judge(step.outcome, expected, page)
            if any(session_id in f"{page.headers} {page.body}" for session_id in self._session_ids):
                return "the answer holds a session id"
            if not problem or time.monotonic() > until:
                return problem
            time.sleep(_PAUSE_SECONDS)

    def _has_sidecar(self, seconds: float) -> bool:
        """Whether the app answers with what only a sidecar says, within so many seconds."""
        until = time.monotonic() + seconds
        headers = [("cookie", resolve("session_id=${new_session_id}", {}))]
        while True:
            page = self._app.get("/whoami", headers, source=ADDRESSES["browser"])
            if page.status != 503:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE_SECONDS)


def judge(outcome: str, expected: Any, page: Page) -> str:
    """Say what of an answer is not as every middleware answers, or nothing."""
    said = f"{page.status} {page.body!r:.200}"
    if outcome == "never_passes":
        return "" if 300 <= page.status < 500 else f"expected no way in, got {said}"
    if outcome == "passes":
        return "" if (page.status, page.json) == (200, {"email": expected}) else f"expected {expected}, got {said}"
    status, reason = expected
    if not isinstance(page.json, dict) or (page.status, page.json.get("reason")) != (status, reason):
        return f"expected {status} {reason}, got {said}"
    return "; ".join(_wrong_refusal(status, reason, page))


def _wrong_refusal(status: int, reason: str, page: Page) -> list[str]:
    """List what a refusal has that it should not have, or lacks."""
    problems: list[str] = []
    if set(page.json) != {"reason", "message"} or not page.json["message"]:
        problems.append(f"the body is {page.body!r:.200}")
    challenge = _CHALLENGES.get(reason, _CHALLENGE) if status == 401 else None
    wanted = {"www-authenticate": challenge, "cache-control": "no-store"}
    problems += [
        f"{name} is {page.header(name)}, not {value}" for name, value in wanted.items() if page.header(name) != value
    ]
    retry_after = page.header("retry-after")
    if (status == 503) != (retry_after is not None and retry_after.isdecimal() and int(retry_after) > 0):
        problems.append(f"retry-after is {retry_after}")
    if (page.header("content-type") or "").partition(";")[0].strip() != "application/json":
        problems.append(f"content-type is {page.header('content-type')}")
    return problems
