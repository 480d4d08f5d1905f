"""The report's page in a real browser: headless Chromium, opened from its file, with the network off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import make_results
from test_report_autoencoders import SHARED, add_autoencoder

from fdm.report import build

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make environment)")
pytestmark = pytest.mark.xdist_group("browser")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium on the PATH, or else the one that Playwright has installed."""
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)
        if not found:
            pytest.skip("no Chromium here: install the system's, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three methods with two seeds, two of them with an autoencoder."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        results = make_results(folder, seeds=(0, 1))
        for name in SHARED:
            for seed in (0, 1):
                add_autoencoder(results / name / f"seed{seed}", f"{seed}".ljust(16, "p"))
        return build("demo", results, folder / "reports/demo")


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page at desktop width; whatever it asks for or complains about fails the test."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", offline=True)
    context.set_default_timeout(120_000)  # machines are shared
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", page_file.as_uri()))] == []
    context.close()


def column(page: Any, table: str, name: str) -> list[str]:
    """Values of a column as they stand, row by row, of rows that can be seen."""
    return page.evaluate(
        """([table, name]) => {
            const element = document.querySelector(`#table-${table} table`);
            const heads = [...element.tHead.rows[element.tHead.rows.length - 1].cells];
            const index = heads.findIndex((head) => head.textContent.trim().startsWith(name));
            return [...element.tBodies[0].rows].filter((row) => row.offsetParent).map((row) => row.cells[index].dataset.value);
        }""",
        [table, name],
    )


def test_all_pictures_load(opened: Any) -> None:
    sizes = opened.evaluate(
        """Promise.all([...document.images].map(async (image) => {
            image.loading = "eager"; await image.decode(); return image.naturalWidth;
        }))"""
    )
    assert len(sizes) == 4 and all(sizes)
    frames = opened.evaluate(
        """[...document.querySelectorAll("svg image")].map((image) => image.getBoundingClientRect().width)"""
    )
    assert len(frames) > 50 and all(frames)


def test_sorting_by_mouse_and_keyboard(opened: Any) -> None:
    before = column(opened, "main", "Fréchet")
    head = opened.locator("#table-main thead tr:last-child th", has_text="Fréchet")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(opened, "main", "Fréchet") == sorted(before, key=float)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(opened, "main", "Fréchet") == sorted(before, key=float, reverse=True)
    head.locator("button").press("Space")
    assert head.get_attribute("aria-sort") == "none" and column(opened, "main", "Fréchet") == before
    opened.locator("#table-main thead th", has_text="Method").locator("button").click()
    assert column(opened, "main", "Method") == ["DDPM", "f-DM-DS, 2 stages", "f-DM-DS, 3 stages"]


def test_filters(opened: Any) -> None:
    opened.get_by_label("Filter rows of Quality and cost").fill("F-DM 3")
    assert column(opened, "main", "Method") == ["f-DM-DS, 3 stages"]
    assert opened.locator("#table-main output").inner_text() == "1 of 3 rows"
    assert len(column(opened, "training", "Method")) == 3, "words filter their own table"
    opened.get_by_label("Filter rows of Quality and cost").fill("")

    opened.locator("#methods summary").press("Enter")
    opened.get_by_role("checkbox", name="f-DM-DS, 3 stages").uncheck()
    for table in ("main", "training", "stages", "settings", "runs"):
        assert set(column(opened, table, "Method")) == {"DDPM", "f-DM-DS, 2 stages"}, table
    assert len(column(opened, "autoencoders", "Autoencoder")) == 1, "another method still uses it"
    for place in ("#figure-reverse-fdm-ds-3", "#samples-fdm-ds-3", "#run-fdm-ds-3"):
        assert opened.locator(place).is_hidden(), place
    for figure in ("quality", "training"):
        hidden, shown = (opened.locator(f"#figure-{figure} [data-of={name}]").all() for name in ("fdm-ds-3", "ddpm"))
        assert hidden and not any(part.is_visible() for part in hidden)
        assert any(part.is_visible() for part in shown)
    assert opened.locator("#shown").inner_text() == "2 of 3"
    opened.locator("#none").click()
    assert column(opened, "main", "Method") == column(opened, "autoencoders", "Autoencoder") == []
    opened.locator("#all").click()
    opened.keyboard.press("Escape")
    assert opened.locator("#methods fieldset").is_hidden()
    assert len(column(opened, "main", "Method")) == 3


