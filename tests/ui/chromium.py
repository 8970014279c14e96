"""A real, headless Chromium that can reach nothing but this machine, and the chat page in it as a reader sees it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PICTURES = Path(__file__).parents[2] / "build" / "ui"
DEADLINE_S = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DESKTOP, PHONE = (1280, 860), (390, 844)

# All names but this machine's lead nowhere; Chromium asks for nothing on its own account either.
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-domain-reliability", "--disable-client-side-phishing-detection", "--no-pings", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication,CertificateTransparencyComponentUpdater,NetworkTimeServiceQuerying",
)  # fmt: skip

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Wait for something that has to come; the value that says so. Elements that change under our eyes are no error."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            found = condition()
        except StaleElementReferenceException:
            found = None
        if found:
            return found
        assert time.monotonic() < end, f"expected {what}"
        time.sleep(0.01)


class Chat:
    """One window on the page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    # ---- looking ---------------------------------------------------------------------------------

    def all(self, selector: str) -> list[WebElement]:
        """What is on the page now, seen or not."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def one(self, selector: str) -> WebElement:
        """The first that can be seen, waited for."""
        return until(lambda: next((found for found in self.all(selector) if found.is_displayed()), None), selector)

    def is_seen(self, selector: str) -> bool:
        """Whether it can be seen now."""
        try:
            return any(found.is_displayed() for found in self.all(selector))
        except StaleElementReferenceException:
            return False

    def script(self, text: str, *arguments: object) -> Any:
        """Run in the page, by the browser's own hand: the page's policy does not hold for it."""
        return self.driver.execute_script(text, *arguments)

    def texts(self, role: str) -> list[str]:
        """What the "user" or the "bot" said, as it is shown."""
        found = self.script(
            'return [...document.querySelectorAll(`#chat [data-testid="${arguments[0]}"]`)].map(e => e.innerText)',
            role,
        )
        return [text.strip() for text in found]

    @property
    def answers(self) -> list[str]:
        """The model's turns."""
        return self.texts("bot")

    @property
    def status(self) -> str:
        """The line below the conversation."""
        return str(self.script("return document.querySelector('#status-line')?.innerText || ''"))

    @property
    def is_answering(self) -> bool:
        """Whether an answer is under way."""
        return self.is_seen("#stop")

    def titles(self) -> list[str]:
        """The list of conversations."""
        found = self.script("return [...document.querySelectorAll('#conversations li button')].map(e => e.innerText)")
        return [str(title) for title in found]

    # ---- doing -----------------------------------------------------------------------------------

    def open(self, path: str = "/") -> Chat:
        """Load the page and wait until it can be used."""
        self.driver.get(self.url + path)
        return self.loaded()

    def reload(self) -> Chat:
        """Load it again."""
        self.driver.refresh()
        return self.loaded()

    def loaded(self) -> Chat:
        """Wait until models are there: all that the page shows at first is shown."""
        until(lambda: self.value("#model input"), "a model in the chooser")
        self.one("#message textarea")
        return self

    def value(self, selector: str) -> str:
        """What a box holds; "" where there is none."""
        return str(self.script("return document.querySelector(arguments[0])?.value || ''", selector))

    def click(self, selector: str) -> None:
        """Click on it, once nothing lies over it."""

        def clicked() -> bool:
            try:
                self.one(selector).click()
            except StaleElementReferenceException:
                return False
            except WebDriverException as error:
                if "intercepted" in str(error) or "not interactable" in str(error):
                    return False
                raise
            return True

        until(clicked, f"{selector} to take a click")

    def type(self, selector: str, text: str, *then: str) -> None:
        """Put a text into a box in place of what it holds."""
        box = self.one(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text or Keys.DELETE, *then)

    def ask(self, text: str) -> None:
        """Send a message, and leave the answer on its way."""
        until(lambda: not self.is_answering, "the answer before to have ended")
        self.type("#message textarea", text, Keys.ENTER)

    def say(self, text: str) -> str:
        """Send a message; the whole answer."""
        n = len(self.answers)
        self.ask(text)
        return self.answered(n + 1)

    def answered(self, n: int) -> str:
        """Wait until there are so many answers and the last one is whole; its text."""
        until(lambda: len(self.answers) >= n and not self.is_answering and self.status, f"answer number {n}")
        assert len(self.answers) == n
        return self.answers[-1]

    def choose(self, model: str) -> None:
        """Another model."""
        self.click("#model input")
        until(lambda: self.option(model), f"{model} in the list").click()
        until(lambda: self.value("#model input") == model, f"{model} to be chosen")

    def option(self, model: str) -> WebElement | None:
        """An entry of the open list of models."""
        shown = [found for found in self.all("[role='option']") if found.is_displayed()]
        return next((found for found in shown if found.text.strip().endswith(model)), None)

    def settings_open(self) -> None:
        """Show the panel of settings."""
        if not self.is_seen("#temperature"):
            self.click("#toggle-settings")
        self.one("#temperature")

    def set(self, name: str, value: object) -> None:
        """A setting with a number's box."""
        self.settings_open()
        self.type(f"#{name} input[type='number']", str(value), Keys.TAB)
        until(lambda: self.value(f"#{name} input[type='number']") == str(value), f"{name} to be {value}")

    def new(self) -> None:
        """Another conversation, which begins empty."""
        self.click("#new-conversation")
        until(lambda: not self.answers and not self.texts("user"), "an empty conversation")

    def picture(self, name: str) -> Path:
        """Leave a picture of the window in build/ui."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        until(lambda: self.script("return document.fonts.status === 'loaded'"), "the fonts")
        assert self.driver.save_screenshot(str(path))
        return path

    # ---- what the browser noted ------------------------------------------------------------------

    def _log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return found

    def complaints(self) -> list[str]:
        """Errors and warnings of the page since the last look, the policy's among them."""
        return [entry["message"] for entry in self._log() if entry["level"] in ("SEVERE", "WARNING")]


