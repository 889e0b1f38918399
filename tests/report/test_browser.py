"""The pages as a browser shows them: no errors, nothing fetched, the metrics of the metrics."""

import shutil

import pytest

from explllm.commands.compare import compare
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.core.manifest import Manifest
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.answers import Answers
from explllm.models.generation import Recognition
from explllm.report.confusion import scored_faces
from explllm.report.page import ExplainedFace, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens a page and tells what went wrong and what was asked for."""
    pages = []

    def open_page(path, **options):
        page = browser.new_page(**options)
        pages.append(page)
        page.trouble, page.requests = [], []
        page.on("console", lambda message: page.trouble.append(message.text))
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path.resolve().as_uri(), wait_until="networkidle")
        return page

    yield open_page
    for page in pages:
        page.close()


def faces_of(drawn_faces, table):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame.set_index("image")
    labels = tuple(LABEL_SETS["rafdb"])
    for row in table.head(2).to_dict("records"):
        found = Recognition.of(labels, [row[f"p_{label}"] for label in labels])
        known = frame.loc[row["image"]]
        cot = (
            ChainOfThought.parse(known["cot"])
            if isinstance(known.get("cot"), str)
            else ChainOfThought.from_sections("a", "b", "c")
        )
        truth = Expression(row["expression"])
        yield ExplainedFace(drawn_faces / row["image"], truth, found, cot, known["action_units"], "drawn")


@pytest.fixture
def report(drawn_faces, drawn_table, made_up, metrics_of, tmp_path):
    table = made_up(drawn_table)
    metrics = metrics_of(table)
    tested = scored_faces(Answers.from_table(table), table, drawn_faces)
    write_report(tmp_path / "report.html", "a run", metrics, list(faces_of(drawn_faces, table)), tested=tested)
    return tmp_path / "report.html", metrics


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report(visit, report, scheme):
    path, metrics = report
    page = visit(path, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    assert page.trouble == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.resolve().as_uri()]
    shown = page.eval_on_selector_all("[data-key]", "all => all.map(one => [one.dataset.key, one.textContent])")
    assert len(shown) > 20
    for key, text in shown:
        assert text.strip() == (str(metrics[key]) if key == "test/count" else f"{metrics[key]:.3f}"), key
    # Every picture is really decoded, and the drawings are those of the scheme.
    images = page.eval_on_selector_all("img", "all => all.map(one => [one.naturalWidth, one.currentSrc])")
    assert len(images) == 5 + 27 and all(width > 0 for width, _ in images)
    sources = page.eval_on_selector_all("picture source", "all => all.map(one => one.srcset)")
    assert [source in [shown for _, shown in images] for source in sources] == [scheme == "dark"] * 3


@pytest.mark.parametrize("width", [390, 768, 1600])
def test_nothing_sticks_out(visit, report, width):
    page = visit(report[0], viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Every cell is shown at every width, and knows its column's name for widths without a header.
    shown = page.evaluate(
        """[...document.querySelectorAll('table tbody td, table tbody th')].map(one =>
            [one.getClientRects().length > 0, one.tagName == 'TH' || Boolean(one.dataset.label)])"""
    )
    assert len(shown) > 7 * 6 + 7 * 8 and all(visible and named for visible, named in shown)


def test_the_page_without_eyes(visit, report):
    """Tables have captions and scopes, pictures a description; plain words come before the statistics."""
    page = visit(report[0])
    assert page.locator("table").count() == page.locator("table > caption").count() == 3
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    texts = page.locator("article img").evaluate_all("all => all.map(one => one.alt)")
    assert all(text.startswith("Face labeled ") and "outlined regions: " in text for text in texts)
    lead = page.locator("p.lead")
    assert lead.inner_text().startswith("The model recognized ")
    assert lead.bounding_box()["y"] < page.locator(".cards").first.bounding_box()["y"]


def test_regions_lie_on_the_face(visit, report):
    """The outlines share the picture's frame; what is on the person's left is drawn in the right half."""
    page = visit(report[0], viewport={"width": 1280, "height": 900})
    frames = page.eval_on_selector_all(
        ".photo", "all => all.map(one => [...one.children].map(part => JSON.stringify(part.getBoundingClientRect())))"
    )
    assert len(frames) == 2 and all(image == outlines for image, outlines in frames)
    for photo in page.locator("article").all():
        x, width = (photo.locator(".photo").bounding_box()[name] for name in ("x", "width"))
        names = photo.locator("ol.regions li").all_inner_texts()
        outlines = photo.locator("rect.line").all()
        assert 0 < len(names) == len(outlines)
        for name, outline in zip(names, outlines, strict=True):
            box = outline.bounding_box()
            middle = (box["x"] + box["width"] / 2 - x) / width
            assert 0 < middle < 1
            assert {"left": middle > 0.5, "right": middle < 0.5}.get(name.split()[0], True), name
            assert name.endswith(("✓ agrees", "✗ contradicts", "– not measured"))


def test_a_cell_of_the_confusion_matrix_opens_its_faces(visit, report):
    path, metrics = report
    page = visit(path)
    assert page.locator("section.cell:visible").count() == 0
    labels, confusion = metrics["test/labels"], metrics["test/confusion"]
    wrong = next((r, c) for r in range(7) for c in range(7) if r != c and confusion[r][c])
    for row, column in ((0, 0), wrong):
        page.click(f'a[href="#cell-{row}-{column}"]')
        cell = page.locator("section.cell:visible")
        assert cell.count() == 1 and cell.locator("img").count() == confusion[row][column]
        heading = cell.locator("h3").inner_text()
        assert labels[row] in heading and (
            "✓" in heading if row == column else f"✗ answered {labels[column]}" in heading
        )


def test_the_table_of_recall_is_sorted_by_its_columns(visit, report):
    path, metrics = report
    page = visit(path)
    column = page.locator("table.sortable tbody tr td[data-label=recall]")
    recall = [f"{value:.3f}" for value in metrics["test/recall"].values()]
    for order, reverse in (("descending", True), ("ascending", False)):
        page.click("table.sortable th:has-text('recall') button")
        assert page.get_attribute("table.sortable th:has-text('recall')", "aria-sort") == order
        assert column.all_inner_texts() == sorted(recall, reverse=reverse)
    page.click("table.sortable th:has-text('expression') button")
    names = page.locator("table.sortable tbody th").all_inner_texts()
    assert names == sorted(metrics["test/labels"], reverse=True)


def test_print_is_light(visit, report):
    page = visit(report[0], color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.wait_for_function("[...document.querySelectorAll('picture img')].every(one => one.currentSrc == one.src)")


def test_comparison(visit, tested, tmp_path):
    compare([str(tested("one")), str(tested("two", seed=1))], out=tmp_path / "out")
    page = visit(tmp_path / "out/compare.html")
    assert page.trouble == []
    assert [url for url in page.requests if not url.startswith("data:")] == [(tmp_path / "out/compare.html").as_uri()]
    widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
    assert widths and all(widths)
