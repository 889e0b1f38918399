"""The metrics shown during training equal independent counts."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from explllm.conversation.encoder import ConversationEncoder
from explllm.conversation.messages import recognition
from explllm.core.errors import ConfigError
from explllm.core.expressions import LABEL_SETS
from explllm.data.dataset import EXPRESSION_NUMBER
from explllm.training.callbacks.live_accuracy import LiveAccuracy
from explllm.training.task import ExpLLMTask


def rows_of_log(run_dir):
    with (Path(run_dir) / "logs/version_0/metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def figures(row, stage):
    return {
        key.removeprefix(f"{stage}/"): float(value) for key, value in row.items() if key.startswith(stage) and value
    }


def recall(pairs):
    """Macro recall by counting: the mean over the true classes of the share of correct answers."""
    classes = {truth for truth, _ in pairs}
    shares = []
    for name in classes:
        found = [prediction == name for truth, prediction in pairs if truth == name]
        shares.append(sum(found) / len(found))
    return sum(shares) / len(classes)


def test_training_and_validation_figures(explllm, small_config, monkeypatch):
    """The labels predicted by each batch are read from its logits again, in Python, and counted."""
    steps, step = [], ExpLLMTask.training_step

    def recorded(self, batch, batch_idx):
        outputs = step(self, batch, batch_idx)
        # The first answer token of each conversation must be that of the label.
        first = [row[row != -100][0].item() for row in batch["labels"]]
        tokens = {str(name): self.conversations.tokenizer(f" {name}").input_ids[-1] for name in self.labels}
        truths = [next(name for name, token in tokens.items() if token == found) for found in first]
        assert truths == [str(list(EXPRESSION_NUMBER)[number]) for number in batch["expressions"].tolist()]
        predictions = [max(tokens, key=lambda name: float(row[tokens[name]])) for row in outputs["label_logits"]]
        steps.append(list(zip(truths, predictions, strict=True)))
        return outputs

    monkeypatch.setattr(ExpLLMTask, "training_step", recorded)
    options = ("--model.optimization.learning_rate", 0.01, "--live_accuracy_every_n_steps", 3)
    done = explllm("fit", "--config", small_config, *options, "--trainer.max_epochs", 2)
    assert done.status == 0
    log = rows_of_log("runs/small")
    # Two micro-batches per step; reports after steps 3, 6, 9 and 12 of 14.
    for look, end in enumerate((3, 6, 9, 12)):
        pairs = [pair for micro in steps[6 * look : 6 * look + 6] for pair in micro]
        assert len(pairs) == 96
        [row] = [row for row in log if row["train/loss"] and int(row["step"]) == end - 1]
        logged = figures(row, "train")
        assert logged["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / 96, abs=1e-6)
        assert logged["macro_recall"] == pytest.approx(recall(pairs), abs=1e-6)
        for name in LABEL_SETS["rafdb"]:
            count = sum(prediction == name for _, prediction in pairs)
            assert logged[f"predictions/{name}"] == pytest.approx(count / 96, abs=1e-6)
            assert re.search(rf"step {end}: loss [\d.]+, train accuracy .*{name} \S? *{count}(  |$)", done.out, re.M)
    # One report per interval.
    assert done.out.count(", train accuracy ") == 4

    # The metrics of the last validation, from the predictions of another command.
    assert explllm("predict", "--config", small_config, "--ckpt_path", "last").status == 0
    table = pd.read_parquet("runs/small/predict/predictions.parquet")
    table = table[table["split"] == "val"]
    pairs = list(zip(table["expression"], table["predicted"], strict=True))
    logged = figures([row for row in log if row["val/accuracy"]][-1], "val")
    assert logged["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / 14, abs=1e-6)
    assert logged["macro_recall"] == pytest.approx(recall(pairs), abs=1e-6)
    likelihoods = [row[f"p_{row['expression']}"] for _, row in table.iterrows()]
    assert logged["nll"] == pytest.approx(-torch.tensor(likelihoods).log().mean().item(), abs=1e-4)
    shown = [line for line in done.out.splitlines() if line.startswith("step 14: val accuracy")]
    assert f"accuracy {logged['accuracy']:.3f}, macro recall {logged['macro_recall']:.3f}, predictions " in shown[0]


@pytest.mark.parametrize("order", ["cot_first", "random"])
def test_labels_behind_the_chain_of_thought_are_counted(explllm, small_config, monkeypatch, order):
    """The metrics equal those of the logits before each label, wherever it is, from a second forward pass."""
    steps, kinds, step = [], set(), ExpLLMTask.training_step

    def recorded(self, batch, batch_idx):
        state = torch.get_rng_state()
        outputs = step(self, batch, batch_idx)
        torch.set_rng_state(state)  # the same dropout
        with torch.no_grad():
            logits = self.explllm(batch["pixel_values"], batch["input_ids"], batch["attention_mask"]).logits
        for row, number, predictions in zip(
            batch["labels"].tolist(), batch["expressions"].tolist(), logits, strict=True
        ):
            truth = str(list(EXPRESSION_NUMBER)[number])
            answer = list(self.conversations.encode_answer(recognition(), truth))
            place = next(at for at in range(len(row)) if row[at : at + len(answer)] == answer and row[at - 1] == -100)
            kinds.add(any(token != -100 for token in row[:place]))
            tokens = {str(name): self.conversations.encode_answer(recognition(), name)[0] for name in self.labels}
            steps.append((truth, max(tokens, key=lambda name: float(predictions[place - 1, tokens[name]]))))
        return outputs

    monkeypatch.setattr(ExpLLMTask, "training_step", recorded)
    options = ("--data.cot_order", order, "--live_accuracy_every_n_steps", 4, "--trainer.limit_val_batches", 0)
    done = explllm("fit", "--config", small_config, *options, "--model.optimization.learning_rate", 0.01)
    assert done.status == 0, done.err
    assert kinds == {True, False}
    [row] = [row for row in rows_of_log("runs/small") if row["step"] == "3" and row.get("train/accuracy")]
    assert float(row["train/accuracy"]) == pytest.approx(sum(a == b for a, b in steps[:128]) / 128, abs=1e-6)


def test_the_loss_shown_is_that_of_the_global_batch(explllm, small_config, monkeypatch):
    losses, step = [], ExpLLMTask.training_step

    def recorded(self, batch, batch_idx):
        outputs = step(self, batch, batch_idx)
        losses.append(outputs["loss"].item())
        return outputs

    monkeypatch.setattr(ExpLLMTask, "training_step", recorded)
    assert explllm("fit", "--config", small_config).status == 0
    means = [(one + other) / 2 for one, other in zip(losses[::2], losses[1::2], strict=True)]
    logged = [float(row["train/loss"]) for row in rows_of_log("runs/small") if row["train/loss"]]
    assert logged == pytest.approx(means, abs=1e-5)
    assert json.loads(Path("runs/small/metrics.json").read_text())["fit/loss"] == pytest.approx(means[-1], abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ("--data.val", 0),
        ("--data.conversations", "captions"),
        ("--data.conversations", "captions", "--model.network.labels", "rafdb"),
    ],
    ids=["no validation faces", "captions", "captions, with labels"],
)
def test_without_anything_to_recognize(explllm, small_config, tmp_path, options, recwarn):
    if options[0] == "--data.val":
        options = (
            *options,
            "--data.folder",
            tmp_path / "faces",
            "--data.train",
            14,
            "--data.test",
            0,
            "--data.batch_size",
            16,
        )
    options += ("--trainer.max_steps", 2, "--live_accuracy_every_n_steps", 1)
    done = explllm("fit", "--config", small_config, *options)
    assert done.status == 0
    assert done.err == ""
    assert "val accuracy" not in done.out
    assert ("train accuracy" in done.out) == ("captions" not in options)
    assert not [str(warned.message) for warned in recwarn if "rank" in str(warned.message)]


def test_labels_that_begin_alike_are_not_counted(explllm, small_settings, tmp_path, monkeypatch):
    """If two labels share their first token, no accuracy is shown rather than a wrong one."""
    encode = ConversationEncoder.encode_answer
    monkeypatch.setattr(ConversationEncoder, "encode_answer", lambda *given: [7, *encode(*given)])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_settings))
    options = ("--trainer.max_steps", 2, "--live_accuracy_every_n_steps", 1, "--trainer.limit_val_batches", 0)
    done = explllm("fit", "--config", "small.yaml", *options)
    assert done.status == 0
    assert "train accuracy" not in done.out


def test_errors():
    with pytest.raises(ConfigError, match="`every_n_steps` must be at least 1, got 0"):
        LiveAccuracy(every_n_steps=0)
