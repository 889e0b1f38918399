import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from explllm.commands.compare import compare as compare_command
from explllm.core.errors import InputError
from explllm.metrics.answers import Answers
from explllm.metrics.comparison import compare_runs, read_runs
from explllm.metrics.evaluation import recognition_metrics
from explllm.report.comparison import agreement_cells
from explllm.report.confusion import FACES_PER_CELL


def compare(runs, out=None):
    """Run the command, and return the comparison that it printed."""
    compare_command(runs, out=out and Path(out))
    return compare_runs(read_runs(runs))


def rewrite(folder, change):
    """Change a run's table of predictions."""
    change(pd.read_parquet(folder / "predictions.parquet")).to_parquet(folder / "predictions.parquet", index=False)


def test_two_runs(tested, capsys, drawn_table):
    one, two = tested("good", skill=3.0), tested("bad", seed=1, skill=0.5)
    found = compare([str(one), str(two)])
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (one, two)]
    right = [(table["predicted"] == table["expression"]).to_numpy() for table in tables]
    [pair] = found.pairs
    assert (pair.only_first, pair.only_second) == ((right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum())
    assert pair.both + pair.only_first + pair.only_second + pair.neither == len(drawn_table) == 27
    assert pair.p_value == pytest.approx(stats.binomtest(pair.only_first, pair.only_first + pair.only_second).pvalue)
    assert pair.difference == pytest.approx(right[0].mean() - right[1].mean())
    assert pair.interval[0] < pair.difference < pair.interval[1]
    assert pair.p_value < 0.05 and found.left_out == 0

    listed = pd.read_csv(one.parent / "compare-good-bad/compare.csv")
    expected = (tables[0]["predicted"] != tables[1]["predicted"]).to_numpy()
    assert list(listed["image"]) == list(drawn_table["image"][expected])
    assert list(listed["predicted good"]) == list(tables[0]["predicted"][expected])
    assert list(listed["right bad"]) == list(right[1][expected])

    said = " ".join(capsys.readouterr().out.split())
    page = (one.parent / "compare-good-bad/compare.html").read_text()
    held = json.loads((one / "metrics.json").read_text())
    for text in (said, page):
        assert f"{held['test/accuracy']:.3f}" in text and "a significant difference" in " ".join(text.split())
    assert "The faces are drawn by a program" in said and "The faces are drawn by a program" in page
    # All faces that a run gets wrong are on the page.
    assert page.count("data:image/jpeg") == (~(right[0] & right[1])).sum() and "http" not in page
    cells = agreement_cells(found)
    counts = {row[0].row: sum(cell.count for cell in row) for row in cells}
    assert counts["Only good correct"] == pair.only_first and counts["Only bad correct"] == pair.only_second
    assert counts["All correct"] == pair.both and sum(counts.values()) == 27

    compare_command([str(one), str(two)], as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in record["runs"]] == ["good", "bad"] and record["runs"][0]["metrics"] == held
    assert record["pairs"][0]["p_value"] == pair.p_value and record["differing"] == len(listed)
    assert record["table"] == str(one.parent / "compare-good-bad/compare.csv")


def test_a_run_of_one_class_is_called_so(tested, capsys):
    one, two = tested("good", skill=3.0), tested("constant", seed=1)
    rewrite(two, lambda frame: frame.assign(predicted="Happiness", **{"p_Happiness": 9.0}))
    table = pd.read_parquet(two / "predictions.parquet")
    figures = recognition_metrics(Answers.from_table(table))
    held = json.loads((two / "metrics.json").read_text()) | {f"test/{name}": value for name, value in figures.items()}
    (two / "metrics.json").write_text(json.dumps(held))
    compare([str(one), str(two)])
    said = " ".join(capsys.readouterr().out.split())
    page = (one.parent / "compare-good-constant/compare.html").read_text()
    for text in (said, page):
        assert "constant: one class only. The model predicts Happiness for every face" in text
        assert "good: one class only" not in text


def test_the_table_begins_with_faces_that_one_run_recognizes(tested):
    found = compare_runs(read_runs([str(tested("a", skill=0.5)), str(tested("b", seed=1, skill=0.5))]))
    groups = [row[0].row for row in agreement_cells(found)]
    assert groups[:2] == ["Only a correct", "Only b correct"] and "All wrong, with different answers" in groups[2:]


def test_equal_runs_do_not_differ(tested, tmp_path):
    found = compare([str(tested("a")), str(tested("b"))], str(tmp_path / "out"))
    assert found.pairs[0].p_value == 1 and found.pairs[0].interval == (0, 0) and found.differing.empty
    assert pd.read_csv(tmp_path / "out/compare.csv").empty and (tmp_path / "out/compare.html").is_file()


def test_three_runs_are_corrected_for_three_pairs(tested):
    found = compare_runs(read_runs([str(tested(name, seed=seed)) for seed, name in enumerate("abc")]))
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    smallest = min(found.pairs, key=lambda pair: pair.p_value)
    assert smallest.corrected == pytest.approx(min(1, 3 * smallest.p_value))


def test_different_faces_are_named(tested, drawn_table):
    one, two = tested("one"), tested("two", drawn_table[3:])
    with pytest.raises(InputError, match=r"one and two were tested on different faces: 3 only in one \(first test/"):
        compare([str(one), str(two)])
    three = tested("three", drawn_table[:-2])
    with pytest.raises(InputError, match=r"2 only in two .* and 3 only in three"):
        compare([str(two), str(three)])


def test_different_labels_are_named(tested, drawn_table):
    other = drawn_table.copy()
    other.loc[0, "expression"] = "Fear" if other.loc[0, "expression"] != "Fear" else "Anger"
    with pytest.raises(InputError, match=f"with different labels: 1 faces, such as {other.loc[0, 'image']}"):
        compare([str(tested("one")), str(tested("two", other))])


def test_faces_that_do_not_count_in_every_run(tested, metrics_of, drawn_faces):
    one, two = tested("one"), tested("two")

    def lose_a_face(table):
        table["unreadable"] = [None] * (len(table) - 1) + ["torn.png: unreadable image"]
        return table

    rewrite(two, lose_a_face)
    held = metrics_of(pd.read_parquet(two / "predictions.parquet"), drawn_faces)
    (two / "metrics.json").write_text(json.dumps(held))
    found = compare_runs(read_runs([str(one), str(two)]))
    assert len(found.faces) == 26 and found.left_out == 1


def test_answers_that_name_no_expression(tested, metrics_of, drawn_faces):
    one, two = tested("one"), tested("two")
    rewrite(two, lambda table: table.assign(predicted="unclear"))
    (two / "metrics.json").write_text(json.dumps(metrics_of(pd.read_parquet(two / "predictions.parquet"), drawn_faces)))
    found = compare([str(one), str(two)])
    assert len(found.differing) == 27
    assert "no label (two)" in (one.parent / "compare-one-two/compare.html").read_text()


def test_pictures_that_are_gone(tested, tmp_path):
    runs = [tested("one"), tested("two", seed=1)]
    for run in runs:
        held = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps({**held, "test/root": str(tmp_path / "gone")}))
    compare([str(run) for run in runs])
    page = (tmp_path / "compare-one-two/compare.html").read_text()
    assert "not found" in page and "data:image/jpeg" not in page


