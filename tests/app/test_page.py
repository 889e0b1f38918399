"""The page in a browser: it loads, explains a face, and asks no other machine."""

import shutil

import pytest

gradio = pytest.importorskip("gradio", reason='no gradio: pip install "explllm[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from explllm.app.page import Services, create_page, launch  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SECONDS = 120_000


@pytest.fixture(scope="module")
def address(explainer, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt install chromium")
    blocks = create_page(Services({"one": explainer, "two": explainer}, max_new_tokens=12))
    yield launch(blocks, "127.0.0.1", None, prevent_thread_lock=True)
    blocks.close(verbose=False)


def test_a_picture_is_explained(address, pictures, tmp_path):
    (tmp_path / "face.png").write_bytes(pictures[0])
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=SECONDS)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(SECONDS)
        errors, requests = [], []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.wait_for_selector("input[type=file]", state="attached")
        page.set_input_files("input[type=file]", tmp_path / "face.png")
        for part in ("#first", "#second"):
            page.wait_for_selector(f"{part} article[aria-busy=false]")
            assert page.locator(f"{part} .x-expression tr").count() == 7
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert errors == []
        assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
        browser.close()
