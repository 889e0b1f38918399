"""The command line: what it does, and the one line that it gives for each mistake."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from explllm import __version__
from explllm.cli import COMMANDS, main
from explllm.core.manifest import Manifest
from explllm.models import storage


@pytest.fixture
def fit(explllm, small_config):
    def run(*arguments):
        return explllm("fit", "--config", small_config, *arguments)

    return run


@pytest.fixture
def changed(small_settings, tmp_path):
    """Writes `small_settings` with a change to a file, and returns its path."""

    def write(change):
        settings = json.loads(json.dumps(small_settings))
        change(settings)
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


def test_help_and_version(capsys):
    for arguments, words in (
        (["--help"], COMMANDS),
        (["--version"], [f"explllm {__version__}"]),
        (["explain", "--help"], ["IMAGE", "--model", "--json"]),
        (
            ["fit", "--help"],
            ["--config", "--run_dir", "--checkpoint_every_n_steps", "--ckpt_path", "--trainer.devices", "AsyncJudge"],
        ),
        (["test", "--help"], ["report", "--model.network.preset {tiny,vicuna-7b}", "--data.batch_size N"]),
        (["fit", "--data.help", "DrawnFaces"], ["--data.train N", "--data.micro_batch_size N", "(default: 0.1)"]),
        (["fit", "--data.help=ManifestActionUnits"], ["--data.manifest", "--data.batch_size", "(default: 64)"]),
        (["fit", "--data.help"], ["FolderFaces", "CaptionedImages"]),
        (["fit", "--model.help", "ExpLLMTask"], ["--model.init_from", "--model.network.vision_lora.r N"]),
        (["fit", "--trainer.help"], ["--trainer.devices", "--trainer.limit_train_batches"]),
        (["cot", "--help"], ["build", "estimate", "--max_cost 20"]),
        (["data", "disfa", "--help"], ["ROOT", "--frames", "--list", "--max_bad"]),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        printed = capsys.readouterr()
        assert all(word in printed.out for word in words)
        assert printed.err == ""


HELP = """
import contextlib, io, sys
from explllm.cli import COMMANDS, main
from importlib import import_module

words = [["--help"]]
for name, (_, target) in COMMANDS.items():
    words.append([name, "--help"])
    if ":" not in target:
        words += [[name, one, "--help"] for one in import_module("explllm.commands." + target).COMMANDS]
for name in ("fit", "test"):
    words += [[name, "--model.help", "ActionUnitTask"], [name, "--data.help", "DrawnActionUnits"]]
for one in words:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(one)
    assert len(out.getvalue()) > 200, one
    assert [line for line in out.getvalue().splitlines() if len(line) > 80] == []
    print(" ".join(one), [name for name in ("torch", "lightning", "transformers") if name in sys.modules])
