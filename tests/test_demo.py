"""`make demo` as a user runs it, and its run folder."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from explllm import ChainOfThought, ExpLLM, Expression
from explllm.training.callbacks.run_folder import SCORED_FACES

pytestmark = pytest.mark.slow


def explllm(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "explllm", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(repository, tmp_path_factory):
    """The folder in which the commands of `make demo` ran, and their output."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (repository / "Makefile").read_text(), flags=re.M).group(1)
    commands = [line.split()[1:] for line in recipe.splitlines()]
    assert [command[0] for command in commands] == ["fit", "fit", "test"]
    return folder, [explllm(folder, *command) for command in commands]


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
    images = sorted((folder / "data/drawn/test").glob("*happiness*"))[:4]
    assert {found.expression for found in model.recognize(images)} == {Expression.HAPPINESS}
    for cot in model.explain(images):
        assert isinstance(cot, ChainOfThought)
        assert cot.check(Expression.HAPPINESS) == []
    assert "".join(model.stream(images[0])).strip() == model.explain(images[0]).text


def test_speculative_decoding_gives_the_same_texts_in_half_the_passes(demo):
    folder, _ = demo
    model = ExpLLM.from_pretrained(folder / "runs/demo/model")
    images = sorted((folder / "data/drawn/test").glob("*.png"))[:100]
    passes = []
    model.language.register_forward_pre_hook(lambda *_: passes.append(1))
    model.speculate = False
    expected, plain = model.recognize_and_explain(images, batch_size=1), len(passes)
    model.speculate = True
    for size in (1, 8):
        passes.clear()
        results = model.recognize_and_explain(images, batch_size=size)
        assert [text for _, text in results] == [text for _, text in expected]
        assert len(passes) <= plain / (2 * size)
