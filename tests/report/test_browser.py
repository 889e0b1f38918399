"""The pages as a browser shows them: no errors, no requests, the metrics of the run."""

import pytest

from explllm.core.expressions import LABEL_SETS, Expression
from explllm.core.manifest import Manifest
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.answers import Answers
from explllm.metrics.comparison import compare_runs, read_runs
from explllm.models.generation import Recognition
from explllm.report.comparison import write_comparison
from explllm.report.confusion import scored_faces
from explllm.report.page import ExplainedFace, write_report

TEXTS_OF_LOW_CONTRAST = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const over = (color, below) => {  // the color as the screen shows it
        canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const paper = one => one === null ? [255, 255, 255]
        : over(getComputedStyle(one).backgroundColor, paper(one.parentElement));
    const light = rgb => rgb.map(part => part / 255)
        .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), low = [];
    let checked = 0;
    while (texts.nextNode()) {
        const one = texts.currentNode.parentElement, style = getComputedStyle(one);
        const hidden = !one.getClientRects().length || one.closest(".photo, script, style");
        if (hidden || !texts.currentNode.data.trim()) continue;
        const below = paper(one), ink = over(one.closest("svg") ? style.fill : style.color, below);
        const [dark, bright] = [light(below), light(ink)].sort((a, b) => a - b);
        if ((bright + 0.05) / (dark + 0.05) < 4.5) low.push([texts.currentNode.data.trim(), ink, below]);
        checked += 1;
    }
    return checked > 50 ? low : ["too few texts", checked];
})()"""
"""Texts with a contrast below 4.5, WCAG's level AA; those on photographs have a halo instead."""


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


@pytest.fixture(scope="module")
def report(drawn_faces, drawn_table, made_up, metrics_of, tmp_path_factory):
    table = made_up(drawn_table)
    metrics = metrics_of(table)
    tested = scored_faces(Answers.from_table(table), table, drawn_faces)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, "a run", metrics, list(faces_of(drawn_faces, table)), tested=tested)
    return path, metrics


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
    assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    assert page.locator("img").count() == 2 + 27
    assert page.evaluate(TEXTS_OF_LOW_CONTRAST) == []
    # The plots have the colors of the scheme.
    text = page.locator(".plots svg text").first
    assert text.evaluate("one => getComputedStyle(one).fill") == page.evaluate("getComputedStyle(document.body).color")
    assert f"ECE {metrics['test/ece']:.3f}" in page.locator(".plots").inner_text()
    assert f"(ECE) {metrics['test/ece']:.3f}: confidence and accuracy differ by" in page.locator(".plots").inner_text()


@pytest.mark.parametrize("width", [390, 768, 1600])
def test_nothing_sticks_out(visit, report, width):
    page = visit(report[0], viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('.table')].every(one => one.scrollWidth <= one.clientWidth)")
    # Every cell is shown at every width. If rows become blocks, without a header, cells know their column's name.
    shown = page.evaluate(
        """[...document.querySelectorAll('table tbody td, table tbody th')].map(one =>
            [one.getClientRects().length > 0, !one.closest('.blocks') || one.tagName == 'TH' || !!one.dataset.label])"""
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


@pytest.mark.parametrize("scripts", [True, False])
def test_a_cell_of_the_confusion_matrix_opens_its_faces(visit, report, scripts):
    path, metrics = report
    page = visit(path, java_script_enabled=scripts)
    labels, confusion = metrics["test/labels"], metrics["test/confusion"]
    cells = [(row, column) for row in range(7) for column in range(7) if confusion[row][column]]
    cell = page.locator("section.cell:visible")
    # The most frequent error is open at the start.
    largest = max(confusion[row][column] for row, column in cells if row != column)
    assert cell.count() == 1 and cell.locator("img").count() == largest
    assert cell.locator("h3").inner_text().startswith(f"{largest} face")
    for row, column in ((0, 0), next(one for one in cells if one[0] != one[1])):
        link = page.locator(f'a[href="#cell-{row}-{column}"]')
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#cell-{row}-{column}:target")
        assert cell.count() == 1 and cell.locator("img").count() == confusion[row][column]
        mark = "✓" if row == column else "✗"
        assert f"{mark} labeled {labels[row]}, answered {labels[column]}" in cell.locator("h3").inner_text()
        if scripts:
            assert link.get_attribute("aria-current") == "true"
            assert page.locator(".matrix a[aria-current]").count() == 1
    assert page.trouble == []
    if not scripts:
        return
    # Arrow keys move over the numbers, space opens one, escape comes back from its faces.
    row = [column for column in range(7) if confusion[0][column]]
    page.focus(f'a[href="#cell-0-{row[0]}"]')
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    opened = f"#cell-0-{row[1] if len(row) > 1 else row[0]}"
    page.wait_for_selector(f"{opened}:target")
    page.focus(opened)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.hash") == opened


def test_the_table_of_recall_is_sorted_by_its_columns(visit, report):
    path, metrics = report
    page = visit(path)
    column = page.locator("table.sortable tbody tr td[data-label=recall]")
    recall = [f"{value:.3f}" for value in metrics["test/recall"].values()]
    assert column.all_inner_texts() == recall and page.locator("[aria-sort]").count() == 0
    header, name = page.locator("table.sortable th:has-text('recall')"), page.locator("table.sortable thead th").first
    for order, reverse in (("descending", True), ("ascending", False)):
        header.locator("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == order and page.locator("[aria-sort]").count() == 1
        assert column.all_inner_texts() == sorted(recall, reverse=reverse)
    name.locator("button").click()
    assert name.get_attribute("aria-sort") == "ascending" and page.locator("[aria-sort]").count() == 1
    assert page.locator("table.sortable tbody th").all_inner_texts() == sorted(metrics["test/labels"])
    assert page.trouble == []


def test_print_is_light(visit, report):
    page = visit(report[0], color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector, name in ((".plots svg text", "fill"), (".heat a", "color"), ("figcaption", "color")):
        color = page.locator(selector).first.evaluate("(one, name) => getComputedStyle(one)[name]", name)
        assert max(int(part) for part in color[4:-1].split(",")) < 128, selector  # dark on white paper


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparison(visit, tested, tmp_path, scheme):
    comparison = compare_runs(read_runs([str(tested("one")), str(tested("two", seed=1))]))
    write_comparison(comparison, tmp_path / "out")
    page = visit(tmp_path / "out/compare.html", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert [url for url in page.requests if not url.startswith("data:")] == [(tmp_path / "out/compare.html").as_uri()]
    assert page.evaluate("document.images.length && [...document.images].every(one => one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(TEXTS_OF_LOW_CONTRAST) == []
    # The faces of an expression that only one run recognizes. Some are shown at the start.
    assert page.locator("section.cell:visible h3").inner_text().split(": ")[1].startswith("Only ")
    faces = comparison.faces[comparison.faces["right one"] & ~comparison.faces["right two"]]
    expression, count = next(iter(faces["expression"].value_counts().items()))
    page.get_by_role("link", name=f"{count} face{'s' * (count > 1)}: Only one correct, labeled {expression}").click()
    cell = page.locator("section.cell:visible")
    assert cell.count() == 1
    assert sorted(cell.locator(".file").all_inner_texts()) == sorted(faces["image"][faces["expression"] == expression])
    assert cell.locator("span.right").count() == cell.locator("span.wrong").count() == count
    assert page.trouble == []
