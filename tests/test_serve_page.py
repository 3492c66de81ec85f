"""The page in a real browser, Chromium without a window: photos in, answers out, by keyboard too.

Slow: the browser takes seconds. Skipped where Chromium or its driver is not installed.
"""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Asker, by_red, photo, serving

from catdog_jax.serve.app import Limits

pytestmark = pytest.mark.slow

PROGRAMS = [shutil.which("chromium"), shutil.which("chromedriver")]
if not all(PROGRAMS):
    pytest.skip("no Chromium here: apt-get install chromium-driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

DROP = """
const [name, bytes, kind] = arguments;
const files = new DataTransfer();
files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
const given = {bubbles: true, cancelable: true};
document.body.dispatchEvent(kind === "drop"
  ? new DragEvent("drop", {...given, dataTransfer: files})
  : new ClipboardEvent("paste", {...given, clipboardData: files}));
"""


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    with serving(by_red(), Limits(bytes=60_000, at_once=2)) as asker:
        yield asker


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(PROGRAMS[0])
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--no-sandbox")  # root may not have one; the page is ours
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(PROGRAMS[1]))
    yield driver
    driver.quit()


class Page:
    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.until(lambda: self["about"].text == "Answered by by red.")

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 15
        while not holds():
            assert time.monotonic() < end, self["status"].text
            time.sleep(0.02)

    def told(self, text: str) -> None:
        """Wait until the line that screen readers read aloud is `text`."""
        self.until(lambda: self["status"].text == text)

    def rows(self) -> list[list[str]]:
        cells = "return [...document.querySelectorAll('#rows tr')].map("
        cells += "row => [...row.cells].slice(1).map(cell => cell.innerText.trim()))"
        return self.browser.execute_script(cells)


@pytest.fixture
def page(browser: webdriver.Chrome, ask: Asker) -> Iterator[Page]:
    yield Page(browser, ask.url)
    said = [entry["message"] for entry in browser.get_log("browser")]
    # A photo that is refused and one that is to come again are told on the page, too.
    assert [line for line in said if " 422 " not in line and " 503 " not in line] == []


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, str]:
    contents = {
        "blue.png": photo(0),
        "half.png": photo(140),
        "red.png": photo(255, (300, 200)),
        "=1+1, \"<img src=x onerror='document.title=1'>.png": photo(255),
        "letter.txt": b"Dear cat,",
        "large.png": b"\0" * 60_001,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents}


def test_a_chosen_photo_is_answered_with_its_heat_map(page: Page, photos: dict[str, str]) -> None:
    assert page["title"].text == page.browser.title == "Blue or red?"
    assert page["promise"].text == "Photos stay on this machine, and none is kept."
    page["files"].send_keys(photos["red.png"])
    page.told("red.png: red, 100.0 %")
    assert page["answer"].text == "red, 100.0 %"
    assert page["shares"].text.split("\n") == ["blue", "0.0 %", "red", "100.0 %"]
    page.until(page["heat"].is_displayed)
    assert page["heat"].rect == page["photo"].rect
    assert page["heat"].accessible_name.endswith("speaks most for red")
    assert page["photo"].accessible_name == "Photo: red.png"
    page["show-heat"].click()
    assert not page["heat"].is_displayed()
    assert not page["all"].is_displayed()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(page: Page, way: str) -> None:
    page.browser.execute_script(DROP, "half.png", [*photo(140)], way)
    page.told("half.png: Not sure")
    assert page["answer"].text == "Not sure"
    assert page["detail"].text == "half.png: red is likeliest, with 72.7 %"


def test_several_photos_are_a_table_that_is_saved(
    page: Page, photos: dict[str, str], tmp_path: Path
) -> None:
    page["files"].send_keys("\n".join(photos.values()))
    page.told("6 photos: 1 blue, 1 not sure, 2 red, 2 no answer")
    names = [*photos]
    said = "cannot be decoded as a photo: unknown image format"
    assert page.rows() == [
        ["blue.png", "blue", "100.0 %"],
        ["half.png", "not sure (red)", "72.7 %"],
        ["red.png", "red", "100.0 %"],
        [names[3], "red", "100.0 %"],  # its name is text, never markup
        ["letter.txt", said],
        ["large.png", "it is larger than 0.06 MB"],
    ]
    page.browser.find_element(By.CSS_SELECTOR, "[aria-label='Show red.png']").click()
    page.until(page["heat"].is_displayed)
    folder = tmp_path / "saved"
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    page["save"].click()
    page.until((folder / "answers.csv").is_file)
    with (folder / "answers.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ["file", "class", "sure", "blue", "red", "error"]
    assert [row["file"] for row in rows] == names
    assert [row["sure"] for row in rows] == ["True", "False", "True", "True", "", ""]
    assert float(rows[1]["red"]) == pytest.approx(0.727, abs=1e-3)
    assert rows[4]["error"] == said
    page["clear"].click()
    assert page.rows() == []


def test_the_keyboard_suffices_and_everything_has_a_name(
    page: Page, photos: dict[str, str]
) -> None:
    browser = page.browser
    browser.execute_script("document.getElementById('files').onclick = () => window.opened = 1")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.accessible_name.startswith("Choose photos")
    assert first.aria_role == "button"
    first.send_keys(Keys.ENTER)
    assert browser.execute_script("return window.opened") == 1
    page["files"].send_keys("\n".join([photos["blue.png"], photos["red.png"]]))
    page.told("2 photos: 1 blue, 1 red")
    page.until(page["show-heat"].is_displayed)
    browser.execute_script("document.getElementById('choose').focus()")
    names = []
    for _ in range(6):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        names.append(browser.switch_to.active_element.accessible_name.strip())
    table = ["Table of all photos", "Show blue.png", "Show red.png"]
    assert names == ["Heat map", "Save as CSV", "Clear", *table]
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert page["answer"].text == "red, 100.0 %"
    assert browser.switch_to.active_element.get_attribute("aria-pressed") == "true"
    assert page["status"].aria_role == "status"


def test_it_fits_a_narrow_phone(page: Page, photos: dict[str, str]) -> None:
    phone = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page["files"].send_keys("\n".join(photos.values()))
        page.told("6 photos: 1 blue, 1 not sure, 2 red, 2 no answer")
        widest = "return document.documentElement.scrollWidth"
        assert page.browser.execute_script(widest) == 320
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
