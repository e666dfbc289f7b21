"""The example app over HTTP: its cookies, its forms and who gets past them. In a real browser: tests/web."""

import re
import time
import tomllib
from collections.abc import Iterator
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from accounts.main import create_app
from accounts.pages import HEADERS
from accounts.settings import Settings, SettingsError
from tests.support.system import PASSWORD
from tests.support.web import AGENT, DEVICE, SESSION, Browser, Web, running_web
from tools.web_app import EXAMPLE, WebAppProcess
from trustlayer.v1 import identity_pb2, types_pb2

pytestmark = pytest.mark.long

LOG_OUT_OTHERS = "/devices/log-out-others"
FORMS = ("/login", "/register", "/logout", "/devices/log-out", LOG_OUT_OTHERS)


@pytest.fixture(scope="module")
def web(module_dir: Path) -> Iterator[Web]:
    with running_web(module_dir) as web:
        yield web


@pytest.fixture
def email(web: Web) -> str:
    email = web.fresh_email()
    web.system.app.register(email)
    return email


def _cookie(answer: httpx.Response, name: str) -> SimpleCookie:
    (line,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{name}=")]
    return SimpleCookie(line)


def _text(answer: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text))


def test_who_registers_is_logged_in_and_sees_this_device_with_address_and_time(web: Web) -> None:
    browser = web.browser()
    answer = browser.register("grace@example.org", name="Grace")
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
    text = _text(browser.get("/devices"))
    assert "Hello Grace" in text
    assert "Firefox on Linux this device" in text
    assert "127.0.0.1" in text
    assert "just now" in text


@pytest.mark.parametrize(("name", "lifetime"), [(SESSION, ""), (DEVICE, str(400 * 86_400))])
def test_both_cookies_are_kept_from_scripts_other_hosts_and_other_sites(
    web: Web, email: str, name: str, lifetime: str
) -> None:
    browser = web.browser()
    first = browser.get("/login")
    answer = first if name == DEVICE else browser.post("/login", {"login": email, "password": PASSWORD})
    cookie = _cookie(answer, name)[name]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (
        *(True, True, "lax", "/"),
        "",
    )
    assert cookie["max-age"] == lifetime


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example", "sec_fetch_site": ""},
        {"origin": "null"},
        {"origin": "http://localhost:1", "sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "none"},
        {"origin": "", "sec_fetch_site": ""},
    ],
    ids=lambda headers: "-".join(f"{value or 'absent'}" for value in headers.values()),
)
def test_a_form_from_another_place_is_refused_even_with_the_right_token(
    web: Web, email: str, headers: dict[str, str]
) -> None:
    browser = web.logged_in(email)
    browser.get("/devices")
    for path in FORMS:
        answer = browser.post(path, {"login": email, "password": PASSWORD}, **headers)
        assert (path, answer.status_code) == (path, 403)
        assert "set-cookie" not in answer.headers
    assert browser.get("/devices").status_code == 200


@pytest.mark.parametrize("stolen", ["", "0" * 64, "of another session", "of before the login"])
def test_a_form_without_the_sessions_own_token_is_refused(web: Web, email: str, stolen: str) -> None:
    browser = web.browser()
    browser.get("/login")
    before = browser.token
    browser.log_in(email)
    other = web.logged_in(email)
    other.get("/devices")
    browser.token = {"of another session": other.token, "of before the login": before}.get(stolen, stolen)
    assert [browser.post(path).status_code for path in FORMS] == [403] * len(FORMS)
    assert browser.get("/devices").status_code == 200


def test_no_form_of_the_app_is_left_out_above() -> None:
    app = create_app(Settings(socket="/nowhere", origin="http://localhost:1"))
    changing = {
        (path, method.upper())
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if method != "get"
    }
    assert changing == {(path, "POST") for path in FORMS}


