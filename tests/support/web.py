"""The example app as a real process beside a real pair, and a browser's part in HTTP: cookies, `Origin`, forms."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Self

import httpx

from tests.support.system import PASSWORD, System, running_system
from tools.web_app import WebAppProcess

SESSION = "__Host-session_id"
DEVICE = "__Host-device_id"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
CALL_SECONDS = 20.0

_counter = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Web:
    """A pair, the app, and what is known of its people."""

    system: System
    app: WebAppProcess
    http: httpx.Client

    @property
    def origin(self) -> str:
        """Where the app is."""
        return self.app.origin

    def fresh_email(self) -> str:
        """An e-mail address that nobody has yet."""
        return f"user{next(_counter)}@example.org"

    def browser(self, *, user_agent: str = AGENT) -> "Browser":
        """A new browser, without cookies."""
        return Browser(origin=self.origin, http=self.http, user_agent=user_agent)

    def logged_in(self, email: str, *, user_agent: str = AGENT) -> "Browser":
        """A new browser in which this user, whose password is `PASSWORD`, is logged in."""
        browser = self.browser(user_agent=user_agent)
        assert browser.log_in(email).headers["location"] == "/devices"
        return browser


@contextmanager
def running_web(directory: Path, *, max_staleness_seconds: float = 2.0) -> Iterator[Web]:
    """Start both programs and the app in the directory (see the fixture `run_dir`)."""
    with (
        running_system(directory, max_staleness_seconds=max_staleness_seconds) as system,
        WebAppProcess(directory=directory, sidecar=system.sidecar) as app,
        httpx.Client(timeout=CALL_SECONDS, trust_env=False, verify=False) as http,
    ):
        yield Web(system=system, app=app, http=http)


@dataclass(slots=True, kw_only=True)
class Browser:
    """What a browser does over HTTP, one request at a time; it follows no redirect by itself.

    It sends `Secure` cookies to localhost, as Chromium does (tests/web looks).
    """

    origin: str
    http: httpx.Client
    user_agent: str
    cookies: dict[str, str] = field(default_factory=dict)
    token: str = ""

    def copy(self) -> Self:
        """Another browser with the same cookies: what a thief of all of them has."""
        return replace(self, cookies=dict(self.cookies))

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Open a page; its form's token is kept for `post`."""
        answer = self.send("GET", path, headers=headers)
        if found := re.search(r'name="csrf_token" value="([^"]*)"', answer.text):
            self.token = unescape(found[1])
        return answer

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form of the page that is open."""
        ours = {"origin": self.origin, "sec_fetch_site": "same-origin"}
        return self.send("POST", path, form={"csrf_token": self.token, **(form or {})}, headers=ours | headers)

    def send(
        self, method: str, path: str, *, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send exactly these headers (`_` for `-`; empty ones are left out), the user agent and the cookies."""
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items() if value}
        if self.cookies:
            named["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = {"user-agent": self.user_agent} | named
        answer = self.http.request(
            method,
            self.origin + path,
            data=form,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in lines.items()],
        )
        self.http.cookies.clear()
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer

    def log_in(self, email: str, password: str = PASSWORD, **form: str) -> httpx.Response:
        """Open the form and send it."""
        self.get("/login")
        return self.post("/login", {"login": email, "password": password, **form})

    def register(self, email: str, *, name: str = "Ada", password: str = PASSWORD) -> httpx.Response:
        """Open the form and send it."""
        self.get("/register")
        return self.post("/register", {"email": email, "name": name, "password": password})

    def handles(self) -> list[str]:
        """Handles of the other devices in the list."""
        return re.findall(r'name="handle" value="([^"]*)"', self.get("/devices").text)
