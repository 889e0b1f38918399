"""The documentation's page of benchmarks shows the result files as they are."""

import importlib
import json
from statistics import median


def test_the_page_is_up_to_date(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    results = importlib.import_module("results")
    page = results.page().pop(results.PAGE)
    assert results.PAGE.read_text(encoding="utf-8") == page, "run python benchmarks/results.py"
    files = sorted((repository / "benchmarks/results").glob("*.json"))
    assert files and {path.stem for path in files} <= set(results.BENCHMARKS)
    for path in files:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        plot = (results.PAGE.parent / f"images/benchmark_{path.stem}.svg").read_text(encoding="utf-8")
        # Coordinates differ between releases of matplotlib.
        for job, sides in rows.items():
            assert f">{job}<" in plot.replace("&#39;", "'").replace("&apos;", "'")
            assert all(f">{median(samples):.1f}<" in plot for samples in sides.values())
            assert f"| {job} | {median(sides['ours']):.1f} (" in page