"""


@pytest.mark.parametrize("columns", ["40", "200"])
def test_help_is_light_and_fits_80_columns(columns):
    """Of every command: seconds of imports would make help slow."""
    done = subprocess.run(
        [sys.executable, "-c", HELP], env={**os.environ, "COLUMNS": columns}, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) > 35 and all(line.endswith("[]") for line in lines)


def test_without_a_command_the_jobs_and_the_next_step(explllm, fitted, tmp_path, monkeypatch):
    """Each command that it names exists; the step fits the runs in the folder."""
    from explllm.models import known

    def next_command():
        done = explllm()
        assert (done.status, done.err) == (0, "")
        lines = [line.strip() for line in done.out.splitlines() if line.startswith("  explllm ")]
        assert len(lines) > 10 and {line.split()[1] for line in lines} <= {*COMMANDS, "--help"}
        return lines[-1].removeprefix("explllm ")

    with monkeypatch.context() as without:
        without.setattr(known.resources, "files", lambda name: tmp_path)
        assert next_command() == "fit --config demo.yaml"
    shutil.copytree(fitted / "model", tmp_path / "runs/small/model")
    assert next_command() == "test --run_dir runs/small"
    (tmp_path / "runs/small/metrics.json").write_text("damaged")
    assert next_command() == "test --run_dir runs/small"
    # `fit` writes metrics too.
    metrics = json.loads((fitted / "metrics.json").read_text(encoding="utf-8"))
    (tmp_path / "runs/small/metrics.json").write_text(json.dumps(metrics))
    assert next_command() == "test --run_dir runs/small"
    (tmp_path / "runs/small/metrics.json").write_text(json.dumps({**metrics, "test/accuracy": 0.5}))
    assert next_command() == "explain face.jpg --model runs/small/model"


def test_an_output_that_is_not_utf_8(fitted, drawn_faces, tmp_path, monkeypatch):
    """Characters that it lacks are replaced: marks, and those in names of files and texts of models."""
    face = tmp_path / "✓ café.png"
    shutil.copy(next(drawn_faces.glob("test/*.png")), face)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="cp1252"))
    assert main(["recognize", str(face), "--model", str(fitted / "model")]) == 0
    assert "? caf\xe9.png: " in output.getvalue().decode("cp1252")


def test_completion(explllm, tmp_path):
    done = explllm("--print-completion", "bash")
    assert done.status == 0
    (tmp_path / "completion.bash").write_text(done.out)
    script = """
        source completion.bash
        complete_words() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_explllm; echo "${COMPREPLY[@]}"
        }
        complete_words explllm exp
        complete_words explllm models get s
        complete_words explllm explain --wh
        complete_words explllm explain --which ce
        complete_words explllm fit --config demo
    """
    answers = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split() for line in answers.stdout.splitlines()] == [
        ["explain"],
        ["scrfd"],
        ["--which"],
        ["central"],
        ["demo.yaml", "demo_align.yaml", "demo_aus.yaml"],
    ]
    assert "Use one of bash" in explllm("--print_completion", "ksh").error
    assert "needs a shell" in explllm("--print_completion").error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(walk=3), "error: unknown key walk. See `explllm fit --help`."),
        (lambda s: s["data"]["init_args"].update(walk=3), "error: unknown key data.walk."),
        (lambda s: s["model"]["init_args"]["network"].update(walk=3), "error: unknown key model.network.walk."),
        (lambda s: s["data"]["init_args"].update(batch_size="many"), "error: data.batch_size is 'many', not a whole"),
        (
            lambda s: s["data"].update(class_path="Walk"),
            "data: there is no class Walk. Use CaptionedImages, DrawnActionUnits, DrawnFaces,",
        ),
    ],
)
def test_mistakes_in_a_configuration_give_one_line(explllm, changed, change, message):
    assert message in explllm("fit", "--config", changed(change)).error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "model: [unclosed\n  x: {",
            "error: not valid YAML: expected ',' or ']', but got ':' [bad.yaml, line 2]. Correct the file.",
        ),
        ("- 1\n- 2\n", "error: the file contains no settings [bad.yaml]."),
        ("", "error: the file contains no settings [bad.yaml]."),
        (b"\xff\xfe\x00", "error: not valid YAML: "),
    ],
)
def test_a_file_that_is_no_configuration(explllm, tmp_path, content, message):
    (tmp_path / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in explllm("fit", "--config", "bad.yaml").error


def test_a_folder_of_faces_with_mistakes(explllm, drawn_faces, tmp_path):
    command = ("fit", "--config", "faces.yaml", "--data.root", "faces")
    (tmp_path / "faces/train/happy").mkdir(parents=True)
    assert "no images in the class folder happy [faces/train/happy]. Put images into it" in explllm(*command).error
    shutil.copy(drawn_faces / "train/00000-happiness.png", tmp_path / "faces/train/happy")
    (tmp_path / "faces/train/walking").mkdir()
    assert (
        "unknown expression 'walking' [faces/train/walking]. Rename or remove the class folder."
        in explllm(*command).error
    )


def test_manifests_with_mistakes(explllm, small_config, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame

    def error(table, *more, command="fit"):
        Manifest(table, drawn_faces).write(tmp_path / "table.parquet")
        named = ("--data", "ManifestFaces", "--data.manifest", "table.parquet", "--data.root", drawn_faces)
        return explllm(command, "--config", small_config, *named, *more).error

    assert "no values in the column split [table.parquet]" in error(frame.drop(columns="split"))
    assert "no values in the column expression [table.parquet]" in error(frame.assign(expression=None))
    bare = frame.drop(columns=["cot", "cot_source", "action_units", "action_units_source"])
    assert "`data.fer_share` 0.75 needs chains of thought, and no training row has one" in error(bare)
    assert "the `train` split has no rows" in error(frame[frame["split"] == "test"])
    (tmp_path / "bare.csv").write_text("path,expression\na.png,Fear\n")
    named = ("--data", "ManifestFaces", "--data.manifest", "bare.csv")
    assert "no column image among path, expression [bare.csv]" in explllm("fit", "--config", small_config, *named).error
    (tmp_path / "bare.txt").touch()
    for path, message in (
        ("none.parquet", "the manifest does not exist [none.parquet]"),
        ("bare.txt", "extension '.txt'"),
    ):
        named = ("--data", "ManifestFaces", "--data.manifest", path)
        assert message in explllm("fit", "--config", small_config, *named).error
    named = ("--data", "ManifestFaces", "--data.manifest", "table.parquet", "--data.root", "none")
    assert (
        "the folder does not exist [none]. Check --data.root." in explllm("fit", "--config", small_config, *named).error
    )


class Malice:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {Malice.trace}",)


def test_checkpoints_that_are_none(explllm, small_config, fitted, tmp_path):
    whole = (fitted / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    Malice.trace = tmp_path / "has-run"
    torch.save({"state_dict": {}, "labels": [], "more": Malice()}, tmp_path / "malice.ckpt")
    for name, message in (
        ("truncated", "the file is truncated or not a checkpoint"),
        ("malice", "the file contains pickled objects; none of them was executed"),
    ):
        for command in ("test", "fit"):
            done = explllm(command, "--config", small_config, "--ckpt_path", f"{name}.ckpt")
            assert f"{message} [{name}.ckpt]. Use a checkpoint that `explllm fit` wrote" in done.error
    assert not Malice.trace.exists()
    # The same file does run its command where nobody forbids it: the test would notice.
    torch.load(tmp_path / "malice.ckpt", weights_only=False)
    assert Malice.trace.exists()


def test_a_checkpoint_of_another_architecture(explllm, changed, fitted):
    wider = changed(lambda s: s["model"]["init_args"]["network"]["vision"].update(hidden_sizes=[8, 16, 32, 48]))
    last = fitted / "checkpoints/last.ckpt"
    error = explllm("fit", "--config", wider, "--ckpt_path", last).error
    assert "the weights do not fit the model: " in error
    assert f"first vision.blocks.3.stem.0.weight (32, 32, 3, 3), not (48, 32, 3, 3) [{last}]" in error
    frozen = changed(lambda s: s["model"]["init_args"]["network"].update(vision_train="frozen"))
    assert (
        "belongs to a run with other trainable weights" in explllm("fit", "--config", frozen, "--ckpt_path", last).error
    )


def test_resuming_with_other_settings_is_refused(fit, explllm, small_config, drawn_faces, fitted):
    last, more = fitted / "checkpoints/last.ckpt", ("--trainer.max_epochs", 2)
    for changes, message in (
        (["--data.micro_batch_size", 8], "the run started with micro-batch size 16, now it is 8."),
        (["--data.batch_size", 16], "the run started with batch size 32, now it is 16."),
        (["--data.fer_share", 0.5], "the run started with epoch length 224, now it is 112."),
    ):
        assert message in fit("--ckpt_path", last, *more, *changes).error
    steps = torch.load(last, weights_only=True)["global_step"]
    assert (
        f"--trainer.max_steps is 1, but the run to resume has {steps} steps"
        in fit("--ckpt_path", last, "--trainer.max_steps", 1).error
    )
    named = ("--data", "ManifestFaces", "--data.manifest", drawn_faces / "manifest.parquet")
    assert "the checkpoint was not trained on ManifestFaces" in fit("--ckpt_path", last, *more, *named).error


def test_labels_that_the_model_does_not_know(fit, explllm, small_config, fitted, tmp_path, drawn_faces):
    error = fit("--model.network.labels", "[Fear, Anger]").error
    assert "the data contains Disgust, Happiness, Neutral, Sadness, Surprise, which the model has no label for" in error
    assert "(it has Fear, Anger)" in error
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame.assign(expression="Contempt")
    Manifest(frame, drawn_faces).write(tmp_path / "contempt.parquet")
    named = ("--data", "ManifestFaces", "--data.manifest", "contempt.parquet", "--data.root", drawn_faces)
    done = explllm("test", "--config", small_config, *named, "--ckpt_path", fitted / "checkpoints/last.ckpt")
    assert "the data contains Contempt, which the model has no label for" in done.error


@pytest.fixture
def broken_faces(drawn_faces, tmp_path):
    """A copy of the drawn faces in which two training images and one test image cannot be read."""
    folder = tmp_path / "broken"
    shutil.copytree(drawn_faces, folder)
    for name in ("train/00000-fear.png", "test/00001-anger.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    (folder / "train/00001-neutral.png").unlink()
    return folder


def test_unreadable_images_in_training(fit, broken_faces):
    error = fit("--data.folder", broken_faces).error
    assert "1 image cannot be read, last " in error and "--data.max_unreadable (now 0)" in error
    error = fit("--data.folder", broken_faces, "--data.max_unreadable", 1).error
    assert "2 images cannot be read, last " in error
    assert not Path("runs/small/model").exists()
    done = fit("--data.folder", broken_faces, "--data.max_unreadable", 2, "--trainer.max_epochs", 3)
    assert done.status == 0
    warned = [line for line in done.err.splitlines() if line.startswith("warning:")]
    assert len(warned) == 2  # each once, though both were tried in each of three epochs
    metrics = json.loads(Path("runs/small/metrics.json").read_text())
    assert len(metrics["fit/unreadable"]) == 2
    named = "\n".join(warned + metrics["fit/unreadable"])
    assert named.count("00000-fear.png: unreadable image: image file is truncated") == 2
    assert named.count("00001-neutral.png: the image does not exist") == 2


def test_unreadable_images_in_testing_are_counted_and_not_scored(explllm, small_config, broken_faces, fitted):
    command = ("test", "--config", small_config, "--data.folder", broken_faces)
    command += ("--ckpt_path", fitted / "checkpoints/last.ckpt")
    assert "1 image cannot be read, last " in explllm(*command).error
    done = explllm(*command, "--data.max_unreadable", 1)
    assert done.status == 0
    assert "1 more faces could not be read" in " ".join(done.out.split())
    metrics = json.loads(Path("runs/small/metrics.json").read_text())
    [named] = metrics["test/unreadable"]
    assert "00001-anger.png: unreadable image" in named
    assert metrics["test/count"] == 26
    table = pd.read_parquet("runs/small/predictions.parquet")
    assert len(table) == 27
    [row] = table[table["predicted"].isna()].itertuples()
    assert row.image == "test/00001-anger.png" and row.unreadable == named
    assert "1 more faces could not be read" in Path("runs/small/report.html").read_text()


def test_no_image_can_be_read(fit, explllm, small_config, drawn_faces, tmp_path, fitted):
    named = ("--data", "ManifestFaces", "--data.manifest", drawn_faces / "manifest.parquet", "--data.root", tmp_path)
    allow = ("--data.max_unreadable", 1000)
    assert "1 image cannot be read" in fit(*named).error
    assert "no training image can be read" in fit(*named, *allow).error
    last = ("--ckpt_path", fitted / "checkpoints/last.ckpt")
    assert "no face can be read, first " in explllm("test", "--config", small_config, *named, *allow, *last).error


def test_explain(explllm, fitted, drawn_faces, tmp_path):
    face = drawn_faces / "test/00000-fear.png"
    Image.open(face).convert("LA").resize((90, 50)).save(tmp_path / "gray.png")
    done = explllm("explain", face, "gray.png", "--model", fitted / "model", "--max-new-tokens", 4)
    assert done.status == 0
    assert "\nNote: training data of this model: The faces are drawn by a program" in done.err
    assert done.out.count("╭") == 2 and "gray.png" in done.out and "%" in done.out
    done = explllm("explain", face, "gray.png", "--model", fitted / "model", "--max-new-tokens", 4, "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["image"] for line in lines] == [str(face), "gray.png"]
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert line["expression"] == max(line["probabilities"], key=line["probabilities"].get)
    # A bad picture alone: nothing is computed, nothing printed.
    (tmp_path / "text.jpg").write_text("no picture")
    done = explllm("explain", "text.jpg", "--model", fitted / "model")
    assert "unreadable image: not an image, or in an unknown format [text.jpg]" in done.error and done.out == ""


def test_explaining_a_picture_depends_on_the_picture(explllm, fitted, drawn_faces, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "black.png")
    arguments = ("--model", fitted / "model", "--max-new-tokens", 1, "--json")
    done = explllm("explain", drawn_faces / "test/00000-fear.png", "black.png", *arguments)
    one, other = (json.loads(line)["probabilities"] for line in done.out.splitlines())
    assert max(abs(one[name] - other[name]) for name in one) > 1e-4


def test_an_interrupted_run_says_how_to_resume(small_config, tmp_path):
    """By Ctrl-C; tests/training/test_strategies.py terminates runs."""
    command = [sys.executable, "-m", "explllm", "fit", "--config", small_config, "--trainer.max_epochs", "1000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 600
    while not (tmp_path / "runs/small/checkpoints/last.ckpt").is_file():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("interrupted")]
    step = int(line.removeprefix("interrupted. The same command with --ckpt_path last resumes from step ").rstrip("."))
    assert torch.load(tmp_path / "runs/small/checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    # It did not finish, and nothing says that it did.
    assert not (tmp_path / "runs/small/model").exists()
    assert not (tmp_path / "runs/small/metrics.json").exists()


def test_a_reader_that_has_ended():
    """As with ``| head -1``: no traceback, and the status of a program that SIGPIPE ends."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "explllm", "models", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_outputs(tmp_path):
    """As with ``>&-`` in a shell: nothing is printed, and the exit status is the usual one."""
    command = f"exec {sys.executable} -m explllm"
    for words, expected in (("", 0), ("models --json", 0), ("recognize missing.jpg", 2)):
        done = subprocess.run(["sh", "-c", f"{command} {words} >&- 2>&-"], stdin=subprocess.DEVNULL, cwd=tmp_path)
        assert done.returncode == expected


