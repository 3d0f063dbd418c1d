"""The page in a real browser: a photograph in, classes, attention, parts and zoom out."""

from pathlib import Path

import pytest
from served import CLASSES, checkpoint, photograph
from server_process import server

api = pytest.importorskip("playwright.sync_api", reason="the browser's tests need playwright")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}")


@pytest.fixture(scope="module")
def address(trained):
    with server(trained) as (_, found):
        yield found


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end there was no error on its console, nor a request elsewhere."""
    wrong, contexts = [], []

    def open_page(width: int = 1280, path: str = "", **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if local(request.url) else wrong.append(request.url),
        )
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def choose(page, content: bytes, name: str = "bird.jpg") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": content})


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_photograph_is_classified_and_shown(opened, width, scheme, tmp_path):
    page = opened(width, color_scheme=scheme)
    choose(page, photograph((640, 480)))
    page.wait_for_selector("#result:not([hidden])")
    best = page.locator("#scores tbody tr").first
    assert best.locator("th").inner_text() in CLASSES
    assert page.locator("#scores tbody tr").count() == len(CLASSES)
    assert page.locator("#answer").inner_text().startswith(best.locator("th").inner_text())
    assert page.locator("#scores .bar").count() == 2 * len(CLASSES)
    parts = page.locator("#parts li").count()
    assert 1 <= parts <= 4
    assert page.locator("#lines circle").count() == parts
    assert page.locator("#lines rect").count() == 2
    for name in ("photograph", "zoom"):
        assert page.evaluate(f"document.getElementById('{name}').naturalWidth") > 20
        assert page.locator(f"#{name}").get_attribute("alt")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("[role=status]").inner_text().startswith("bird.jpg: ")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_layers_are_switched_with_the_keyboard(opened):
    page = opened()
    choose(page, photograph((64, 48)))
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("#overlay").is_hidden()
    page.locator("#show-overlay").focus()
    page.keyboard.press("Space")
    assert page.locator("#overlay").is_visible() and page.locator("#scale").is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#lines circle").first.get_attribute("visibility") == "hidden"
    assert page.locator("#parts").is_hidden()


def test_the_button_is_the_first_stop_of_the_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.locator("#file:focus-visible").count() == 1


def test_a_photograph_is_dropped_or_pasted(opened):
    page = opened()
    script = """([kind, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], `${kind}.jpg`, { type: "image/jpeg" }));
      const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(script, [kind, list(photograph((64, 48)))])
        api.expect(page.locator("#status")).to_contain_text(f"{kind}.jpg: ")


def test_a_fault_is_told_and_the_next_photograph_is_not_harmed(browser, address):
    page = browser.new_page()
    page.goto(address)
    choose(page, b"words", "<b>.jpg")
    page.wait_for_selector("[role=alert]:not([hidden])")
    assert page.locator("[role=alert]").inner_text().startswith("<b>.jpg: not a readable image")
    choose(page, photograph((64, 48)))
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("[role=alert]").is_hidden()
    page.close()


def test_the_api_is_described(opened):
    page = opened(390, "docs")
    page.wait_for_selector("h2")
    assert page.locator("h2").all_inner_texts() == ["POST /predict", "GET /healthz"]
    assert page.locator("tr").count() > 30
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_a_plain_classifier_is_shown_without_attention(browser, tmp_path):
    with server(checkpoint(tmp_path, method="baseline")) as (_, address):
        page = browser.new_page()
        page.goto(address)
        choose(page, photograph((64, 48)))
        page.wait_for_selector("#result:not([hidden])")
        assert page.locator("#layers").is_hidden() and page.locator("#zoomed").is_hidden()
        assert page.evaluate("document.getElementById('photograph').naturalWidth") == 64
        assert page.locator("#scores .bar").count() == len(CLASSES)
        page.close()
