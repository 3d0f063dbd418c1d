"""The documentation site as `make docs` built it: links, phones, search without a network.

WSDAN_SITE=build/site pytest tests/test_site.py
"""

import os
import re
import shutil
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from paths import ROOT

SITE = ROOT / os.environ.get("WSDAN_SITE", "build/site")
PHONE, DESK = 390, 1280

pytestmark = pytest.mark.skipif("WSDAN_SITE" not in os.environ, reason="WSDAN_SITE names no site")


class Parsed(HTMLParser):
    """The ids of a page, what it refers to, and its texts."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.targets, self.text = set(), set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets |= {found[name] for name in ("href", "src") if found.get(name)}

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def pages() -> dict[Path, Parsed]:
    """All pages but that of a missing address."""
    found = {path: Parsed(path) for path in sorted(SITE.rglob("*.html")) if path.name != "404.html"}
    assert len(found) > 30
    return found


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    """A tab without a network that keeps what it asks of it, and its errors."""
    context = browser.new_context(offline=True, viewport={"width": DESK, "height": 900})
    found = context.new_page()
    found.faults = []
    found.on("pageerror", lambda error: found.faults.append(str(error)))
    found.on("console", lambda said: said.type == "error" and found.faults.append(said.text))
    found.on(
        "request",
        lambda asked: asked.url.startswith("http") and found.faults.append(asked.url),
    )
    yield found
    context.close()


def test_links_and_anchors_lead_somewhere(pages):
    for path, page in pages.items():
        for target in page.targets:
            scheme, host, name, _, _, anchor = urllib.parse.urlparse(target)
            if scheme or host:
                continue
            file = (path.parent / urllib.parse.unquote(name)).resolve() if name else path
            assert file.is_file(), f"{path.relative_to(SITE)}: {target}"
            if anchor and file in pages:
                found = pages[file].ids
                assert urllib.parse.unquote(anchor) in found, f"{path.relative_to(SITE)}: {target}"


def test_operators_and_errors_are_filled_in(pages):
    operators = pages[SITE / "operators" / "views.html"]
    assert "rule: str = " in operators.text and "int(padding*H) rows" in operators.text
    assert {"attention_boxes", "wsdan_kernels.views.attention_refine"} <= operators.ids
    errors = pages[SITE / "troubleshooting.html"].text
    assert "--cache and --decode gpu exclude each other" in errors
    assert "$$" not in operators.text and "<!-- errors" not in errors


def test_pages_fit_a_desk_and_a_phone_and_fetch_nothing(pages, tab):
    for path in pages:
        for width in (DESK, PHONE):
            tab.set_viewport_size({"width": width, "height": 900})
            if width == DESK:
                tab.goto(path.as_uri())
            wide = tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path.name}: {wide} of {width} px"
        images = "[...document.images].filter(x => !x.naturalWidth).map(x => x.src)"
        assert not tab.evaluate(images) and not tab.faults, path.name


@pytest.mark.parametrize(
    ("words", "leads_to"),
    [
        ("otsu", "operators/views.html#otsu_thresholds"),
        ("exclude each other", "troubleshooting.html#an-option-or-a-setting"),
        ("Stanford Cars", "training/datasets.html"),
    ],
)
def test_search_works_without_a_network(tab, words, leads_to):
    tab.goto((SITE / "index.html").as_uri())
    tab.get_by_placeholder("Search").press_sequentially(words)  # it listens to keys
    results = tab.locator("a.md-search-result__link")
    results.first.wait_for(timeout=10000)
    addresses = [re.sub(r"\?[^#]*", "", item.get_attribute("href")) for item in results.all()]
    assert any(leads_to in address for address in addresses), addresses
    assert not tab.faults
