"""The page in a browser: it explains faces, describes many pictures, and asks no other machine."""

import contextlib
import csv
import zipfile

import pytest

gradio = pytest.importorskip("gradio", reason='no gradio: pip install "explllm[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

from explllm.app.page import Services, create_page, launch  # noqa: E402

SECONDS = 120_000


@pytest.fixture(scope="module")
def address(browser, explainer, detector):
    blocks = create_page(Services({"one": explainer, "two": explainer}, detector, max_new_tokens=12))
    yield launch(blocks, "127.0.0.1", None, prevent_thread_lock=True)
    blocks.close(verbose=False)


def choose_files(chooser, files, uploaded):
    """Choose files, and again if the page drops them: gradio may rebuild a tab that was opened just now."""
    for _ in range(4):
        chooser.set_input_files(files)
        with contextlib.suppress(playwright.TimeoutError):
            uploaded.wait_for(timeout=SECONDS / 4)
            return
    pytest.fail(f"the page shows no uploaded files: {chooser.page.locator('body').inner_text()}")


def test_the_page(browser, address, group, pictures, tmp_path):
    """A face of a group is explained by two models; pictures become a table and a report."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(SECONDS)
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.set_input_files("input[type=file]", group)
    for part in ("#first", "#second"):
        page.wait_for_selector(f"{part} article[aria-busy=false]")
        assert page.locator(f"{part} .x-expression tr").count() == 7
    face = page.locator("#first .x-photo img")
    before = face.get_attribute("src")
    page.get_by_label("Face 4").check()
    page.wait_for_function("before => document.querySelector('#first .x-photo img').src != before", arg=before)
    page.wait_for_selector("#first article[aria-busy=false]")
    assert page.locator(".x-box").count() == 6 and page.locator(".x-chosen").inner_text() == "4"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    page.get_by_role("tab", name="Many pictures").click()
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("face.png", pictures[0])
    tab = page.locator("[role=tabpanel]").filter(has=page.get_by_role("button", name="Start"))
    chooser = tab.locator("input[type=file]:not([webkitdirectory])")
    choose_files(chooser, [tmp_path / "faces.zip", group], tab.locator("a[download='faces.zip']"))
    page.get_by_role("button", name="Start").click()
    page.get_by_text("7 faces in 2 pictures.").wait_for()
    with page.expect_download() as download:
        page.locator("a[download='faces.csv']:visible").first.click()
    assert len(list(csv.DictReader(download.value.path().open()))) == 7
    assert errors == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    page.close()
