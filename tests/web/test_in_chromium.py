"""The example app in real browsers: what people see, what browsers keep, and what other sites' pages can do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.system import PASSWORD
from tests.support.web import DEVICE, SESSION, Web, running_web
from tests.web.chromium import PHONE, Chromium, chromium
from tests.web.hostile import PATHS, hostile_site

LOG_OUT = "header form button"
ODD_NAMES = (
    '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">',
    "Zoë 王小明 שלום עולם 🦊 \u202egnp",
)

NewBrowser = Callable[[str], Chromium]


@pytest.fixture(scope="module")
def web(module_dir: Path) -> Iterator[Web]:
    with running_web(module_dir) as web:
        yield web


@pytest.fixture(scope="module")
def new_browser(web: Web, module_dir: Path) -> Iterator[NewBrowser]:
    """Browsers by name, each with its own profile; what a test left in them is forgotten when it asks for them."""
    started: dict[str, Chromium] = {}
    with ExitStack() as stack:

        def browser(name: str) -> Chromium:
            if name not in started:
                started[name] = stack.enter_context(chromium(module_dir, name, web.origin))
            found = started[name]
            found.driver.get("about:blank")
            found.devtools("Network.clearBrowserCookies")
            found.console()
            return found

        yield browser


@pytest.fixture
def email(web: Web) -> str:
    email = web.fresh_email()
    web.system.app.register(email)
    return email


def test_a_device_is_thrown_out_at_its_next_click_after_another_revoked_it(web: Web, new_browser: NewBrowser) -> None:
    laptop, phone = new_browser("laptop"), new_browser("phone")
    laptop.register("grace@example.org", name="Grace")
    phone.log_in("grace@example.org", device_name="Grace’s phone")
    assert phone.heading == "My devices"
    laptop.click("nav a[href='/devices']")
    assert laptop.count(".devices li") == 2
    assert laptop.count(".devices .badge") == 1
    assert "Grace’s phone" in laptop.text
    assert laptop.text.count("127.0.0.1") == 2
    laptop.click(".devices form button")
    assert "The device was logged out. It is refused from now on." in laptop.text
    assert laptop.count(".devices li") == 1
    phone.click("nav a[href='/devices']")
    assert (phone.heading, phone.status()) == ("You were logged out", 401)
    assert "from another device" in phone.text
    laptop.click("nav a[href='/devices']")
    assert laptop.status() == 200


def test_everything_else_is_logged_out_by_one_click(web: Web, new_browser: NewBrowser, email: str) -> None:
    laptop, phone = new_browser("laptop"), new_browser("phone")
    others = [web.logged_in(email) for _ in range(3)]
    for browser in (laptop, phone):
        browser.log_in(email)
    laptop.open("/devices")
    assert laptop.count(".devices li") == 5
    laptop.click(".others button")
    assert laptop.count(".devices li") == 1
    assert "All your other devices were logged out" in laptop.text
    phone.click("nav a[href='/devices']")
    assert phone.heading == "You were logged out"
    assert [other.get("/devices").status_code for other in others] == [401] * 3


def test_the_admin_page_opens_in_the_browser_of_the_login_only(web: Web, new_browser: NewBrowser) -> None:
    web.system.app.register("admin@example.org", roles=("admin",))
    laptop = new_browser("laptop")
    laptop.log_in("admin@example.org")
    laptop.click("nav a[href='/admin']")
    assert (laptop.heading, laptop.status()) == ("Admin", 200)
    agent = laptop.run("return navigator.userAgent")
    laptop.devtools("Network.setUserAgentOverride", userAgent=agent.replace("HeadlessChrome", "Chrome"))
    laptop.open("/admin")
    assert (laptop.heading, laptop.status()) == ("Your browser has changed", 401)
    laptop.open("/devices")
    assert laptop.heading == "My devices"
    laptop.devtools("Network.setUserAgentOverride", userAgent=agent)
    laptop.open("/admin")
    assert laptop.heading == "Admin"
    laptop.devtools("Network.deleteCookies", name=DEVICE, url=web.origin)
    laptop.open("/admin")
    assert (laptop.heading, laptop.status()) == ("Your browser is not known", 401)
    # The page that said so gave it a new device id, which is not the one of the login.
    laptop.open("/admin")
    assert (laptop.heading, laptop.status()) == ("This is another browser", 401)


def test_the_admin_page_is_not_for_everybody(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    laptop.click("nav a[href='/admin']")
    assert (laptop.heading, laptop.status()) == ("This page is for administrators", 403)


def test_the_browser_keeps_both_cookies_with_all_their_flags(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    cookies = laptop.cookies()
    assert set(cookies) == {SESSION, DEVICE}
    for cookie in cookies.values():
        flags = (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"], cookie["domain"])
        assert flags == (True, True, "Lax", "/", "localhost")
    assert cookies[SESSION]["session"]
    assert not cookies[DEVICE]["session"]
    assert cookies[SESSION]["value"].startswith("sess_")


def test_no_script_finds_a_session_id_and_nothing_shows_one(web: Web, new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    values = [cookie["value"] for cookie in laptop.cookies().values()]
    seen = []
    for path in ("/devices", "/admin", "/login", "/devices?done=others", "/nowhere"):
        laptop.open(path)
        seen += [laptop.driver.page_source, laptop.driver.current_url, laptop.run("return document.cookie")]
        seen.append(laptop.run("return JSON.stringify([localStorage, sessionStorage, history.state])"))
    seen += [*laptop.console(), web.app.log.read_text()]
    assert not [text for text in seen for value in values if value in text]
    assert "sess_" not in "".join(seen)
    assert laptop.run("return localStorage.length + sessionStorage.length") == 0
    assert laptop.run("return document.cookie") == ""


def test_the_console_has_nothing_to_complain_of(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.open("/register")
    laptop.log_in(email)
    laptop.open("/devices")
    assert laptop.console() == []


def test_the_button_back_shows_nothing_after_logging_out(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email, device_name="A device with a name of its own")
    laptop.open("/devices")
    laptop.open("/devices?done=gone")
    assert "A device with a name of its own" in laptop.text
    laptop.click(LOG_OUT)
    assert (laptop.path, SESSION in laptop.cookies()) == ("/login?left", False)
    for _ in range(3):
        laptop.driver.back()
        assert "A device with a name of its own" not in laptop.driver.page_source
        assert laptop.heading == "Log in"


def test_names_are_shown_as_they_are_and_never_run(new_browser: NewBrowser) -> None:
    laptop = new_browser("laptop")
    for number, name in enumerate(ODD_NAMES):
        laptop.devtools("Network.clearBrowserCookies")
        laptop.open("/register")
        _type(laptop, "name", name)
        laptop.fill(email=f"odd{number}@example.org", password=PASSWORD)
        laptop.click("main form button")
        laptop.open("/login")
        laptop.fill(login=f"odd{number}@example.org", password=PASSWORD)
        _type(laptop, "device_name", name)
        laptop.click("main form button")
        assert [laptop.run(f"return document.querySelectorAll('main bdi')[{i}].textContent") for i in (0, 1)] == [
            name
        ] * 2
        assert laptop.run("return window.hacked") is None
        assert laptop.count("main script, main img") == 0


def _type(browser: Chromium, field: str, text: str) -> None:
    """Put text into a field as if it were pasted: a driver types no characters beyond the first plane."""
    browser.find(f"#{field}").click()
    browser.devtools("Input.insertText", text=text)


def test_a_script_that_got_into_a_page_does_not_run(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    laptop.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s);"
        "const t = document.createElement('script'); t.src = '/static/style.css'; document.body.append(t);"
    )
    assert laptop.run("return window.hacked") is None
    assert sum("Content Security Policy" in line for line in laptop.console()) >= 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another-site", "another-port-of-the-site"])
def test_a_page_of_somebody_else_changes_nothing(web: Web, new_browser: NewBrowser, email: str, host: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    other = web.logged_in(email)
    before = laptop.cookies()
    with hostile_site(web.origin, PASSWORD) as port:
        hostile = f"http://{host}:{port}"
        for path in PATHS:
            laptop.driver.get(f"{hostile}/form{path}")
            laptop.click("button")
            assert (path, laptop.path, laptop.heading, laptop.status()) == (path, path, "This was not done", 403)
        laptop.driver.get(f"{hostile}/fetch")
        laptop.wait_until(f"return window.outcomes.length === {2 * len(PATHS)} && window.read !== undefined")
        # The browser refuses to hand over what is said: neither of the answers, nor of the page.
        assert set(laptop.run("return window.outcomes")) == {"refused"}
        assert laptop.run("return window.read") == ""
        laptop.driver.get(f"{hostile}/images")
    after = laptop.cookies()
    assert {name: cookie["value"] for name, cookie in after.items()} == {
        name: cookie["value"] for name, cookie in before.items()
    }
    assert other.get("/devices").status_code == 200
    laptop.open("/devices")
    assert laptop.status() == 200
    # All of them arrived, and were refused.
    log = web.app.log.read_text()
    assert all(f'"POST {path} HTTP/1.1" 403' in log for path in PATHS)


def test_no_page_of_ours_is_shown_in_a_frame(web: Web, new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.log_in(email)
    with hostile_site(web.origin, PASSWORD) as port:
        laptop.driver.get(f"http://localhost:{port}/images")
        laptop.driver.switch_to.frame(0)
        text = laptop.driver.page_source
        laptop.driver.switch_to.default_content()
    assert "My devices" not in text


def test_a_page_of_somebody_else_cannot_log_a_browser_in(web: Web, new_browser: NewBrowser, email: str) -> None:
    phone = new_browser("phone")
    phone.open("/login")
    with hostile_site(web.origin, PASSWORD) as port:
        for path in ("/login", "/register"):
            phone.driver.get(f"http://127.0.0.1:{port}/form{path}")
            phone.click("button")
            assert phone.status() == 403
    assert set(phone.cookies()) == {DEVICE}


def test_a_form_from_before_the_login_in_another_tab_is_refused_kindly(new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.open("/login")
    first = laptop.driver.current_window_handle
    laptop.driver.switch_to.new_window("tab")
    laptop.log_in(email)
    laptop.driver.close()
    laptop.driver.switch_to.window(first)
    laptop.fill(login=email, password=PASSWORD)
    laptop.click("main form button")
    assert (laptop.heading, laptop.status()) == ("This was not done", 403)
    assert "out of date" in laptop.text
    laptop.open("/devices")
    assert laptop.status() == 200


def test_every_page_can_be_used_with_a_keyboard_a_screen_reader_and_a_phone(
    web: Web, new_browser: NewBrowser, email: str
) -> None:
    laptop = new_browser("laptop")
    web.logged_in(email)
    for path in ("/login", "/register", "/nowhere", "/devices", "/devices?done=others"):
        if path == "/devices":
            laptop.log_in(email, device_name="x" * 128)
        laptop.open(path)
        assert laptop.run("return document.documentElement.lang") == "en"
        assert (laptop.count("h1"), laptop.count("main"), laptop.count("header"), laptop.count("footer")) == (
            1,
            1,
            1,
            1,
        )
        for element in laptop.visible("input, button, a, nav"):
            assert element.accessible_name, element.get_attribute("outerHTML")
        assert laptop.low_contrast() == []
        laptop.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert laptop.low_contrast() == []
        laptop.devtools("Emulation.setEmulatedMedia", features=[])
        laptop.resize(PHONE)
        assert laptop.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        laptop.devtools("Emulation.clearDeviceMetricsOverride")
        laptop.open(path)
        laptop.press_tab()
        assert laptop.driver.switch_to.active_element.text == "Skip to the content"
        assert laptop.run("return getComputedStyle(document.activeElement).outline").endswith("solid 3px")


def test_an_error_in_a_form_is_told_at_its_field_and_what_was_typed_stays(new_browser: NewBrowser) -> None:
    laptop = new_browser("laptop")
    laptop.open("/register")
    laptop.fill(name="Zoë", email="zoe@example.org", password="password1234")
    laptop.click("main form button")
    assert (laptop.status(), laptop.driver.title.startswith("Error:")) == (422, True)
    field = laptop.find("#password")
    assert field.get_attribute("aria-invalid") == "true"
    told = [laptop.find(f"#{name}").text for name in (field.get_attribute("aria-describedby") or "").split()]
    assert any("too common" in text for text in told)
    assert laptop.find("#name").get_attribute("value") == "Zoë"
    assert laptop.find("#password").get_attribute("value") == ""


def test_a_form_that_was_refused_can_be_sent_again_by_a_reload(new_browser: NewBrowser) -> None:
    laptop = new_browser("laptop")
    laptop.open("/register")
    laptop.fill(name="Zoë", email="zoe@example.org", password="password1234")
    laptop.click("main form button")
    assert laptop.status() == 422
    laptop.driver.refresh()
    assert (laptop.status(), laptop.heading) == (422, "Register")


def test_a_browser_that_runs_no_script_can_do_all_of_it(web: Web, new_browser: NewBrowser, email: str) -> None:
    laptop = new_browser("laptop")
    laptop.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        laptop.log_in(email)
        assert laptop.heading == "My devices"
        laptop.click(LOG_OUT)
        assert laptop.heading == "Log in"
    finally:
        laptop.devtools("Emulation.setScriptExecutionDisabled", value=False)


def test_without_the_sidecar_a_page_says_that_nobody_can_tell_and_nobody_is_logged_out(
    run_dir: Path,
) -> None:
    with running_web(run_dir) as web, chromium(run_dir, "alone", web.origin) as browser:
        browser.register("ada@example.org")
        web.system.sidecar.kill()
        browser.open("/devices")
        assert (browser.heading, browser.status()) == ("We cannot tell who you are at the moment", 503)
        assert browser.find("main a").text == "Try again"
        browser.click(LOG_OUT)
        assert (browser.heading, browser.status()) == ("We do not know whether this was done", 503)
        assert SESSION in browser.cookies()
        web.system.sidecar.start()
        web.system.app.wait_for_lease()
        browser.wait_until_opened("/devices", status=200)
        assert browser.heading == "My devices"
