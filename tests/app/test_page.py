"""The page in a browser: it explains faces, describes many pictures, and asks no other machine."""

import contextlib
import csv
import zipfile
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

gradio = pytest.importorskip("gradio", reason='no gradio: pip install "explllm[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

from gradio.data_classes import ImageData  # noqa: E402

from explllm.app.page import Page, Services, create_page, launch  # noqa: E402
from explllm.faces.images import load_image  # noqa: E402

SECONDS = 120_000


@pytest.fixture(scope="module")
def address(browser, explainer, detector):
    blocks = create_page(Services({"one": explainer, "two": explainer}, detector, max_new_tokens=12))
    yield launch(blocks, "127.0.0.1", None, prevent_thread_lock=True)
    blocks.close(verbose=False)


def test_gradio_does_not_convert_files(explainer, pictures, tmp_path, monkeypatch):
    """The page sees the pixels that the commands see."""
    heif = pytest.importorskip("pillow_heif", reason='no pillow-heif: pip install "explllm[heif]"')
    image = Image.open(BytesIO(pictures[0])).convert("RGB")
    gray, transparent = image.convert("L"), image.copy()
    gray.save(tmp_path / "gray.jpg")
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    transparent.putalpha(gray)
    transparent.save(tmp_path / "transparent.png")
    heif.from_pillow(image).save(tmp_path / "photo.HEIC")
    # Another test may have registered the reader of HEIC. Pillow registers its own readers only once.
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: reader for name, reader in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    services = Services({"one": explainer})
    [picture] = [block for block in create_page(services).blocks.values() if isinstance(block, gradio.Image)]
    for file in sorted(tmp_path.iterdir()):
        arrived = picture.preprocess(ImageData(path=str(file), orig_name=file.name))
        photograph, _ = Page(services).look(arrived)
        assert np.array_equal(np.asarray(photograph.image), np.asarray(load_image(file)))


def test_gradio_runs_no_program_in_a_picture(explainer, pictures, tmp_path, monkeypatch):
    """A data URL in a request to gradio's own API can be an EPS file."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(tmp_path / "gs"))
    blocks = create_page(Services({"one": explainer})).blocks
    [picture] = [block for block in blocks.values() if isinstance(block, gradio.Image)]
    content = BytesIO()
    Image.open(BytesIO(pictures[0])).convert("RGB").save(content, "EPS")
    url = f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
    with pytest.raises(OSError, match="Ghostscript"):
        picture.preprocess(ImageData(url=url))
    assert not (tmp_path / "started").exists()


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
