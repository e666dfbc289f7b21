"""What every middleware does, asked of real servers of FastAPI, Flask and Django beside a real pair."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.python.servers import running
from tests.support.http_client import Answer, Connection, exchange
from tests.support.system import PASSWORD, System
from tools.processes import free_port, temporary_directory
from trustlayer import Mode
from trustlayer.guard import PUBLIC, Need, Routes
from trustlayer.v1 import session_pb2, types_pb2

APPS = "tests.clients.python.apps"
CLIENT, OTHER, PROXY = "127.0.0.5", "127.0.0.6", "127.0.0.9"
STRICT = (("x-device-fingerprint", "device"), ("user-agent", "agent"))
KINDS = {
    "fastapi": ("gunicorn-asgi", f"{APPS}.fastapi_app:app"),
    "flask": ("gunicorn", f"{APPS}.flask_app:app"),
    "django": ("gunicorn", f"{APPS}.django_app:app"),
    "django-asgi": ("uvicorn", f"{APPS}.django_app:asgi_app"),
}
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Site:
    """An app that is served, and sessions from `CLIENT`."""

    kind: str
    port: int
    log: Path
    reader: str
    admin: str

    def get(self, path: str, headers: Headers = (), *, source: str = CLIENT) -> Answer:
        return exchange(self.port, "GET", path, headers, source=source)

    def refused(self, path: str, headers: Headers = (), *, source: str = CLIENT) -> tuple[int, str]:
        """Ask for what is refused, and check what all refusals have."""
        answer = self.get(path, headers, source=source)
        assert set(answer.json) == {"reason", "message"}
        assert answer.json["message"]
        assert answer.header("content-type") == "application/json"
        assert answer.header("cache-control") == "no-store"
        assert (answer.header("www-authenticate") is not None) == (answer.status == 401)
        assert (answer.header("retry-after") is not None) == (answer.status == 503)
        return answer.status, answer.json["reason"]


def log_in(system: System, email: str, *roles: str) -> str:
    system.app.register(email, roles=roles)
    context = types_pb2.RequestContext(client_ip=CLIENT, device_fingerprint="device", user_agent="agent")
    request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=context)
    return system.app.sessions.Login(request, timeout=10).session_id


@pytest.fixture(scope="module")
def sessions(system: System) -> tuple[str, str]:
    return log_in(system, "ada@example.org", "reader"), log_in(system, "root@example.org", "admin", "reader")


@pytest.fixture(scope="module", params=list(KINDS))
def site(request: pytest.FixtureRequest, socket: str, sessions: tuple[str, str]) -> Iterator[Site]:
    server, app = KINDS[request.param]
    port = free_port()
    command = {
        "uvicorn": ["uvicorn", "--host", "127.0.0.1", "--port", str(port), "--no-proxy-headers", app],
        "gunicorn": ["gunicorn", "--no-control-socket", "--bind", f"127.0.0.1:{port}", app],
        "gunicorn-asgi": ["gunicorn", "-k", "asgi", "--no-control-socket", "--bind", f"127.0.0.1:{port}", app],
    }[server]
    with (
        temporary_directory() as directory,
        running(
            [sys.executable, "-m", *command],
            address=port,
            directory=directory,
            environment={"APP_SIDECAR_SOCKET": socket},
        ) as log,
    ):
        yield Site(request.param, port, log, *sessions)


def cookie(*session_ids: str) -> tuple[str, str]:
    return "cookie", "; ".join(["theme=dark", *(f"session_id={session_id}" for session_id in session_ids)])


def bearer(session_id: str) -> tuple[str, str]:
    return "authorization", f"Bearer {session_id}"


def test_who_has_a_session_gets_in_by_cookie_or_bearer(site: Site) -> None:
    for headers in ([cookie(site.reader)], [bearer(site.reader)], [cookie(site.reader, site.reader)]):
        answer = site.get("/whoami", headers)
        assert (answer.status, answer.json) == (200, {"email": "ada@example.org"})


def test_who_sends_none_is_told_to_log_in(site: Site) -> None:
    assert site.refused("/whoami") == (401, "SESSION_MISSING")
    assert site.refused("/whoami", [("cookie", "theme=dark")]) == (401, "SESSION_MISSING")
    assert site.refused("/whoami", [("authorization", "Basic YTpi")]) == (401, "SESSION_MISSING")
    assert site.get("/whoami").header("www-authenticate") == "Bearer"


def test_what_is_no_session_id_is_refused(site: Site) -> None:
    for sent in ("nonsense", "", '"', "sess_\xff\xfe", "x" * 4_000):
        assert site.refused("/whoami", [cookie(sent)]) == (401, "MALFORMED"), sent
    answer = site.get("/whoami", [cookie("nonsense")])
    assert answer.header("www-authenticate") == 'Bearer error="invalid_token"'


def test_two_different_session_ids_in_one_place_are_refused_whichever_of_them_is_right(site: Site) -> None:
    for headers in (
        [cookie(site.reader, site.admin)],
        [cookie("nonsense", site.reader)],
        [cookie(site.reader), cookie(site.admin)],
        [bearer(site.reader), bearer(site.admin)],
    ):
        assert site.refused("/whoami", headers) == (401, "MALFORMED"), headers


def test_the_first_place_in_which_anything_was_sent_counts(site: Site) -> None:
    assert site.refused("/whoami", [cookie("nonsense"), bearer(site.reader)]) == (401, "MALFORMED")
    answer = site.get("/whoami", [cookie(site.reader), bearer(site.admin)])
    assert answer.json == {"email": "ada@example.org"}


def test_the_client_ip_is_the_peers_whatever_the_request_claims(site: Site) -> None:
    claims = [cookie(site.reader), ("x-forwarded-for", CLIENT), ("forwarded", f"for={CLIENT}")]
    assert site.refused("/whoami", claims, source=OTHER) == (401, "IP_MISMATCH")


@pytest.mark.parametrize(
    ("forwarded", "status", "reason"),
    [
        ([CLIENT], 200, ""),
        ([f"{CLIENT}:4711"], 200, ""),
        ([f"198.51.100.1, {CLIENT}"], 200, ""),
        ([f"{CLIENT}, {PROXY}"], 200, ""),
        (["198.51.100.1", CLIENT], 200, ""),
        ([f"{CLIENT}, 198.51.100.1"], 401, "IP_MISMATCH"),
        ([f"{CLIENT}, unknown"], 401, "CONTEXT_MISSING"),
        ([PROXY], 401, "CONTEXT_MISSING"),
        ([""], 401, "CONTEXT_MISSING"),
        ([], 401, "CONTEXT_MISSING"),
    ],
)
def test_behind_a_trusted_proxy_it_is_the_last_address_that_is_none_of_a_proxys(
    site: Site, forwarded: list[str], status: int, reason: str
) -> None:
    headers = [cookie(site.reader), *(("x-forwarded-for", line) for line in forwarded)]
    answer = site.get("/whoami", headers, source=PROXY)
    assert (answer.status, answer.json.get("reason", "")) == (status, reason)


def test_a_route_that_needs_no_session_reads_none(site: Site) -> None:
    for path in ("/public", "/open/door"):
        for headers in ((), [cookie("nonsense")], [cookie(site.reader)]):
            answer = site.get(path, headers)
            assert (answer.status, answer.json) == (200, {"email": None})


def test_what_the_app_did_not_name_is_denied(site: Site) -> None:
    if site.kind.startswith("django"):
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
    if site.kind.startswith("django"):
        assert site.get("/base").status == 200
        assert site.refused("/extended") == (401, "SESSION_MISSING")


def test_what_extends_a_guarded_view_of_django_is_guarded_like_it(site: Site) -> None:
    if site.kind.startswith("django"):
        for path in ("/extended-admin", "/admin-instance"):
            assert site.refused(path, [cookie(site.reader), *STRICT]) == (403, "ROLE_MISSING"), path
            assert site.get(path, [cookie(site.admin), *STRICT]).json == {"email": "root@example.org"}, path


def test_a_slash_behind_a_path_takes_nothing_off_what_it_needs(site: Site) -> None:
    if site.kind == "flask":  # of these the only one that takes both for the same
        for path in ("/listed", "/listed/"):
            assert site.refused(path, [cookie(site.reader)]) == (403, "ROLE_MISSING"), path
            assert site.get(path, [cookie(site.admin)]).status == 200


def test_a_question_that_is_wrong_is_the_apps_mistake_and_lets_nobody_pass(site: Site) -> None:
    assert site.refused("/wrong", [cookie(site.admin)]) == (500, "INTERNAL")


def test_a_route_may_take_a_session_or_none(site: Site) -> None:
    for headers, email in (((), None), ([cookie("nonsense")], None), ([cookie(site.reader)], "ada@example.org")):
        answer = site.get("/maybe", headers)
        assert (answer.status, answer.json) == (200, {"email": email})


def test_a_route_may_ask_for_a_mode_and_roles(site: Site) -> None:
    assert site.refused("/admin") == (401, "SESSION_MISSING")
    assert site.refused("/admin", [cookie(site.admin)]) == (401, "CONTEXT_MISSING")
    assert site.refused("/admin", [cookie(site.admin), *STRICT[:1], ("user-agent", "x")]) == (
        401,
        "USER_AGENT_MISMATCH",
    )
    assert site.refused("/admin", [cookie(site.reader), *STRICT]) == (403, "ROLE_MISSING")
    assert site.get("/admin", [cookie(site.admin), *STRICT]).json == {"email": "root@example.org"}


def test_a_route_may_name_a_rule_of_the_sidecars(site: Site) -> None:
    assert site.refused("/named", [cookie(site.admin)]) == (403, "ROUTE_NOT_COVERED")


def test_a_revoked_session_is_refused_at_its_next_request(site: Site, system: System) -> None:
    session_id = log_in(system, f"{site.kind}@example.org")
    assert site.get("/whoami", [cookie(session_id)]).status == 200
    system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id), timeout=10)
    assert site.refused("/whoami", [cookie(session_id)]) == (401, "REVOKED")
    assert site.get("/maybe", [cookie(session_id)]).json == {"email": None}


def test_a_websocket_is_refused_before_it_is_accepted(site: Site) -> None:
    if site.kind != "fastapi":
        pytest.skip("of these only FastAPI has websockets")
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
        connection = Connection(site.port, source=CLIENT)
        connection.send("GET", path, [*upgrade, *headers])
        line = connection.socket.recv(4096).split(b"\r\n")[0].decode()
        connection.close()
        assert line.split(" ")[1] == str(status), (path, headers, line)


def test_what_cannot_be_known_is_503_also_where_a_session_is_optional(site: Site, system: System) -> None:
    system.sidecar.stop()
    try:
        for path in ("/whoami", "/maybe", "/admin"):
            assert site.refused(path, [cookie(site.admin), *STRICT]) == (503, "UNAVAILABLE")
        assert site.get("/public").status == 200
        assert site.refused("/whoami") == (401, "SESSION_MISSING")
    finally:
        system.sidecar.start()
        system.app.wait_for_lease()
    assert site.get("/whoami", [cookie(site.reader)]).status == 200


def test_no_session_id_is_in_the_servers_log(site: Site) -> None:
    site.get("/whoami", [cookie(site.reader)])
    log = site.log.read_text()
    assert site.reader not in log
    assert site.admin not in log
