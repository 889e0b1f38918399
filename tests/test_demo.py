"""`make demo` as a user runs it, its run folder, and what else trains on its faces."""

import contextlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import pearsonr

from explllm import ChainOfThought, ExpLLM, Expression
from explllm.cli import main
from explllm.core.manifest import Manifest
from explllm.training.callbacks.run_folder import SCORED_FACES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(repository, tmp_path_factory):
    """The folder in which the commands of `make demo` ran, and their output."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (repository / "Makefile").read_text(), flags=re.M).group(1)
    commands = [line.split()[1:] for line in recipe.splitlines()]
    assert [command[0] for command in commands] == ["fit", "fit", "test"]
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                assert main(command) == 0
            printed.append(out.getvalue())
    return folder, printed


@pytest.fixture
def drawn(demo):
    """The option that reads the demo's faces."""
    return "--data.folder", demo[0] / "data/drawn"


def test_demo_recognizes_unseen_identities(demo):
    folder, printed = demo
    metrics = json.loads((folder / "runs/demo/metrics.json").read_text())
    assert metrics["test/accuracy"] >= 0.90
    assert metrics["test/macro_recall"] >= 0.90
    assert sum(metrics["test/predictions"].values()) == metrics["test/count"] == 350
    assert f"test accuracy {metrics['test/accuracy']:.3f}" in printed[2]
    assert "macro recall" in printed[2] and "predictions by class" in printed[2]


def test_demo_says_that_faces_are_drawn_and_texts_written_by_rules(demo):
    folder, printed = demo
    for text in (
        *printed,
        (folder / "runs/demo/report.html").read_text(),
        (folder / "runs/demo/metrics.json").read_text(),
    ):
        said = " ".join(text.split())
        assert "The faces are drawn by a program" in said
        assert "were written by rules" in said


def test_run_folder(demo):
    folder, printed = demo
    run = folder / "runs/demo"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["fer_share"] == 0.75
    assert (run / "checkpoints/last.ckpt").is_file()
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert len(predictions) == 350
    assert predictions.filter(like="p_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    # The three shown faces and the scored sample, which may overlap.
    assert SCORED_FACES <= predictions["cot"].notna().sum() <= SCORED_FACES + 3
    assert printed[2].count("Key Observations") == 3


def test_model_opens_recognizes_and_explains(demo):
    folder, _ = demo
    model = ExpLLM.from_pretrained(folder / "runs/demo/model")
    images = sorted((folder / "data/drawn/test").glob("*happiness*"))
    results = model.recognize_and_explain(images)
    # Shares, because single faces depend on rounding. Measured: 0.98 and 0.96 of 50 faces.
    assert sum(found.expression == Expression.HAPPINESS for found, _ in results) >= 0.9 * len(images)
    assert sum(cot.check(Expression.HAPPINESS) == [] for _, cot in results) >= 0.8 * len(images)
    assert isinstance(model.explain(images[0]), ChainOfThought)
    assert "".join(model.stream(images[0])).strip() == model.explain(images[0]).text


def test_speculative_decoding_gives_the_same_texts_in_half_the_passes(demo):
    folder, _ = demo
    model = ExpLLM.from_pretrained(folder / "runs/demo/model")
    images = sorted((folder / "data/drawn/test").glob("*.png"))[:100]
    passes = []
    model.language.register_forward_pre_hook(lambda *_: passes.append(1))

    def run(images, size, speculate):
        passes.clear()
        model.speculate = speculate
        return [text for _, text in model.recognize_and_explain(images, batch_size=size)], len(passes)

    expected, plain = run(images, 8, False)
    texts, drafted = run(images, 8, True)
    assert texts == expected and drafted <= plain / 2
    assert run(images, 1, True)[0] == expected
    assert run(images[:10], 1, True)[1] <= run(images[:10], 1, False)[1] / 2


def test_shuffled_labels_fall_to_chance(explllm, drawn, tmp_path):
    """Nothing leaks: with shuffled training labels, accuracy is at chance. True labels give 0.4 by step 100."""
    arguments = ("--config", "demo.yaml", "--data.shuffle_labels", "true", "--run_dir", "runs/shuffled", *drawn)
    fit = ("fit", *arguments, "--trainer.max_steps", 100, "--trainer.limit_val_batches", 0)
    for command in (fit, ("test", *arguments, "--explained_faces", 0)):
        done = explllm(*command)
        assert done.status == 0, done.err
        assert "labels were shuffled" in " ".join(done.out.split())
    metrics = json.loads((tmp_path / "runs/shuffled/metrics.json").read_text())
    assert metrics["test/accuracy"] == pytest.approx(1 / 7, abs=0.08)


def test_regressor_demo_learns_is_exported_and_estimates_by_the_command(explllm, drawn, tmp_path):
    """The mean Pearson on unseen people must reach 0.8; it is 0.87 after ten epochs, and this test runs five."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    short = ("--config", "demo_aus.yaml", "--trainer.max_epochs", 5, "--trainer.enable_progress_bar", "false", *drawn)
    done = explllm("fit", *short)
    assert done.status == 0, done.err
    held = json.loads((tmp_path / "runs/demo_aus/metrics.json").read_text())
    assert held["fit/onnx_difference"] <= 1e-4
    assert explllm("test", *short).status == 0
    held = json.loads((tmp_path / "runs/demo_aus/metrics.json").read_text())
    assert held["test/pearson"] >= 0.8 and held["test/left_out"] == []
    # The ONNX file alone, through the command for any regressor, on the test faces.
    faces = Manifest.read(drawn[1] / "manifest.parquet").select(split="test")
    labels = np.array(faces.frame["action_units"].tolist())
    faces.frame = faces.frame[["image"]]
    faces.write("bare.parquet")
    onnx = ("--onnx", "runs/demo_aus/au_regressor.onnx", "--root", drawn[1])
    done = explllm("aus", "bare.parquet", "-o", "found.parquet", *onnx)
    assert done.status == 0, done.err
    table = Manifest.read("found.parquet").frame
    found = np.array(table["action_units"].tolist())
    expected = Manifest.read("runs/demo_aus/predictions.parquet").frame
    assert list(table["image"]) == list(expected["image"])
    # The command rounds to four decimals.
    assert np.abs(found - np.array(expected["action_units"].tolist())).max() < 1.6e-4
    assert np.mean([pearsonr(found[:, place], labels[:, place])[0] for place in range(24)]) >= 0.8
    assert set(table["action_units_source"]) == {"onnx:au_regressor.onnx"}
