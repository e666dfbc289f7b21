"""Draw each page of the example app for its README, as it looks on a desktop and on a phone: `make web-pictures`."""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.system import PASSWORD
from tests.support.web import Web, running_web
from tests.web.chromium import DESKTOP, PHONE, Chromium, chromium
from tools.processes import exit_on_sigterm, temporary_directory
from tools.web_app import EXAMPLE

DIRECTORY: Final = EXAMPLE / "pictures"
_PHONE_AGENT: Final = "Mozilla/5.0 (Linux; Android 16) Chrome/140.0 Mobile Safari/537.36"
_SIZES: Final = (("desktop", (900, 400)), ("phone", (PHONE[0], 500)))


def _draw(browser: Chromium, name: str, directory: Path) -> None:
    """Draw the page that is open in both sizes."""
    for kind, (width, lowest) in _SIZES:
        browser.resize((width, lowest))
        browser.resize((width, browser.run("return document.documentElement.scrollHeight")))
        (directory / f"{name}-{kind}.png").write_bytes(browser.driver.get_screenshot_as_png())
    browser.resize(DESKTOP)


def draw(web: Web, browser: Chromium, directory: Path) -> None:
    """Walk through the app and draw what there is to see."""
    browser.open("/register")
    _draw(browser, "register", directory)
    browser.fill(name="Ada", email="ada@example.org", password="password1234")
    browser.click("main form button")
    _draw(browser, "register-refused", directory)
    web.system.app.register("ada@example.org", roles=("admin",))
    browser.open("/login")
    _draw(browser, "login", directory)
    browser.fill(login="ada@example.org", password=PASSWORD)
    browser.click("main form button")
    for name in ("Ada’s phone", "Office"):
        other = web.browser(user_agent=_PHONE_AGENT)
        other.log_in("ada@example.org", device_name=name)
    browser.open("/devices")
    _draw(browser, "devices", directory)
    browser.click(".others button")
    _draw(browser, "devices-logged-out", directory)
    browser.open("/admin")
    _draw(browser, "admin", directory)
    browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open("/devices")
    _draw(browser, "devices-dark", directory)
    browser.devtools("Emulation.setEmulatedMedia", features=[])
    web.logged_in("ada@example.org").get("/devices")
    thief = web.logged_in("ada@example.org")
    thief.get("/devices")
    thief.post("/devices/log-out-others")
    browser.open("/devices")
    _draw(browser, "denied", directory)
    web.system.sidecar.kill()
    browser.open("/devices")
    _draw(browser, "unavailable", directory)


def main(arguments: Sequence[str]) -> int:
    """Draw all pages and keep those that the README shows, or all of them in another directory."""
    parser = argparse.ArgumentParser(prog="python -m tests.web.pictures", description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIRECTORY", help="leave every picture here instead")
    chosen = parser.parse_args(arguments)
    exit_on_sigterm()
    with (
        temporary_directory() as directory,
        running_web(directory) as web,
        chromium(directory, "painter", web.origin) as browser,
    ):
        drawn = chosen.all or directory / "pictures"
        drawn.mkdir(exist_ok=True)
        draw(web, browser, drawn)
        if chosen.all is None:
            shown = re.findall(r"\]\(pictures/([\w-]+\.png)\)", (EXAMPLE / "README.md").read_text())
            DIRECTORY.mkdir(exist_ok=True)
            for old in DIRECTORY.glob("*.png"):
                old.unlink()
            for name in shown:
                shutil.copyfile(drawn / name, DIRECTORY / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