def test_a_refused_form_without_cookies_costs_the_browser_nothing(web: Web) -> None:
    answer = web.browser().post(LOG_OUT_OTHERS)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x=" + b"a" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"x=%ff", "application/x-www-form-urlencoded", 400),
        (b"csrf_token=1&csrf_token=2", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a=1"] * 30), "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 415),
        (b"", "text/plain", 415),
    ],
)
def test_what_is_no_form_of_ours_is_refused(web: Web, body: bytes, kind: str, status: int) -> None:
    browser = web.browser()
    browser.get("/login")
    answer = web.http.post(
        web.origin + "/login",
        content=body,
        headers={"content-type": kind, "origin": web.origin, "cookie": f"{DEVICE}={browser.cookies[DEVICE]}"},
    )
    assert answer.status_code == status


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/devices/../../evil",
        "javascript:alert(1)",
        "/logout",
        "/devices?x=\r\nset-cookie: a=b",
        "http://localhost@evil.example",
    ],
)
def test_a_login_leads_nowhere_but_to_pages_of_ours(web: Web, email: str, wanted: str) -> None:
    browser = web.browser()
    page = browser.get(f"/login?next={quote(wanted, safe='')}")
    assert 'name="next" value="/devices"' in page.text
    answer = browser.post("/login", {"login": email, "password": PASSWORD, "next": wanted})
    assert answer.headers["location"] == "/devices"


def test_who_wanted_the_admin_page_comes_to_it_after_the_login(web: Web, email: str) -> None:
    browser = web.browser()
    asked = browser.get("/admin")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=/admin")
    assert 'name="next" value="/admin"' in browser.get("/login?next=/admin").text


