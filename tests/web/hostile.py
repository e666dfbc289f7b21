"""A page of somebody else that tries what it can against the app, from another site and from another port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

PATHS: Final = ("/logout", "/devices/log-out", "/devices/log-out-others", "/login", "/register")

_IMAGES: Final = """<!doctype html><title>Win a prize</title>
<iframe src="{app}/devices"></iframe>
<img src="{app}/devices" alt=""><img src="{app}/login" alt="">
"""
_FORM: Final = """<!doctype html><title>Win a prize</title>
<form method="post" action="{app}{path}">
  <input name="csrf_token" value="0"><input name="handle" value="sh_0">
  <input name="login" value="mallory@example.org"><input name="email" value="mallory@example.org">
  <input name="name" value="Mallory"><input name="password" value="{password}">
  <button>Win</button>
</form>
"""
_FETCH: Final = """<!doctype html><title>Win a prize</title><script>
window.outcomes = [];
for (const path of {paths})
  for (const mode of ["no-cors", "cors"])
    fetch("{app}" + path, {{method: "POST", mode, credentials: "include",
      headers: {{"content-type": "application/x-www-form-urlencoded"}}, body: "csrf_token=0&handle=sh_0"}})
    .then(answer => outcomes.push(answer.type + " " + answer.status), () => outcomes.push("refused"));
fetch("{app}/devices", {{credentials: "include"}}).then(answer => answer.text())
  .then(text => window.read = text, () => window.read = "");
</script>
"""


@contextmanager
def hostile_site(app: str, password: str) -> Iterator[int]:
    """Serve, on loopback, `/form/PATH` (a form for that path), `/fetch` (scripts) and `/images`; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = _page(self.path, app, password).encode()
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _page(path: str, app: str, password: str) -> str:
    if path.startswith("/form"):
        return _FORM.format(app=app, path=escape(path.removeprefix("/form")), password=escape(password))
    if path == "/fetch":
        return _FETCH.format(app=app, paths=list(PATHS))
    return _IMAGES.format(app=app)
