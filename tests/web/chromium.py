"""Real headless Chromium, each with a new empty profile, driven over the W3C WebDriver protocol."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.system import PASSWORD

WAIT_SECONDS: Final = 30.0
DESKTOP: Final = (1_100, 800)
PHONE: Final = (375, 740)

_CHROMIUM: Final = shutil.which("chromium")
_DRIVER: Final = shutil.which("chromedriver")
_FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine has a name.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)

_LOW_CONTRAST: Final = """
const parsed = text => text.match(/[\\d.]+/g).map(Number);
const opaque = text => { const [, , , alpha = 1] = parsed(text); return alpha > 0; };
const light = text => {
  const [r, g, b] = parsed(text).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (; element; element = element.parentElement)
    if (opaque(getComputedStyle(element).backgroundColor)) return getComputedStyle(element).backgroundColor;
  return "rgb(255, 255, 255)";
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
  const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
  const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (ratio < 4.5) found.push(walker.currentNode.textContent.trim() + ": " + ratio.toFixed(2));
}
return found;
"""


class Chromium:
    """One browser. What it does waits until the page that follows is there."""

    def __init__(self, driver: Chrome, origin: str) -> None:
        """`origin`: the app's."""
        self.driver = driver
        self.origin = origin

    def open(self, path: str) -> None:
        """Open a page of the app."""
        self.driver.get(self.origin + path)

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def click(self, selector: str) -> None:
        """Click, and wait until another document has taken this one's place and is complete."""
        before = self.find("html").id
        self.find(selector).click()

        def replaced(driver: Chrome) -> bool:
            state = driver.execute_script("return document.readyState")
            return state == "complete" and driver.find_element(By.CSS_SELECTOR, "html").id != before

        WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.005).until(replaced)

    def fill(self, **fields: str) -> None:
        """Type into the fields of these ids."""
        for name, text in fields.items():
            element = self.find(f"#{name}")
            element.clear()
            element.send_keys(text)

    def register(self, email: str, *, name: str = "Ada") -> None:
        """Register a user whose password is `PASSWORD`."""
        self.open("/register")
        self.fill(name=name, email=email, password=PASSWORD)
        self.click("main form button")

    def log_in(self, email: str, *, device_name: str = "") -> None:
        """Log a user in whose password is `PASSWORD`."""
        self.open("/login")
        self.fill(login=email, password=PASSWORD, device_name=device_name)
        self.click("main form button")

    @property
    def heading(self) -> str:
        """The page's first heading."""
        return self.find("h1").text

    @property
    def text(self) -> str:
        """What a person can read."""
        return self.find("body").text

    @property
    def path(self) -> str:
        """Where the browser is, without the origin."""
        return self.driver.current_url.removeprefix(self.origin)

    def run(self, script: str) -> Any:
        """Run a script in the page, as an injected one would run, and return its result."""
        return self.driver.execute_script(script)

    def devtools(self, command: str, **parameters: Any) -> dict[str, Any]:
        """Run a command of the DevTools protocol."""
        answer = self.driver.execute_cdp_cmd(command, parameters)
        return cast("dict[str, Any]", answer)

    def cookies(self) -> Mapping[str, dict[str, Any]]:
        """Every cookie of the profile, with its flags, by name."""
        found = self.devtools("Network.getAllCookies")["cookies"]
        return {cookie["name"]: cookie for cookie in found}

    def status(self) -> int:
        """Status of the answer that the page is."""
        return int(self.run("return performance.getEntriesByType('navigation')[0].responseStatus"))

    def console(self) -> list[str]:
        """What was written to the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def visible(self, selector: str) -> list[WebElement]:
        """Elements that are shown, or are there for screen readers."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [element for element in found if element.is_displayed()]

    def press_tab(self) -> None:
        """Go to the next element that takes the focus."""
        self.find("body").send_keys(Keys.TAB)

    def wait_until(self, script: str) -> None:
        """Wait until a script in the page returns true."""
        WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.02).until(lambda _: self.run(script) is True)

    def wait_until_opened(self, path: str, *, status: int) -> None:
        """Open a page until it is answered with this status."""

        def opened(_: Chrome) -> bool:
            self.open(path)
            return self.status() == status

        WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.1).until(opened)

    def low_contrast(self) -> list[str]:
        """Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3), and how much it is."""
        found: list[str] = self.run(_LOW_CONTRAST)
        return found

    def resize(self, size: tuple[int, int], *, scale: float = 1.0) -> None:
        """Show pages in a window of this size, in CSS pixels."""
        width, height = size
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )


@contextmanager
def chromium(directory: Path, name: str, origin: str) -> Iterator[Chromium]:
    """Start a browser whose profile and log are in the directory, under this name."""
    assert _CHROMIUM, "needs Debian's package chromium"
    assert _DRIVER, "needs Debian's package chromium-driver"
    options = ChromeOptions()
    options.binary_location = _CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={directory / name}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(executable_path=_DRIVER, log_output=str(directory / f"{name}.log"))
    driver = Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(WAIT_SECONDS)
        yield Chromium(driver, origin)
    finally:
        driver.quit()
