"""An app with a middleware that is wrong in one way, named by BROKEN_APP: for the tests of the conformance runner.

It is the Flask app of the cases with something between it and its server.
"""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from clients.python.conformance.apps.flask_app import app as right
from tests.support.broken_app_ways import Wrong

Environ = dict[str, Any]


WRONG = Wrong(os.environ["BROKEN_APP"])


def _asked(environ: Environ) -> None:
    """Change what the middleware is asked."""
    cookie = environ.get("HTTP_COOKIE", "")
    query = parse_qs(environ.get("QUERY_STRING", ""))
    if WRONG is Wrong.DIES and environ["PATH_INFO"] == "/maybe":
        os._exit(3)
    if WRONG is Wrong.LOGS_SESSION_IDS:
        print(cookie, file=sys.stderr, flush=True)
    if WRONG is Wrong.TAKES_THE_FIRST_OF_TWO and cookie:
        environ["HTTP_COOKIE"] = cookie.partition(";")[0]
    if WRONG is Wrong.TAKES_IT_FROM_THE_QUERY and "session_id" in query:
        environ["HTTP_COOKIE"] = f"session_id={query['session_id'][0]}"
    if WRONG is Wrong.BELIEVES_EVERYBODY and "HTTP_X_FORWARDED_FOR" in environ:
        environ["REMOTE_ADDR"] = environ["HTTP_X_FORWARDED_FOR"]
    if WRONG is Wrong.FOLDS_PATHS and "public" in environ["PATH_INFO"]:
        environ["PATH_INFO"] = "/public"
    if WRONG is Wrong.FORGETS_DEVICES:
        environ["HTTP_X_DEVICE_FINGERPRINT"] = "device"


_DROPPED = {
    Wrong.NO_CHALLENGE: "www-authenticate",
    Wrong.MAY_BE_CACHED: "cache-control",
    Wrong.NO_RETRY_AFTER: "retry-after",
    Wrong.PLAIN_TEXT: "content-type",
    Wrong.ONE_CHALLENGE: "www-authenticate",
}
_ADDED = {Wrong.PLAIN_TEXT: ("content-type", "text/plain"), Wrong.ONE_CHALLENGE: ("www-authenticate", "Bearer")}
_IN = b'{"email": null}'


def _status(status: str) -> str:
    """Change how it answers."""
    if WRONG is Wrong.LETS_ALL_IN or (WRONG is Wrong.LETS_THE_UNSURE_IN and status.startswith("503")):
        return "200 OK"
    if WRONG is Wrong.DENIES_THE_UNSURE and status.startswith("503"):
        return "401 Unauthorized"
    if WRONG is Wrong.FORBIDS_THE_DENIED and status.startswith("401"):
        return "403 Forbidden"
    return status


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve one request."""
    session_id = environ.get("HTTP_COOKIE", "")
    _asked(environ)
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def take(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        answers.append((status, headers))
        return lambda _: None

    body = b"".join(right(environ, take))
    status, headers = answers[0]
    changed = _status(status)
    if changed.startswith("200") and not status.startswith("200"):
        body = _IN
    if WRONG is Wrong.SAYS_TOO_MUCH and not status.startswith("200"):
        body = body.replace(b"}", b', "stack": "..."}')
    if WRONG is Wrong.TELLS_SESSION_IDS:
        headers = [*headers, ("x-was", session_id)]
    headers = [
        (name, value) for name, value in headers if name.lower() not in {_DROPPED.get(WRONG, ""), "content-length"}
    ]
    if status.startswith("401") or WRONG is Wrong.PLAIN_TEXT:
        headers += [_ADDED[WRONG]] if WRONG in _ADDED else []
    start_response(changed, [*headers, ("content-length", str(len(body)))])
    return [body]