def test_faces_are_cut_out_as_the_run_saw_them(tested, tmp_path):
    one, two = tested("good", skill=3.0), tested("bad", seed=1, skill=0.5)
    for folder in (one, two):
        rewrite(folder, lambda frame: frame.assign(box=[[30, 30, 20, 20]] * len(frame)))
    pages = []
    for margin in (0.0, 1.0):
        held = json.loads((one / "metrics.json").read_text()) | {"test/margin": margin}
        (one / "metrics.json").write_text(json.dumps(held))
        compare([str(one), str(two)], str(tmp_path / f"margin{margin}"))
        pages.append((tmp_path / f"margin{margin}/compare.html").read_text())
    assert pages[0].count("data:image/jpeg") == pages[1].count("data:image/jpeg") > 0
    assert pages[0].replace("margin0.0", "") != pages[1].replace("margin1.0", "")


def test_many_faces(made_up, metrics_of, tmp_path):
    frame = pd.DataFrame({"image": [f"{place}.png" for place in range(400)], "expression": ["Fear", "Anger"] * 200})
    for seed in (0, 1):
        table = made_up(frame, seed=seed)
        (tmp_path / f"run{seed}").mkdir()
        table.to_parquet(tmp_path / f"run{seed}/predictions.parquet")
        (tmp_path / f"run{seed}/metrics.json").write_text(json.dumps(metrics_of(table, tmp_path)))
    found = compare([str(tmp_path / "run0"), str(tmp_path / "run1")], str(tmp_path / "out"))
    page = (tmp_path / "out/compare.html").read_text()
    cells = [cell for row in agreement_cells(found) for cell in row if cell.count and cell.row != "All correct"]
    assert page.count("<figure>") == sum(min(cell.count, FACES_PER_CELL) for cell in cells)
    assert max(cell.count for cell in cells) > FACES_PER_CELL
    assert f"The first {FACES_PER_CELL} are shown" in page
    assert len(pd.read_csv(tmp_path / "out/compare.csv")) == len(found.differing)


