"""The middlewares in FastAPI, Flask and Django, really served: the cases that hold for all, and what is theirs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.conformance.app import App, Page, serving
from clients.conformance.case_file import read_cases
from clients.conformance.driver_list import APPS, read_drivers
from clients.conformance.play_app import BROWSER, AppPlayer, judge
from clients.conformance.world import World, running
from tests.support.http_client import Connection
from tests.support.system import PASSWORD, System
from trustlayer import Mode
from trustlayer.guard import PUBLIC, Need, Routes
from trustlayer.v1 import session_pb2, types_pb2

CLIENT = BROWSER["client_ip"]
STRICT = (("x-device-fingerprint", "device"), ("user-agent", "agent"))
ENTRIES = {entry.name: entry for entry in read_drivers(APPS) if entry.build == "client-python"}
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Site:
    """An app that is served, and sessions from the browser's address."""

    kind: str
    app: App
    reader: str
    admin: str

    def get(self, path: str, headers: Headers = ()) -> Page:
        return self.app.get(path, headers, source=CLIENT)

    def refused(self, path: str, headers: Headers = ()) -> tuple[int, str]:
        """Ask for what is refused, and check what all refusals have."""
        page = self.get(path, headers)
        assert judge("refused", [page.status, page.json["reason"]], page) == ""
        return page.status, page.json["reason"]


def log_in(system: System, email: str, *roles: str) -> str:
    system.app.register(email, roles=roles)
    request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=types_pb2.RequestContext(**BROWSER))
    return system.app.sessions.Login(request, timeout=10).session_id


@pytest.fixture(scope="module")
def sessions(system: System) -> tuple[str, str]:
    return log_in(system, "ada@example.org", "reader"), log_in(system, "root@example.org", "admin", "reader")


@pytest.fixture(scope="module", params=list(ENTRIES))
def site(request: pytest.FixtureRequest, socket: str, sessions: tuple[str, str], module_dir: Path) -> Iterator[Site]:
    entry = ENTRIES[request.param]
    with serving(entry.run, sidecar=Path(socket), log=module_dir / f"{entry.name}.log") as app:
        yield Site(entry.name, app, *sessions)


def cookie(*session_ids: str) -> tuple[str, str]:
    return "cookie", "; ".join(["theme=dark", *(f"session_id={session_id}" for session_id in session_ids)])


@pytest.fixture(scope="module")
def world(module_dir: Path) -> Iterator[World]:
    (module_dir / "w").mkdir()
    with running(module_dir / "w") as world:
        yield world


@pytest.mark.parametrize("name", list(ENTRIES))
def test_the_cases_that_hold_for_every_middleware_hold(world: World, tmp_path: Path, name: str) -> None:
    cases = [case for case in read_cases() if case.asks_app and case.group != "http_outages"]
    assert len(cases) > 20
    with serving(ENTRIES[name].run, sidecar=world.socket("sidecar"), log=tmp_path / "log") as app:
        player = AppPlayer(app, world)
        player.warm_up()
        problems = {case.name: player.play(case) for case in cases}
        problems["the log"] = player.logged_secrets()
    assert {case: problem for case, problem in problems.items() if problem} == {}


def test_a_route_that_needs_no_session_reads_none(site: Site) -> None:
    for path in ("/public", "/open/door"):
        for headers in ((), [cookie("nonsense")], [cookie(site.reader)]):
            answer = site.get(path, headers)
            assert (answer.status, answer.json) == (200, {"email": None})


def test_what_the_app_did_not_name_is_denied(site: Site) -> None:
    if "django" in site.kind:
        assert site.get("/nowhere").status == 404  # a view is what Django guards, and there is none
        return
    for path in ("/nowhere", "/public/", "/PUBLIC", "//public", "/opened", "/public/../whoami"):
        assert site.refused(path) == (401, "SESSION_MISSING"), path


def test_a_prefix_is_its_own_path_and_all_below_it() -> None:
    admin = Need(roles_any=("admin",))
    routes = Routes(Need(), {"/admin/*": admin, "/admin/open/*": PUBLIC, "/*": Need(mode=Mode.ADVANCED)})
    needs = {
        "/admin": admin,
        "/admin/": admin,
        "/admin/users": admin,
        "/admin/open": PUBLIC,
        "/admin/opened": admin,
        "/administration": Need(mode=Mode.ADVANCED),
    }
    assert {path: routes.need_of(path) for path in needs} == needs


def test_a_view_is_not_public_because_the_one_that_it_extends_is(site: Site) -> None:
    if "django" in site.kind:
        assert site.get("/base").status == 200
        assert site.refused("/extended") == (401, "SESSION_MISSING")


def test_what_extends_a_guarded_view_of_django_is_guarded_like_it(site: Site) -> None:
    if "django" in site.kind:
        for path in ("/extended-admin", "/admin-instance"):
            assert site.refused(path, [cookie(site.reader), *STRICT]) == (403, "ROLE_MISSING"), path
            assert site.get(path, [cookie(site.admin), *STRICT]).json == {"email": "root@example.org"}, path


def test_a_slash_behind_a_path_takes_nothing_off_what_it_needs(site: Site) -> None:
    if site.kind == "python-wsgi":  # of these the only one that takes both for the same
        for path in ("/listed", "/listed/"):
            assert site.refused(path, [cookie(site.reader)]) == (403, "ROLE_MISSING"), path
            assert site.get(path, [cookie(site.admin)]).status == 200


def test_a_websocket_is_refused_before_it_is_accepted(site: Site) -> None:
    if site.kind != "python-asgi":
        pytest.skip("of these only FastAPI's app has websockets")
    upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    for path, headers, status in (
        ("/echo", [], 403),  # all that this server can answer with
        ("/echo", [cookie("nonsense")], 403),
        ("/echo", [cookie(site.reader)], 101),
        ("/echo-admin", [cookie(site.reader)], 403),
        ("/echo-admin", [cookie(site.admin)], 101),
    ):
        connection = Connection(site.app.port, source=CLIENT)
        connection.send("GET", path, [*upgrade, *headers])
        line = connection.socket.recv(4096).split(b"\r\n")[0].decode()
        connection.close()
        assert line.split(" ")[1] == str(status), (path, headers, line)