def test_every_number_leads_to_its_manifest(opened: Any, page_file: Path) -> None:
    numbers = opened.locator("tbody td.number:not([data-value=''])")
    assert numbers.count() > 50
    targets = numbers.evaluate_all("cells => cells.map((cell) => cell.querySelector('a')?.hash)")
    assert all(target and opened.locator(target).count() == 1 for target in set(targets)) and None not in targets
    opened.locator("#table-runs tbody tr").nth(5).locator("a").last.click()
    manifest = opened.locator("#run-fdm-ds-3-seed1 pre")
    manifest.wait_for()  # the browser tells the page of the new address after the click
    assert '"seed": 1' in manifest.inner_text()
    assert opened.locator("#run-fdm-ds-3-seed0 pre").is_hidden()


def test_viewer(opened: Any) -> None:
    opened.locator("#figure-quality .enlarge").click()
    viewer = opened.locator("#viewer")
    assert viewer.is_visible() and opened.locator("#stage svg").count() == 1
    assert opened.locator("#figure-quality svg").count() == 0
    width = opened.locator("#stage svg").bounding_box()["width"]
    opened.locator("#zoom").click()
    assert opened.locator("#stage svg").bounding_box()["width"] > 1.5 * width
    title = opened.locator("#viewer-title")
    for _ in range(100):  # drawings come first, then samples
        if opened.locator("#stage img").count():
            break
        before = title.inner_text()
        opened.keyboard.press("ArrowRight")
        assert title.inner_text() != before
    assert "DDPM" in title.inner_text()
    opened.keyboard.press("Escape")
    viewer.wait_for(state="hidden")
    opened.locator("#figure-quality svg").wait_for()  # put back when the dialog tells that it has closed


def test_theme(opened: Any) -> None:
    def background() -> str:
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    opened.emulate_media(color_scheme="dark")
    # The page hears of it in its own time; `wait_for_function` would evaluate text, which the page's policy forbids.
    opened.locator("html[data-theme=dark]").wait_for()
    dark = background()
    assert dark != light
    for patience in (0, 1_000, 10_000):  # ms: a busy Chromium may reload before the choice has reached its store
        opened.get_by_role("button", name="Light colours").click()
        assert background() == light
        opened.wait_for_timeout(patience)
        opened.reload()
        if background() == light:
            break
    assert background() == light, "the reader's choice is kept"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_width_and_accessibility(opened: Any, scheme: str, viewport: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened.emulate_media(color_scheme=scheme)
    opened.locator(f"html[data-theme={scheme}]").wait_for()
    opened.set_viewport_size(viewport)
    opened.locator("#methods summary").click()
    opened.locator("#run-ddpm summary").first.click()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.evaluate(overflow) == 0
    # The policy of the page stops scripts from outside, the checker's too unless it comes through the debugger.
    found = Axe().run(opened).response["violations"]
    said = [(rule["id"], rule["impact"], [node["target"] for node in rule["nodes"]][:5]) for rule in found]
    assert [entry for entry in said if entry[1] in ("serious", "critical")] == []


def test_print(opened: Any) -> None:
    opened.emulate_media(media="print", color_scheme="dark")
    opened.set_viewport_size({"width": 1000, "height": 1400})
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 251)"
    assert opened.locator("nav").is_hidden() and opened.locator("#table-main").is_visible()
    assert opened.pdf(format="A4").startswith(b"%PDF")