def test_a_login_never_keeps_the_session_id_that_the_browser_had(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    before = browser.copy()
    assert browser.log_in(email).status_code == 303
    assert browser.cookies[SESSION] != before.cookies[SESSION]
    assert "You were logged out" in _text(before.get("/devices"))
    assert browser.handles() == []


def test_an_id_planted_before_the_login_is_worth_nothing_after_it(web: Web, email: str) -> None:
    browser = web.browser()
    browser.cookies[SESSION] = planted = "sess_planted"
    assert browser.log_in(email).status_code == 303
    assert browser.cookies[SESSION] != planted


def test_a_device_is_logged_out_from_another_and_told_so_at_its_next_click(web: Web, email: str) -> None:
    here, there = web.logged_in(email), web.logged_in(email, user_agent="Mozilla/5.0 (Windows NT) Chrome/140.0")
    assert "Chrome on Windows" in _text(here.get("/devices"))
    (handle,) = here.handles()
    answer = here.post("/devices/log-out", {"handle": handle})
    assert answer.headers["location"] == "/devices?done=device"
    refused = there.get("/devices")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"]
    assert "You were logged out from another device" in _text(refused)
    assert "The device was logged out" in _text(here.get("/devices?done=device"))


def test_everything_else_is_logged_out_and_this_device_stays(web: Web, email: str) -> None:
    here, *others = [web.logged_in(email) for _ in range(4)]
    here.get("/devices")
    assert here.post(LOG_OUT_OTHERS).headers["location"] == "/devices?done=others"
    assert [other.get("/devices").status_code for other in others] == [401] * 3
    assert here.get("/devices").status_code == 200


def test_nobody_logs_out_a_device_of_somebody_else(web: Web, email: str) -> None:
    web.system.app.register("victim@example.org")
    victim, thief = web.logged_in("victim@example.org"), web.logged_in(email)
    victim_handle = web.logged_in("victim@example.org").handles()[0]
    thief.get("/devices")
    answer = thief.post("/devices/log-out", {"handle": victim_handle})
    assert answer.headers["location"] == "/devices?done=gone"
    assert victim.get("/devices").status_code == 200


def test_logging_out_ends_the_session_and_takes_the_cookie_but_not_the_device(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    before = browser.copy()
    browser.get("/devices")
    assert browser.post("/logout").headers["location"] == "/login?left"
    assert set(browser.cookies) == {DEVICE}
    assert before.get("/devices").status_code == 401
    assert browser.get("/devices").headers["location"] == "/login?next=/devices"


def _administrator(web: Web, email: str = "admin@example.org") -> str:
    web.system.app.register(email, roles=("admin",))
    return email


def test_the_admin_page_needs_the_role_and_the_very_browser_of_the_login(web: Web, email: str) -> None:
    browser = web.logged_in(_administrator(web))
    assert browser.get("/admin").status_code == 200
    plain = web.logged_in(email).get("/admin")
    assert (plain.status_code, "for administrators" in _text(plain)) == (403, True)
    for change, words in (
        (lambda thief: setattr(thief, "user_agent", AGENT + "!"), "Your browser has changed"),
        (lambda thief: thief.cookies.pop(DEVICE), "Your browser is not known"),
        (lambda thief: thief.cookies.update({DEVICE: "A" * 43}), "This is another browser"),
    ):
        thief = browser.copy()
        change(thief)
        answer = thief.get("/admin")
        assert (answer.status_code, words in _text(answer)) == (401, True)
    assert browser.get("/admin").status_code == 200


def test_a_forged_forwarded_address_is_not_believed(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    assert browser.get("/devices", x_forwarded_for="203.0.113.9").status_code == 200
    stranger = web.browser()
    stranger.get("/login")
    stranger.post("/login", {"login": email, "password": PASSWORD}, x_forwarded_for="203.0.113.9")
    assert "203.0.113.9" not in stranger.get("/devices").text


def test_a_trusted_proxy_says_whose_the_last_address_before_it_is(web: Web, email: str, run_dir: Path) -> None:
    with WebAppProcess(directory=run_dir, sidecar=web.system.sidecar, trusted_proxies="127.0.0.1") as app:
        browser = Browser(origin=app.origin, http=web.http, user_agent=AGENT)
        browser.get("/login")
        forwarded = "192.0.2.1, 198.51.100.7"
        answer = browser.post("/login", {"login": email, "password": PASSWORD}, x_forwarded_for=forwarded)
        assert answer.status_code == 303
        assert "198.51.100.7" in browser.get("/devices", x_forwarded_for="198.51.100.7").text
        moved = browser.get("/devices", x_forwarded_for="198.51.100.7, 198.51.100.8")
    assert (moved.status_code, "Your address has changed" in _text(moved)) == (401, True)


@pytest.mark.parametrize(
    "forwarded",
    ["127.66.66.66, 127.0.0.7", "127.66.66.66", "198.51.100.7, unknown", "unknown", "198.51.100.7, localhost", ""],
)
def test_where_the_proxies_lead_to_nobody_there_is_no_address_and_no_session(
    web: Web, email: str, run_dir: Path, forwarded: str
) -> None:
    with WebAppProcess(directory=run_dir, sidecar=web.system.sidecar, trusted_proxies="127.0.0.0/8, ::1") as app:
        browser = Browser(origin=app.origin, http=web.http, user_agent=AGENT)
        browser.get("/login")
        browser.post("/login", {"login": email, "password": PASSWORD}, x_forwarded_for="198.51.100.7")
        assert browser.get("/devices", x_forwarded_for="6.6.6.6, 198.51.100.7:4711").status_code == 200
        lost = browser.get("/devices", x_forwarded_for=forwarded)
        browser.get("/login")
        browser.post("/login", {"login": email, "password": PASSWORD}, x_forwarded_for=forwarded)
        unbound = browser.get("/devices", x_forwarded_for=forwarded)
    assert (lost.status_code, unbound.status_code) == (401, 401)


def test_a_second_session_cookie_is_no_session_id_whichever_stands_first(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    ours, other = f"{SESSION}={browser.cookies[SESSION]}", f"{SESSION}={'A' * 43}"
    for pair in ((ours, other), (other, ours)):
        answer = web.http.get(f"{web.origin}/devices", headers={"user-agent": AGENT, "cookie": "; ".join(pair)})
        assert answer.status_code == 401
    assert browser.get("/devices").status_code == 200


def test_a_user_agent_that_is_too_long_to_be_compared_counts_as_not_sent(web: Web) -> None:
    long = "x" * 1_025
    browser = web.logged_in(_administrator(web, "long@example.org"), user_agent=long)
    assert browser.get("/devices").status_code == 200
    assert browser.get("/admin").status_code == 401


async def test_a_route_that_asks_for_nothing_needs_a_session(web: Web, email: str) -> None:
    app = create_app(Settings(socket=str(web.system.sidecar.socket), origin="http://localhost"))
    app.add_api_route("/forgotten", lambda: "secret")
    person = web.logged_in(email).cookies[SESSION]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        nobody, stranger, answer = [
            await client.get("/forgotten", headers={"user-agent": AGENT} | cookie)
            for cookie in ({}, {"cookie": f"{SESSION}={'A' * 43}"}, {"cookie": f"{SESSION}={person}"})
        ]
    assert (nobody.status_code, stranger.status_code) == (303, 401)
    assert "secret" not in nobody.text + stranger.text
    assert (answer.status_code, answer.text) == (200, '"secret"')


def test_a_change_of_roles_gives_the_browser_a_new_session_id(web: Web) -> None:
    user = web.system.app.register("promoted@example.org")
    browser = web.logged_in("promoted@example.org")
    before = browser.copy()
    web.system.app.identity.UpdateUser(
        identity_pb2.UpdateUserRequest(
            user_id=user.id, user=types_pb2.User(roles=["admin"]), update_mask=FieldMask(paths=["roles"])
        )
    )
    answer = browser.get("/devices")
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
    assert browser.cookies[SESSION] != before.cookies[SESSION]
    assert browser.get("/devices").status_code == 200
    assert browser.get("/admin").status_code == 200
    assert before.get("/devices").status_code == 401
    # A late answer to the old id, as of a second tab, takes nothing away from the browser.
    assert SESSION not in str(before.get("/devices").headers.get_list("set-cookie"))


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', "O'Neil & <b>sons</b>", "Ωμέγα 🦊 שלום"])
def test_names_are_shown_and_never_run(web: Web, name: str) -> None:
    browser, email = web.browser(), web.fresh_email()
    browser.register(email, name=name)
    browser.log_in(email, device_name=name)
    page = browser.get("/devices").text
    assert "<script" not in page
    assert "<b>sons" not in page
    shown = re.findall(r"<bdi>(.*?)</bdi>", page)
    assert [unescape(text) for text in shown] == [name, name]


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"email": "grace", "name": "", "password": PASSWORD}, 422, "Give an e-mail address"),
        ({"email": "a@example.org", "name": "x" * 129, "password": PASSWORD}, 422, "at most 128 characters"),
        ({"email": "a@example.org", "name": "", "password": "short"}, 422, "Please choose another: "),
        ({"email": "a@example.org", "name": "", "password": "password1234"}, 422, "too common"),
        ({"email": "TAKEN@example.org", "name": "", "password": PASSWORD}, 409, "There is an account"),
        ({}, 422, "Give an e-mail address"),
    ],
)
def test_a_registration_that_is_not_accepted_says_why_and_keeps_what_was_typed(
    web: Web, form: dict[str, str], status: int, words: str
) -> None:
    web.browser().register("taken@example.org")
    browser = web.browser()
    browser.get("/register")
    answer = browser.post("/register", form)
    assert (answer.status_code, words in _text(answer)) == (status, True)
    if form:
        assert form["email"] in answer.text
        assert form["password"] not in answer.text
    assert SESSION not in browser.cookies