def test_sigterm_deletes_unfinished_outputs(explllm, fitted, tmp_path, monkeypatch):
    """A job scheduler's signal ends every command as Ctrl-C does; by default, it would end the process at once."""
    remove = shutil.rmtree

    def send(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    def send_again(*arguments, **options):
        send()
        remove(*arguments, **options)

    monkeypatch.setattr(storage, "save_weights", send)  # after the folder is created
    monkeypatch.setattr(shutil, "rmtree", send_again)
    previous = signal.signal(signal.SIGTERM, handler := lambda *_: None)  # by default, pytest would end
    try:
        done = explllm("convert", "merge", fitted / "model", "merged")
        assert (done.status, done.err) == (143, "terminated.\n")
        assert signal.getsignal(signal.SIGTERM) is handler and not list(tmp_path.iterdir())
    finally:
        signal.signal(signal.SIGTERM, previous)


INTERRUPTED = """
import os, signal, sys
from explllm.cli import main

class Interrupt:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.exit(main(sys.argv[1:]))
"""


def test_an_interruption_while_libraries_load(small_config, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, "fit", "--config", str(small_config)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=600)
    # Where the interruption falls into an exec() of some import, Python ends by the signal itself after all is handled;
    # a shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT)
    assert err == "interrupted.\n"