@contextmanager
def chromium(profile: Path, *options: str, size: tuple[int, int] = DESKTOP, phone: bool = False) -> Iterator[Chrome]:
    """A browser with a profile of its own, which is made where there is none.

    phone  the screen of a phone: narrow, touched, two points a pixel
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "expected the program chromium"
    assert driver, "expected the program chromedriver"
    given = ChromeOptions()
    given.binary_location = program
    for option in (*OPTIONS, *options, f"--user-data-dir={profile}", "--window-size={},{}".format(*size)):
        given.add_argument(option)
    given.add_argument("--lang=en-US")
    given.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        metrics = {"width": size[0], "height": size[1], "pixelRatio": 2.0, "touch": True}
        given.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    profile.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    browser = Chrome(given, ChromeService(driver, env=environment))
    browser.set_script_timeout(DEADLINE_S)
    try:
        yield browser
    finally:
        browser.quit()


def requested(log: Path) -> list[str]:
    """Every address that pages asked for, from the file of --log-net-log; Chromium's own news and clocks left out."""
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        noted = json.loads(text)
    except ValueError:  # a browser that was ended does not finish the file
        noted = json.loads(text.rstrip().rstrip(",") + "]}")
    begun = noted["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    given = [event.get("params", {}) for event in noted["events"] if event["type"] == begun]
    return [
        params["url"]
        for params in given
        if params.get("initiator", "not an origin") != "not an origin"
        or any(name in params.get("network_isolation_key", "") for name in LOOPBACK)
    ]


def elsewhere(addresses: list[str]) -> list[str]:
    """Those that are not on this machine."""
    found = [urlsplit(address) for address in addresses]
    is_net = ("http", "https", "ws", "wss")
    return sorted({url.geturl() for url in found if url.scheme in is_net and url.hostname not in LOOPBACK})