def test_a_wrong_password_and_an_unknown_user_are_answered_alike(web: Web, email: str) -> None:
    answers = [web.browser().log_in(login, "not the password") for login in (email, "nobody@example.org")]
    assert {(answer.status_code, answer.headers["www-authenticate"]) for answer in answers} == {(401, "Cookie")}
    assert all("The login or the password is wrong" in _text(answer) for answer in answers)
    assert not any(SESSION in str(answer.headers) for answer in answers)


@pytest.mark.parametrize("sent", ["", "garbage", "sess_" + "a" * 60, "x" * 3_000, "\xff"])
def test_whatever_is_sent_as_a_session_id_is_no_login(web: Web, sent: str) -> None:
    browser = web.browser()
    browser.cookies[SESSION] = sent
    answer = browser.get("/devices")
    assert answer.status_code == 401


def test_every_answer_carries_its_headers_and_no_page_may_be_kept(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    for path in ("/", "/devices", "/login", "/register", "/admin", "/nowhere", "/static/style.css"):
        answer = browser.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
        if not path.startswith("/static"):
            assert answer.headers["cache-control"] == "no-store"


def test_a_host_that_is_not_ours_is_refused(web: Web) -> None:
    assert web.browser().get("/login", host="evil.example").status_code == 400


def test_no_session_id_is_in_a_page_an_address_or_the_log(web: Web, email: str) -> None:
    browser = web.logged_in(email)
    seen = [browser.get(path) for path in ("/devices", "/admin", "/login", "/nowhere")]
    seen.append(browser.post(LOG_OUT_OTHERS))
    session_id, device_id = browser.cookies[SESSION], browser.cookies[DEVICE]
    for answer in seen:
        assert session_id not in answer.text + str(answer.url) + answer.headers.get("location", "")
        assert device_id not in answer.text
    log = web.app.log.read_text()
    assert "GET /devices" in log
    assert "sess_" not in log
    assert device_id not in log


def test_without_the_sidecar_nobody_is_logged_in_or_out(run_dir: Path) -> None:
    with running_web(run_dir) as web:
        web.system.app.register("ada@example.org")
        browser = web.logged_in("ada@example.org")
        browser.get("/devices")
        web.system.sidecar.kill()
        answer = browser.get("/devices")
        assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (503, True)
        assert answer.headers["cache-control"] == "no-store"
        assert "We cannot tell who you are" in _text(answer)
        out = browser.post("/logout")
        assert out.status_code == 503
        assert "We do not know whether this was done" in _text(out)
        assert SESSION in browser.cookies
        assert web.browser().log_in("ada@example.org").status_code == 503
        web.system.sidecar.start()
        web.system.app.wait_for_lease()
        deadline = time.monotonic() + 20
        while (status := browser.get("/devices").status_code) != 200:
            assert (status, time.monotonic() < deadline) == (503, True)


async def test_a_fault_of_ours_says_nothing_of_itself_and_keeps_its_headers() -> None:
    app = create_app(Settings(socket="/nowhere", origin="http://localhost"))
    # Its client was never made: the app was not started.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/devices")
    assert (answer.status_code, "Something went wrong" in answer.text) == (500, True)
    assert "client" not in _text(answer)
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_the_example_uses_nothing_of_the_programs_but_their_client() -> None:
    sources = [file.read_text() for file in EXAMPLE.rglob("*.py")]
    imported = {name for text in sources for name in re.findall(r"(?m)^(?:from|import) (\w+)", text)}
    assert "trustlayer" in imported
    assert not imported & {"flowless", "bridge_sidecar", "trust_core", "tools", "tests"}


@pytest.mark.parametrize(
    "origin",
    [
        "http://accounts.example.org",
        "accounts.example.org",
        "https://accounts.example.org/",
        "https://Accounts.example.org",
        "https://ada@accounts.example.org",
        "ftp://localhost",
        "https://",
        "",
    ],
)
def test_an_origin_whose_cookies_would_not_be_safe_ends_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="APP_ORIGIN"):
        Settings.from_environment({"TRUSTLAYER_SOCKET": "/run/x", "APP_ORIGIN": origin})


@pytest.mark.parametrize("proxies", ["*", "0.0.0.0/0", "10.0.0.1/8", "10.0.0.300", "proxy.example", "10.0.0.1,", ","])
def test_a_proxy_that_is_no_address_and_no_network_ends_the_start(proxies: str) -> None:
    needed = {"TRUSTLAYER_SOCKET": "/run/x", "APP_ORIGIN": "http://localhost:8000"}
    with pytest.raises(SettingsError, match="APP_TRUSTED_PROXIES"):
        Settings.from_environment(needed | {"APP_TRUSTED_PROXIES": proxies})


def test_who_installs_the_example_alone_gets_nobody_elses_client() -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert project["dependencies"]
    assert not [text for text in project["dependencies"] if text.startswith("trustlayer")]