def test_names_that_are_alike(tested):
    found = read_runs([str(tested("a/demo")), str(tested("b/demo", seed=1))])
    assert [run.name.endswith(end) for run, end in zip(found, ("a/demo", "b/demo"), strict=True)] == [True, True]


def test_errors(tested, tmp_path):
    one, two = tested("one"), tested("two", seed=5)
    with pytest.raises(InputError, match="not two or more different runs"):
        compare([str(one)])
    with pytest.raises(InputError, match="Pass two or more different runs"):
        compare([str(one), str(one / ".")])
    with pytest.raises(InputError, match=r"the run does not exist .*gone.*Check the path"):
        compare([str(one), str(tmp_path / "gone")])
    (tmp_path / "untested").mkdir()
    with pytest.raises(InputError, match=r"no test results .*untested/metrics.json.*explllm test"):
        compare([str(one), str(tmp_path / "untested")])
    rewrite(two, lambda table: table.assign(predicted="Fear"))
    with pytest.raises(InputError, match="the predictions do not belong to the test in metrics.json"):
        compare([str(one), str(two)])
    rewrite(two, lambda table: table.drop(columns="expression"))  # what `predict` leaves for faces without labels
    with pytest.raises(InputError, match=r"the predictions have no column expression .*two/predictions.parquet"):
        compare([str(one), str(two)])
    (one / "metrics.json").write_text(json.dumps({"test/accuracy": 0.5}))
    with pytest.raises(InputError, match=r"no test/labels .*Run `explllm test` again"):
        compare([str(one), str(two)])
    for content in (b'{"test/accuracy": 0.', b"\xff", b"[]"):
        (one / "metrics.json").write_bytes(content)
        with pytest.raises(InputError, match=r"metrics cannot be read .*one/metrics.json\]. Run `explllm test` again"):
            compare([str(one), str(two)])


def test_probabilities_in_the_table_are_those_of_the_truth(tested):
    run = tested("one")
    table = pd.read_parquet(run / "predictions.parquet")
    found = compare_runs(read_runs([str(run), str(tested("two", seed=3))]))
    truth = [row[f"p_{row['expression']}"] for row in table.to_dict("records")]
    assert found.faces["p one"].to_numpy() == pytest.approx(np.array(truth))
