"""The run folder that `fit` writes, and `test`, `validate` and `predict` on it."""

import base64
import io
import json
import re
import shutil

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from explllm import ExpLLM
from explllm.conversation.messages import explanation
from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.explllm import ExpLLM as Model
from explllm.training.callbacks.run_folder import RunFolder
from explllm.training.prediction_parts import PredictionParts
from explllm.training.task import ExpLLMTask

NOTICE = "The faces are drawn by a program, not photographs."


@pytest.fixture
def run_dir(fitted, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(fitted, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def command(explllm, small_config, run_dir):
    return lambda name, *options: explllm(name, "--config", small_config, "--run_dir", "run", *options)


def metrics(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def test_fit_leaves(fitted, small_settings):
    names = {path.relative_to(fitted).as_posix() for path in fitted.rglob("*") if path.is_file()}
    assert {"config.yaml", "checkpoints/last.ckpt", "metrics.json", "logs/version_0/metrics.csv"} <= names
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/drafts.safetensors"} <= names
    model = ExpLLM.from_pretrained(fitted / "model")
    prompt = model.conversations.after_image(model.conversations.encode_prompt(explanation("Fear")))
    assert model.conversations.decode(model.drafts.propose(prompt, 12)).startswith("**Key Obs")
    assert not {name for name in names if "partial" in name or "lightning_logs" in name}
    held = metrics(fitted)
    assert held["fit/steps"] == 7 and held["fit/unreadable"] == [] and held["training_data_note"].startswith(NOTICE)
    assert held["fit/trainable_weights"] == sum(
        weight.numel() for weight in ExpLLM.from_pretrained(fitted / "model").parameters()
    )
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    assert config["run_dir"] == str(fitted)
    assert config["data"]["init_args"]["fer_share"] == 0.75  # a default: the configuration is the resolved one
    assert config["ckpt_path"] is None


def test_the_model_is_the_checkpoints(fitted):
    held = torch.load(fitted / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in ExpLLM.from_pretrained(fitted / "model").state_dict().items():
        if f"model.{name}" in held:
            assert torch.equal(held[f"model.{name}"], value), name


def test_test_against_independent_figures(command, run_dir, drawn_faces):
    """Predictions equal those of the model folder on single images; metrics equal scikit-learn's."""
    done = command("test")
    assert done.status == 0 and done.err == ""
    table = pd.read_parquet(run_dir / "predictions.parquet")
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    expected = frame[frame["split"] == "test"]
    assert list(table["image"]) == list(expected["image"])
    assert list(table["expression"]) == list(expected["expression"])
    model = ExpLLM.from_pretrained(run_dir / "model")
    for row in table.iloc[::9].to_dict("records"):
        [found] = model.recognize(drawn_faces / row["image"])
        assert row["predicted"] == found.expression
        for label, probability in found.probabilities.items():
            assert row[f"p_{label}"] == pytest.approx(probability, abs=1e-5)
    held = metrics(run_dir)
    assert held["test/count"] == 27
    assert held["test/accuracy"] == pytest.approx((table["expression"] == table["predicted"]).mean(), abs=1e-6)
    assert held["test/macro_recall"] == pytest.approx(
        balanced_accuracy_score(table["expression"], table["predicted"]), abs=1e-6
    )
    labels = sorted(str(label) for label in model.labels)
    shares = table[[f"p_{label}" for label in labels]].to_numpy().astype(float)
    shares /= shares.sum(axis=1, keepdims=True)
    assert held["test/nll"] == pytest.approx(log_loss(table["expression"], shares, labels=labels), abs=1e-5)
    assert held["test/targets"] == {str(label): (table["expression"] == label).sum() for label in model.labels}
    assert held["test/predictions"] == {str(label): (table["predicted"] == label).sum() for label in model.labels}
    assert held["test/ece"] == pytest.approx(
        float(
            multiclass_calibration_error(
                torch.tensor(table[[f"p_{label}" for label in model.labels]].to_numpy(float)),
                torch.tensor([model.labels.index(Expression(label)) for label in table["expression"]]),
                num_classes=7,
                n_bins=15,
            )
        ),
        abs=1e-5,
    )
    by_class = f1_score(table["expression"], table["predicted"], labels=labels, average=None, zero_division=0)
    assert [held[f"test/f1/{label}"] for label in labels] == pytest.approx(by_class)
    low, high = held["test/accuracy_interval"]
    assert 0 <= low <= held["test/accuracy"] <= high <= 1
    assert held["fit/steps"] == 7  # the metrics of fit are kept
    # Three faces of different expressions are shown, and a sample of faces is explained and scored.
    shown = re.findall(r"(test/\S+\.png): \w+  \(labeled (\w+)\)", done.out)
    explained = table[table["cot_source"].notna()]
    assert len(shown) == len({label for _, label in shown}) == 3
    assert 16 <= len(explained) <= 19 and {image for image, _ in shown} <= set(explained["image"])
    assert set(explained["cot_source"]) == {"explllm run"}
    # After one epoch, texts conclude something else than was recognized, or nothing: each is flagged.
    rows = table.set_index("image").loc[[image for image, _ in shown]]
    concluded = [ChainOfThought.parse(text or "").expression for text in rows["cot"]]
    flagged = sum(one != recognized for one, recognized in zip(concluded, rows["predicted"], strict=True))
    for text in (done.out, (run_dir / "report.html").read_text()):
        assert NOTICE in " ".join(text.split())
        assert f"{held['test/accuracy']:.3f}" in text
        assert text.count("Warning: The model recognized ") == flagged
    assert {path.name for path in (run_dir / "plots").iterdir()} >= {"confusion_matrix.png", "reliability.png"}


def test_action_units_of_the_data_stand_beside_the_words(command, run_dir, drawn_faces):
    done = command("test", "--explained_faces", 1)
    [image] = re.findall(r"(test/\S+\.png): ", done.out)
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame.set_index("image")
    seen = {name: value for name, value in zip(NAMES, frame.loc[image, "action_units"], strict=True) if value >= 0.05}
    page = (run_dir / "report.html").read_text()
    assert "source: drawn" in page
    shown = [name for name in re.findall(r"<span>(.*?) <abbr", page) if name in NAMES]
    assert sorted(shown) == sorted(sorted(seen, key=seen.get)[-10:])


@pytest.fixture
def constant(monkeypatch):
    """A model that answers Happiness for every face, with varying confidence."""

    def answer(model, pixels, *_, **__):
        place = model.config.labels.index("Happiness")
        logits = torch.zeros(len(pixels), len(model.config.labels))
        logits[:, place] = 5 + pixels.mean((1, 2, 3))
        return logits

    monkeypatch.setattr("explllm.models.generation.label_log_likelihoods", answer)


def test_a_model_of_one_class_is_called_one(command, run_dir, constant):
    done = command("test", "--explained_faces", 2)
    assert metrics(run_dir)["test/macro_recall"] == pytest.approx(1 / 7)
    page = " ".join((run_dir / "report.html").read_text().split())
    for text, figures in ((" ".join(done.out.replace("│", " ").split()), "test accuracy"), (page, 'class="card"')):
        assert "predicts Happiness for every face" in text and "at chance (0.143 with 7 classes)" in text
        assert text.lower().index("one class only") < text.index(figures)  # before any metric
    said = " ".join(command("validate").out.split())
    assert "ONE CLASS ONLY" in said


def test_faces_that_the_model_has_no_word_for(command, run_dir, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    contempt = frame.index[frame["split"] == "test"][:4]
    frame.loc[contempt, "expression"] = "Contempt"
    frame["action_units_missing"] = "Nose Wrinkle"
    Manifest(frame, drawn_faces).write(tmp_path / "contempt.parquet")
    named = ("--data", "ManifestFaces", "--data.manifest", "contempt.parquet", "--data.root", drawn_faces)
    assert "the data contains Contempt" in command("test", *named).error
    done = command("test", *named, "--unknown_labels", "leave_out", "--explained_faces", 1, "--scored_faces", 99)
    assert done.status == 0 and "their expression: 4 Contempt" in " ".join(done.out.split())
    held = metrics(run_dir)
    assert held["test/count"] == 23 and held["test/left_out"] == {"Contempt": 4}
    assert "4 Contempt." in (run_dir / "report.html").read_text()
    table = pd.read_parquet(run_dir / "predictions.parquet")
    assert len(table) == 27 and table["predicted"].notna().all()
    assert set(table["action_units_missing"]) == {"Nose Wrinkle"} and table["cot"].notna().sum() == 23


def test_answers_are_sought_among_the_expressions_of_the_data(command, run_dir, small_config, explllm):
    """A model of eight expressions on faces of seven: `answer_labels` renormalizes without Contempt."""
    eight = ("--model.network.labels", "affectnet8", "--run_dir", "eight")
    assert explllm("fit", "--config", small_config, *eight, "--trainer.max_steps", 1).status == 0
    counts = {}
    for options in ((), ("--answer_labels", "affectnet7")):
        test = explllm("test", "--config", small_config, *eight, "--explained_faces", 2, *options)
        assert test.status == 0, test.err
        held = metrics(run_dir.parent / "eight")
        table = pd.read_parquet(run_dir.parent / "eight/predictions.parquet")
        shares = table[[f"p_{label}" for label in held["test/labels"]]].astype(float)
        assert list(table["predicted"]) == [name.removeprefix("p_") for name in shares.idxmax(axis=1)]
        assert held["test/accuracy"] == pytest.approx((table["predicted"] == table["expression"]).mean())
        counts[options] = (len(held["test/labels"]), held["test/dropped_labels"])
        assert "p_Contempt" in table  # the model's own probabilities are kept
    assert list(counts.values()) == [(8, []), (7, ["Contempt"])]


def test_figures_of_an_earlier_test_go(command, run_dir):
    held = metrics(run_dir)
    (run_dir / "metrics.json").write_text(json.dumps({**held, "test/recall/Contempt": 0.5, "test/old": 1}))
    assert command("test", "--explained_faces", 0).status == 0
    assert not {"test/recall/Contempt", "test/old"} & set(metrics(run_dir))
    assert metrics(run_dir)["fit/steps"] == held["fit/steps"]


def test_tests_of_one_run_agree(command, run_dir):
    assert command("test", "--explained_faces", 0, "--data.eval_batch_size", 5).status == 0
    one = pd.read_parquet(run_dir / "predictions.parquet")
    assert "cot" not in one
    assert command("test", "--explained_faces", 0, "--data.num_workers", 1).status == 0
    other = pd.read_parquet(run_dir / "predictions.parquet")
    shares = one.filter(like="p_").columns
    assert one[shares].to_numpy() == pytest.approx(other[shares].to_numpy(), abs=1e-5)


def test_explanations_take_the_precision_of_the_run(command, run_dir, monkeypatch):
    """Hooks of callbacks run outside Lightning's autocast."""
    found = []

    def noted(original):
        def answer(*given):
            found.append(torch.is_autocast_enabled("cpu"))
            return original(*given)

        return answer

    monkeypatch.setattr("explllm.commands.lightning_cli.is_slow_in_bfloat16", lambda _: False)  # it would be replaced
    for name in ("explain_pixels", "recognize_and_explain_pixels"):
        monkeypatch.setattr(Model, name, noted(getattr(Model, name)))
    for names in (("fit", "--trainer.callbacks+", "Gallery"), ("test",)):
        done = command(*names, "--trainer.precision", "bf16-mixed")
        assert done.status == 0, done.err
        assert found and all(found)
        found.clear()


def test_predict_after_encoder_epochs(command, run_dir, drawn_faces, tmp_path):
    """The number of labels, and so of the training head's weights, comes from the checkpoint."""
    done = command("fit", "--model.encoder_share", 0.5, "--trainer.max_epochs", 2, "--run_dir", "shared")
    assert done.status == 0, done.err
    Manifest(Manifest.read(drawn_faces / "manifest.parquet").frame[["image"]], drawn_faces).write("bare.csv")
    named = ("--data", "ManifestFaces", "--data.manifest", "bare.csv", "--data.root", drawn_faces)
    done = command("predict", *named, "--model.encoder_share", 0.5, "--run_dir", "shared")
    assert done.status == 0, done.err
    assert "97 faces" in done.out


def test_validate(command, run_dir):
    done = command("validate")
    assert done.status == 0 and done.err == ""
    held = metrics(run_dir)
    assert held["val/count"] == 14 and sum(held["val/predictions"].values()) == 14
    assert f"val accuracy {held['val/accuracy']:.3f}" in done.out
    assert "Validate metric" not in done.out  # Lightning's own table would repeat the metrics
    assert (
        "the `val` split has no rows"
        in command("validate", "--data.val", 0, "--data.folder", "faces", "--data.train", 7).error
    )


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_predict_on_an_unlabeled_manifest(command, run_dir, drawn_faces, tmp_path, ending):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    images = frame.loc[frame["split"] == "test", ["image"]].reset_index(drop=True)
    Manifest(images, drawn_faces).write(tmp_path / f"images.{ending}")
    named = ("--data", "ManifestFaces", "--data.manifest", f"images.{ending}", "--data.root", drawn_faces)
    done = command("predict", *named, "--predictions", f"found.{ending}")
    assert done.status == 0 and done.err == "" and "27 faces" in done.out
    found = Manifest.read(tmp_path / f"found.{ending}", root=drawn_faces).frame
    assert list(found["image"]) == list(images["image"])
    assert "expression" not in found and "split" not in found and "cot" not in found
    assert found.filter(like="p_").astype(float).sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert command("test").status == 0
    tested = pd.read_parquet(run_dir / "predictions.parquet")
    assert list(found["predicted"]) == list(tested["predicted"])


def test_predict_explains_where_asked(command, run_dir, drawn_faces, tmp_path):
    (tmp_path / "faces").mkdir()
    for name in ("00000-fear.png", "00001-anger.png"):
        shutil.copy(drawn_faces / "test" / name, tmp_path / "faces")
    (tmp_path / "faces/torn.jpg").write_bytes(b"no picture")
    named = ("--data", "FolderFaces", "--data.root", "faces")
    assert "1 image cannot be read, last faces/torn.jpg: unreadable image" in command("predict", *named).error
    done = command("predict", *named, "--data.max_unreadable", 1, "--model.explain_predictions", "true")
    assert "3 faces; 1 could not be read, see the column unreadable" in done.out
    table = Manifest.read(run_dir / "predict/predictions.parquet").frame.set_index("image")
    assert list(table.index) == ["00000-fear.png", "00001-anger.png", "torn.jpg"]
    assert table.loc["torn.jpg", "unreadable"].startswith("faces/torn.jpg: unreadable image")
    assert table.loc["torn.jpg", ["predicted", "cot", "p_Fear"]].isna().all()
    assert set(table["cot_source"].dropna()) == {"explllm run"}
    model = ExpLLM.from_pretrained(run_dir / "model")
    for name in ("00000-fear.png", "00001-anger.png"):
        # After one epoch a text may be empty, which tables store as missing.
        assert (table.loc[name, "cot"] or "") == model.explain(tmp_path / "faces" / name, max_new_tokens=8).text


def test_a_killed_prediction_resumes(command, run_dir, monkeypatch):
    """Faces predicted before the kill are not predicted again, unless the checkpoint has changed."""
    step, seen = ExpLLMTask.predict_step, []

    class Killed(Exception):
        """Simulates kill -9: no hook of the run handles it."""

    def counted(self, batch, batch_idx):
        if len(seen) == stop:
            raise Killed
        seen.extend(batch["rows"].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ExpLLMTask, "predict_step", counted)
    options, stop = ("predict", "--data.eval_batch_size", 1), None
    assert command(*options).status == 0
    whole = pd.read_parquet(run_dir / "predict/predictions.parquet")
    assert sorted(seen) == list(range(97))
    for touched in (False, True):
        seen.clear()
        stop = 20
        with pytest.raises(Killed):
            command(*options)
        if touched:
            (run_dir / "checkpoints/best.ckpt").touch()
        seen.clear()
        stop = None
        done = command(*options)
        assert done.status == 0 and ("resuming after 16 of 97 faces" in done.out) == (not touched)
        assert sorted(seen) == list(range(0 if touched else 16, 97))
        again = pd.read_parquet(run_dir / "predict/predictions.parquet")
        pd.testing.assert_frame_equal(again, whole)
        assert not (run_dir / "predict/predictions.parquet.parts").exists()


def test_a_killed_prediction_resumes_only_on_the_same_faces_and_tries_unreadable_ones_again(
    command, run_dir, drawn_faces, tmp_path, monkeypatch
):
    faces = shutil.copytree(drawn_faces, tmp_path / "faces")
    table = pd.read_parquet(faces / "manifest.parquet")
    hidden = (faces / table["image"].iloc[0]).rename(tmp_path / "hidden.png")
    options = ("predict", "--data.folder", faces, "--data.eval_batch_size", 1, "--data.max_unreadable", 1)
    merge = PredictionParts.merge
    monkeypatch.setattr(PredictionParts, "merge", lambda _: 1 / 0)  # killed before the table is written
    with pytest.raises(ZeroDivisionError):
        command(*options)
    monkeypatch.setattr(PredictionParts, "merge", merge)
    parts = shutil.copytree(run_dir / "predict/predictions.parquet.parts", tmp_path / "parts")
    (run_dir / "predict/predictions.parquet.parts/.7.partial.00000-000009.parquet").write_bytes(b"killed")
    hidden.rename(faces / table["image"].iloc[0])
    done = command(*options)
    assert done.status == 0 and "resuming after 96 of 97 faces" in done.out
    found = pd.read_parquet(run_dir / "predict/predictions.parquet")
    assert len(found) == 97 and found["predicted"].notna().all() and found["unreadable"].isna().all()
    # The same names in another folder are other faces.
    moved = faces.rename(tmp_path / "elsewhere")
    shutil.copytree(parts, run_dir / "predict/predictions.parquet.parts")
    done = command(*options, "--data.folder", moved)
    assert done.status == 0 and "resuming" not in done.out


def test_training_faces_among_the_test_faces_are_reported(command, run_dir, drawn_faces, tmp_path):
    assert command("test").status == 0
    assert "test/training_faces" not in metrics(run_dir)
    frame = pd.read_parquet(drawn_faces / "manifest.parquet")
    frame.loc[frame.index[frame["split"] == "train"][:5], "split"] = "test"
    Manifest(frame, drawn_faces).write(tmp_path / "other.parquet")
    data = ("--data", "ManifestFaces", "--data.manifest", tmp_path / "other.parquet", "--data.root", drawn_faces)
    done = command("test", *data)
    assert done.status == 0, done.err
    assert metrics(run_dir)["test/training_faces"] == 5
    warning = "The model was trained or validated on 5 of these 32 faces"
    assert warning in " ".join(done.out.split()) and warning in (run_dir / "report.html").read_text()


def test_predict_on_sorted_folders_keeps_the_labels(command, run_dir, drawn_faces, tmp_path):
    for name in ("fear", "anger"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        shutil.copy(drawn_faces / f"test/00000-{name}.png", tmp_path / "faces" / name)
    assert command("predict", "--data", "FolderFaces", "--data.root", "faces").status == 0
    assert list(pd.read_parquet(run_dir / "predict/predictions.parquet")["expression"]) == ["Anger", "Fear"]


def test_the_runs_own_weights_are_tested_whatever_it_started_from(command, run_dir, tmp_path, monkeypatch):
    """`init_from` names the start of training; it must not replace the trained weights."""
    done = command("test", "--model.init_from", "gone/model", "--explained_faces", 0)
    assert done.status == 0 and "weights: run/checkpoints/best.ckpt" in done.out
    tested = pd.read_parquet(run_dir / "predictions.parquet")
    options = ("--model.init_from", run_dir / "model", "--run_dir", "elsewhere", "--explained_faces", 0)
    done = command("test", *options)
    assert done.status == 0 and f"weights: {run_dir / 'model'}" in done.out
    again = pd.read_parquet(tmp_path / "elsewhere/predictions.parquet")
    shares = tested.filter(like="p_").columns
    assert again[shares].to_numpy() == pytest.approx(tested[shares].to_numpy(), abs=1e-6)
    # Without a checkpoint, the probabilities are calibrated as in the folder.
    shutil.copytree(run_dir / "model", tmp_path / "calibrated")
    settings = json.loads((tmp_path / "calibrated/config.json").read_text())
    (tmp_path / "calibrated/config.json").write_text(json.dumps({**settings, "temperature": 5.0}))
    options = ("--model.init_from", "calibrated", "--run_dir", "elsewhere", "--explained_faces", 0)
    assert command("test", *options).status == 0
    flatter = tested[shares].to_numpy() ** (1 / 5)
    again = pd.read_parquet(tmp_path / "elsewhere/predictions.parquet")
    assert again[shares].to_numpy() == pytest.approx(flatter / flatter.sum(1, keepdims=True), abs=1e-5)


def test_a_second_stage_starts_from_the_first(command, explllm, small_config, run_dir):
    still = ("--trainer.max_steps", 1, "--model.optimization.learning_rate", 1e-30, "--run_dir", "second")
    done = command("fit", "--model.init_from", run_dir / "model", *still)
    assert done.status == 0 and f"weights: {run_dir / 'model'}" in done.out
    first, second = (ExpLLM.from_pretrained(path) for path in (run_dir / "model", "second/model"))
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_what_the_first_stage_training_data_note_stays_said(command, run_dir, drawn_faces, tmp_path):
    """The second stage trains on photographs; the note about the first stage's drawn faces is kept."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame.drop(columns="action_units_source")
    Manifest(frame, drawn_faces).write(tmp_path / "photographs.parquet")
    named = ("--data", "ManifestFaces", "--data.manifest", "photographs.parquet", "--data.root", drawn_faces)
    for second, options in (("second", ("--model.init_from", run_dir / "model")), ("alone", ())):
        done = command("fit", *named, *options, "--trainer.max_steps", 1, "--run_dir", second)
        assert done.status == 0, done.err
        said = ExpLLM.from_pretrained(tmp_path / second / "model").config.training_data_note
        assert said.count(NOTICE) == (second == "second") and said.count("written by rules") == 1
        assert (
            NOTICE not in metrics(tmp_path / second)["training_data_note"]
        )  # this note covers only the data of this stage


def test_the_margin_around_boxes_is_the_models_and_the_reports(command, run_dir, drawn_faces, tmp_path):
    """Each face is the middle of its image: training, report, gallery and model folder use the same margin."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    frame["box"] = [[16.0, 16.0, 32.0, 32.0]] * len(frame)
    Manifest(frame, drawn_faces).write(tmp_path / "boxes.parquet")
    named = ("--data", "ManifestFaces", "--data.manifest", "boxes.parquet", "--data.root", drawn_faces)
    options = (*named, "--data.margin", 0.25, "--run_dir", "wide", "--explained_faces", 1)
    done = command("fit", *options, "--trainer.callbacks+", "Gallery")
    assert done.status == 0, done.err
    assert ExpLLM.from_pretrained(tmp_path / "wide/model").config.margin == 0.25
    assert command("test", *options).status == 0
    assert metrics(tmp_path / "wide")["test/margin"] == 0.25
    [gallery] = (tmp_path / "wide/gallery").glob("*.html")
    for page in (tmp_path / "wide/report.html", gallery):
        faces = re.findall(r"data:image/jpeg;base64,([^\"]+)", page.read_text())
        assert faces and {Image.open(io.BytesIO(base64.b64decode(face))).size for face in faces} == {(48, 48)}


def test_a_new_fit_takes_back_what_was_said_of_the_model_before(command, run_dir, explllm, fitted):
    assert command("test", "--explained_faces", 0).status == command("predict").status == 0
    assert "test/accuracy" in metrics(run_dir) and (run_dir / "report.html").is_file()
    (run_dir / "predict/notes.txt").write_text("the user's own")
    done = command("fit")
    assert done.status == 0
    assert (
        "run/checkpoints/last.ckpt belongs to an earlier run and will be replaced; --ckpt_path last resumes" in done.out
    )
    assert not [key for key in metrics(run_dir) if key.startswith("test/")]
    assert not (run_dir / "report.html").exists() and not (run_dir / "predictions.parquet").exists()
    assert not (run_dir / "plots").exists()
    assert [path.name for path in (run_dir / "predict").iterdir()] == ["notes.txt"]
    for words in (("score", "run"), ("score", "run/predict"), ("compare", "run", fitted)):
        assert "predictions" in explllm(*words).error


def test_a_trial_run_leaves_nothing(explllm, small_config, tmp_path):
    assert explllm("fit", "--config", small_config, "--trainer.fast_dev_run", "true").status == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_run_that_fails_leaves_no_model(explllm, small_config, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Model, "forward", fail)
    with pytest.raises(RuntimeError, match="a defect"):  # a defect keeps its traceback
        explllm("fit", "--config", small_config)
    assert not (tmp_path / "runs/small/model").exists()
    assert not (tmp_path / "runs/small/metrics.json").exists()


def test_errors():
    with pytest.raises(ConfigError, match="`explained_faces` must be at least 0, got -1"):
        RunFolder("run", explained_faces=-1)
    with pytest.raises(ConfigError, match="unknown `unknown_labels` 'skip'. Use one of refuse, leave_out"):
        RunFolder("run", unknown_labels="skip")
    with pytest.raises(ConfigError, match="unknown label set 'nine'"):
        RunFolder("run", answer_labels="nine")
