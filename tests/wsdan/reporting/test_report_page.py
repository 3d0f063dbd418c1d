"""The page of `wsdan report` in a browser, as wide as a desk's and as a phone's."""

import shutil
from pathlib import Path

import pytest
from reported import CLASSES, HOSTILE, PER_CLASS, make_checkpoint, make_hostile_tree

from wsdan.cli import main
from wsdan.reporting.observe import WORST
from wsdan.reporting.report import FIRST_PAIRS

VIEWPORTS = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    """Chromium; skips where it or playwright is not installed."""
    api = pytest.importorskip("playwright.sync_api")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    path = next(found, None)
    if path is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """The reports of a WS-DAN network and of a plain one, on images with hostile names."""
    folder = tmp_path_factory.mktemp("reports")
    root = make_hostile_tree(folder / "data")
    found = {}
    for method in ("wsdan", "baseline"):
        checkpoint = make_checkpoint(folder / method, CLASSES, method=method)
        found[method] = folder / f"{method}.html"
        command = ["report", "--checkpoint", checkpoint, "--root", root, "--data", "folder"]
        assert main([str(part) for part in [*command, "--out", found[method]]]) == 0
    return found


class Opened:
    """A page, the URLs that it asked for, and what went wrong in it."""

    def __init__(self, browser, path: Path, viewport: str, **options):
        width, height = VIEWPORTS[viewport]
        self.page = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def column(self, name: str) -> list[str]:
        """The texts of a column of the class table, in the order shown."""
        cells = self.page.locator(f"#class-table tbody .{name}")
        return [text.strip() for text in cells.all_text_contents()]


@pytest.fixture
def opened(browser, reports):
    """Opens a report; its page is closed at the end."""
    pages = []

    def open_report(method="wsdan", viewport="desk", **options) -> Opened:
        pages.append(Opened(browser, reports[method], viewport, **options))
        return pages[-1]

    yield open_report
    for item in pages:
        item.page.close()


@pytest.mark.parametrize("viewport", VIEWPORTS)
@pytest.mark.parametrize("method", ["wsdan", "baseline"])
def test_it_is_whole_and_quiet(opened, method, viewport):
    found = opened(method, viewport)
    assert found.page.title().startswith("data, best.pt")  # no name of a class has run as a script
    assert found.count("script") == found.count("style") == found.count("h1") == 1
    assert found.count("i:not(.box), [onerror]") == 0
    sections = found.page.eval_on_selector_all("section", "all => all.map(item => item.id)")
    targets = found.page.eval_on_selector_all("nav a", "all => all.map(item => item.hash.slice(1))")
    assert sections == targets
    assert ("localisation" in sections) == (method == "wsdan")
    assert {"summary", "curves", "classes", "confusions", "errors", "calibration"} < set(sections)
    assert found.count("#curves svg[role=img][aria-label]") == 3
    assert found.count("#class-table tbody tr") == len(CLASSES)
    worst = min(WORST, len(HOSTILE) * PER_CLASS)
    assert worst - len(HOSTILE) < found.count("#errors .tile") <= worst
    per_tile = 2 if method == "wsdan" else 1
    assert found.count("img") == per_tile * found.count(".tile")
    assert found.count("img[alt]:not([alt=''])") == found.count("img")
    assert found.count("i.box.refined") == (found.count(".tile") if method == "wsdan" else 0)
    for item in found.page.locator("details").all():
        item.evaluate("item => item.open = true")
    wide = found.page.evaluate(
        "() => [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert wide
    root = "document.documentElement"
    assert found.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert found.page.evaluate("document.body.scrollWidth <= document.body.clientWidth")
    assert found.errors == []
    assert [url for url in found.requests if not url.startswith("data:")] == [found.page.url]


def test_nothing_sticks_out_of_its_tile(opened):
    """Long names wrap: no text is wider than what holds it."""
    found = opened(viewport="phone")
    wide = found.page.eval_on_selector_all(
        ".tile, .side, .facts, h1, h3, #class-table td, #class-table th, .scroll",
        "all => all.filter(item => item.scrollWidth > item.clientWidth + 1).length",
    )
    assert wide == 0


def test_the_box_lies_on_the_photograph(opened):
    found = opened()
    outside = found.page.eval_on_selector_all(
        "#errors i.box",
        """all => all.filter(item => {
            const box = item.getBoundingClientRect();
            const image = item.parentElement.querySelector("img").getBoundingClientRect();
            return box.width < 2 || box.left < image.left - 1 || box.right > image.right + 1
                || box.top < image.top - 1 || box.bottom > image.bottom + 1;
        }).length""",
    )
    assert outside == 0


def test_a_click_sorts(opened):
    found = opened()
    before = found.column("accuracy")
    assert found.page.locator("th.accuracy[aria-sort=ascending]").count() == 1
    numbers = [float(text.rstrip("\u00a0%")) for text in before if text]
    assert numbers == sorted(numbers) and len(numbers) == len(HOSTILE)
    assert before[len(HOSTILE) :] == [""] * (len(CLASSES) - len(HOSTILE))  # without images
    found.page.click("th.accuracy button")
    after = found.column("accuracy")
    assert after == [*[t for t in before if t][::-1], *[""] * (len(CLASSES) - len(HOSTILE))]
    assert found.page.get_attribute("th.accuracy", "aria-sort") == "descending"
    assert "descending" in found.page.text_content("#status")


def test_the_keyboard_sorts(opened):
    found = opened()
    found.page.focus("#filter")
    for _ in range(2):  # the region that scrolls, then the first heading
        found.page.keyboard.press("Tab")
    found.page.keyboard.press("Enter")
    names = found.column("class")[1:]  # without the heading's own
    assert found.page.get_attribute("th.class", "aria-sort") == "ascending"
    assert found.page.get_attribute("th.accuracy", "aria-sort") is None
    found.page.keyboard.press("Space")
    assert found.page.get_attribute("th.class", "aria-sort") == "descending"
    assert found.column("class")[1:] != names


def test_the_filter_leaves_what_it_names(opened):
    found = opened()
    found.page.fill("#filter", "SCRIPT")
    assert found.count("#class-table tbody tr:not([hidden])") == 2
    assert found.page.text_content("#status") == f"2 of {len(CLASSES)} classes."


def test_light_and_dark_differ_and_can_be_read(opened):
    shades = []
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme).page
        read = "getComputedStyle(document.body)"
        colours = [page.evaluate(f"{read}.{name}") for name in ("backgroundColor", "color")]
        shades.append([sum(map(int, c[4:-1].split(","))) for c in colours])
    (light_back, light_text), (dark_back, dark_text) = shades
    assert light_back > 700 > 150 > light_text
    assert dark_back < 100 < 600 < dark_text


def test_it_can_be_read_without_scripts(opened):
    found = opened(java_script_enabled=False)
    assert found.count("#class-table tbody tr") == len(CLASSES)
    assert not found.page.locator("#filter").is_visible()
    assert found.count("#confusions > article.pair") <= FIRST_PAIRS
