"""A resumed run equals an uninterrupted one: the same batches, the same losses, the same weights."""

import csv
import json
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from explllm.cli import main
from explllm.core.files import update_json
from explllm.data.face_data_module import FaceDataModule
from explllm.training.checkpoints import LastCheckpoint
from explllm.training.task import ExpLLMTask

# Two epochs of 3 steps, each of 2 micro-batches of 16 conversations.
RUN = ("--trainer.max_epochs", "2", "--data.fer_share", "0.5", "--checkpoint_every_n_steps", "1")


class Killed(Exception):
    """Simulates kill -9: no hook of the run handles it."""


@pytest.fixture(scope="module")
def train(small_config):
    """Run `fit`, until a given micro-batch if requested; return rows, pixels and loss of each trained micro-batch."""

    def run(run_dir, *arguments, stop=None):
        seen, step = [], ExpLLMTask.training_step

        def recorded(self, batch, batch_idx):
            if len(seen) == stop:
                raise Killed
            outputs = step(self, batch, batch_idx)
            seen.append((batch["rows"].tolist(), batch["pixel_values"].sum().item(), outputs["loss"].item()))
            return outputs

        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            patch.setattr(ExpLLMTask, "training_step", recorded)
            command = ("fit", "--config", small_config, "--run_dir", run_dir, *RUN, *arguments)
            assert main([str(word) for word in command]) == 0
            assert stop is None
        return seen

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """An uninterrupted run: its folder and its micro-batches."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def weights(run_dir):
    return load_file(Path(run_dir, "model", "model.safetensors"))


def assert_same_model(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)  # measured: 0


def validations(run_dir):
    """The epoch, step and accuracy of each validation in the log of a run."""
    rows = [row for file in sorted(Path(run_dir, "logs").rglob("metrics.csv")) for row in csv.DictReader(file.open())]
    return [(row["epoch"], row["step"], row["val/accuracy"]) for row in rows if row.get("val/accuracy")]


def metrics(run_dir):
    return json.loads(Path(run_dir, "metrics.json").read_text())


def data_of(seen):
    return [(rows, pixels) for rows, pixels, _ in seen]


def test_an_epoch_brings_its_own_order_and_augmentation(whole):
    _, seen = whole
    assert len(seen) == 12
    first, second = data_of(seen[:6]), data_of(seen[6:])
    assert [rows for rows, _ in first] != [rows for rows, _ in second]
    assert not {pixels for _, pixels in first} & {pixels for _, pixels in second}


@pytest.mark.parametrize(
    ("stop", "goes_on_at"),
    [(3, 2), (4, 4), (6, 6), (9, 8)],
    ids=["inside a step", "between steps", "at an epoch's end", "inside the second epoch"],
)
def test_resumes_exactly(train, whole, tmp_path, stop, goes_on_at):
    folder, seen = whole
    assert train(tmp_path, stop=stop) == seen[:stop]
    assert not (tmp_path / "model").exists()
    assert train(tmp_path, "--ckpt_path", "last") == seen[goes_on_at:]
    assert_same_model(tmp_path, folder)
    assert metrics(tmp_path)["fit/loss"] == pytest.approx(metrics(folder)["fit/loss"], abs=1e-6)
    assert metrics(tmp_path)["fit/steps"] == metrics(folder)["fit/steps"] == 6


def test_resumes_exactly_with_workers_and_validation_inside_an_epoch(train, whole, tmp_path):
    folder, seen = whole
    options = ("--data.num_workers", "1", "--trainer.val_check_interval", "2")
    assert train(tmp_path, *options, stop=9) == seen[:9]
    assert train(tmp_path, *options, "--ckpt_path", "last") == seen[8:]
    assert_same_model(tmp_path, folder)


@pytest.mark.parametrize(
    ("epoch", "options"), [(0, ()), (1, ()), (1, ("--trainer.max_steps", "6", "--trainer.max_epochs", "9"))]
)
def test_a_validation_that_was_killed_is_repeated(train, whole, tmp_path, monkeypatch, epoch, options):
    """Otherwise, the model of an earlier epoch would be kept as the best."""
    folder, seen = whole
    step, epochs = ExpLLMTask.validation_step, []

    def killed(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            epochs.append(self.current_epoch)
            if epochs[-1] == epoch:
                raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ExpLLMTask, "validation_step", killed)
        assert train(tmp_path, *options, stop=99) == seen[: 6 * (epoch + 1)]
    assert train(tmp_path, *options, "--ckpt_path", "last") == seen[6 * (epoch + 1) :]
    assert_same_model(tmp_path, folder)
    assert metrics(tmp_path)["fit/model_step"] == metrics(folder)["fit/model_step"]
    assert validations(tmp_path) == validations(folder) and len(validations(folder)) == 2
    # The finished validation is not repeated again.
    assert train(tmp_path, *options, "--ckpt_path", "last") == []
    assert validations(tmp_path) == validations(folder)


def test_a_signal_in_the_last_step_of_an_epoch_leaves_the_validation_to_the_resumed_run(
    train, whole, explllm, small_config, tmp_path, monkeypatch, capsys
):
    folder, seen = whole
    step = ExpLLMTask.training_step

    def signaled(self, batch, batch_idx):
        if batch_idx == 5:
            signal.raise_signal(signal.SIGUSR1)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ExpLLMTask, "training_step", signaled)
        with pytest.raises(SystemExit) as stop:
            explllm("fit", "--config", small_config, "--run_dir", tmp_path / "run", *RUN)
    assert stop.value.code == 143 and "--ckpt_path last resumes from step 3" in capsys.readouterr().err
    assert validations(tmp_path / "run") == []
    assert train(tmp_path / "run", "--ckpt_path", "last") == seen[6:]
    assert validations(tmp_path / "run") == validations(folder)


def test_a_new_run_that_is_interrupted_at_once_leaves_the_earlier_one(
    train, explllm, small_config, tmp_path, monkeypatch
):
    seen = train(tmp_path / "run")
    best = (tmp_path / "run/checkpoints/best.ckpt").read_bytes()

    def interrupted(self, batch, batch_idx):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExpLLMTask, "training_step", interrupted)
        done = explllm("fit", "--config", small_config, "--run_dir", tmp_path / "run", *RUN)
    assert done.status == 130 and "--ckpt_path last resumes the earlier run, whose checkpoints" in done.err
    assert (tmp_path / "run/checkpoints/best.ckpt").read_bytes() == best
    # Its first checkpoint replaces those of the earlier run.
    train(tmp_path / "run", "--trainer.limit_val_batches", "0", stop=3)
    assert not (tmp_path / "run/checkpoints/best.ckpt").exists() and len(seen) == 12


def test_losing_the_place_in_the_data_is_noticed(train, whole, tmp_path, monkeypatch):
    """The tests above can fail: without the position in the data, batches and model differ."""
    folder, seen = whole
    train(tmp_path, stop=3)
    load = FaceDataModule.load_state_dict
    monkeypatch.setattr(FaceDataModule, "load_state_dict", lambda self, state: load(self, {**state, "global_batch": 0}))
    assert train(tmp_path, "--ckpt_path", "last") != seen[2:]
    with pytest.raises(AssertionError):
        assert_same_model(tmp_path, folder)


def test_a_finished_run_is_left_as_it_is(train, tmp_path):
    train(tmp_path)
    # Differs from the time in the checkpoint: the value measured at the end of the run must stay.
    update_json(tmp_path / "metrics.json", {"fit/seconds": 1000.0})
    before = weights(tmp_path), metrics(tmp_path)
    assert train(tmp_path, "--ckpt_path", "last") == []
    assert all(torch.equal(before[0][name], value) for name, value in weights(tmp_path).items())
    assert metrics(tmp_path) == before[1]


def test_fewer_epochs_than_the_run_has(whole, explllm, small_config, tmp_path):
    """Nothing would train: the model would be written anew as that of a shorter run."""
    last = whole[0] / "checkpoints/last.ckpt"
    shorter = ("--trainer.max_epochs", 1, "--ckpt_path", last, "--run_dir", tmp_path / "run")
    error = explllm("fit", "--config", small_config, *RUN, *shorter).error
    assert f"--trainer.max_epochs is 1, but the run to resume has 2 epochs [{last}]. Use at least 2" in error
    assert not (tmp_path / "run/model").exists()


def test_a_stop_by_steps_inside_an_epoch_goes_on_there(train, whole, tmp_path):
    _, seen = whole
    assert len(train(tmp_path, "--trainer.max_steps", "2")) == 4
    report = tmp_path / "report.html"
    report.write_text("of the test of that model")
    assert train(tmp_path, "--ckpt_path", "last", "--trainer.max_steps", "2") == []
    assert report.is_file()
    more = train(tmp_path, "--ckpt_path", "last")
    assert not report.exists()
    # The first part had another learning rate schedule: the losses differ, the data does not.
    assert data_of(more) == data_of(seen[4:])


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(train, tmp_path):
    three = train(tmp_path / "three", "--trainer.max_epochs", "3")
    train(tmp_path / "two", "--data.num_workers", "1")
    more = ("--trainer.max_epochs", "3", "--ckpt_path", "last", "--data.num_workers", "1")
    assert data_of(train(tmp_path / "two", *more)) == data_of(three[12:])


def test_unreadable_images_stay_counted(train, drawn_faces, tmp_path):
    shutil.copytree(drawn_faces, tmp_path / "broken")
    for name in ("00000-fear.png", "00003-anger.png"):
        (tmp_path / "broken/train" / name).write_bytes(b"no image")
    options = ("--data.folder", tmp_path / "broken", "--data.max_unreadable", "2", "--data.seed", "0")
    train(tmp_path / "run", *options, stop=11)
    counted = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["unreadable"]
    assert counted
    # The second part has no steps left and reads no images.
    train(tmp_path / "run", *options, "--ckpt_path", "last", "--trainer.max_steps", "5")
    assert metrics(tmp_path / "run")["fit/unreadable"] == counted


def test_checkpoints_are_written_between_steps_only(train, tmp_path, monkeypatch):
    """Not even after the first micro-batch of a resumed run, whose step number is a multiple of the interval."""
    places = []

    def save(self, trainer):
        self._step = trainer.global_step
        places.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches)
        trainer.save_checkpoint(self.path, weights_only=False)

    monkeypatch.setattr(LastCheckpoint, "_save", save)
    train(tmp_path, "--checkpoint_every_n_steps", "2", stop=5)
    assert places == [0]
    train(tmp_path, "--checkpoint_every_n_steps", "2", "--ckpt_path", "last")
    assert places == [0] * 4  # after steps 2, 3 (the epoch's end), 4, 6


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_a_checkpoint(small_config, launched, tmp_path):
    """As Slurm sends it: to the data worker too, which the run needs to finish its step."""
    stop = json.dumps({"class_path": "ranks.Terminate", "init_args": {"step": 4}})
    fit = ("fit", "--config", small_config, "--run_dir", "run", "--data.num_workers", 1, "--trainer.callbacks+", stop)
    status, err = launched(tmp_path, *fit, *RUN)
    assert status == 143 and err.endswith("--ckpt_path last resumes from step 4.\n"), err[-3000:]
    assert step_of(tmp_path / "run/checkpoints/last.ckpt") == 4


@pytest.mark.slow
def test_kill_9_and_resume(explllm, small_config, launched, tmp_path):
    """A process killed while it writes a checkpoint, in the middle of an epoch: resumed, it equals an unbroken run."""
    fit = ("fit", "--config", small_config, "--trainer.max_epochs", 5, "--checkpoint_every_n_steps", 3, "--run_dir")
    # An epoch has 7 steps. The last complete checkpoint is that of step 24; the one of step 27 is cut in half.
    kill = json.dumps({"class_path": "ranks.KillDuringSave", "init_args": {"step": 27}})
    status, err = launched(tmp_path, *fit, "killed", "--trainer.callbacks+", kill)
    assert status == -signal.SIGKILL, err[-3000:]
    checkpoints = tmp_path / "killed/checkpoints"
    written = {"best.ckpt", "last.ckpt", "training_faces.parquet"}
    assert {path.name for path in checkpoints.iterdir()} == written | {".last.ckpt.partial"}
    assert step_of(checkpoints / "last.ckpt") == 24
    assert not (tmp_path / "killed/model").exists()
    assert explllm(*fit, "killed", "--ckpt_path", "last").status == 0
    # The next write replaced the partial file of the kill: such files do not accumulate.
    assert {path.name for path in checkpoints.iterdir()} == written
    assert explllm(*fit, "whole").status == 0
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("killed", "whole"))
    assert one["fit/loss"] == pytest.approx(other["fit/loss"], abs=1e-4)  # measured: 0
    assert_same_model(tmp_path / "killed", tmp_path / "whole")

    def losses(folder):
        with (folder / "metrics.csv").open() as lines:
            return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]}

    expected = losses(tmp_path / "whole/logs/version_0")
    # Together, both logs contain every step, with the losses of the uninterrupted run.
    before, after = (losses(tmp_path / f"killed/logs/version_{number}") for number in (0, 1))
    assert min(after) == 24 and len(expected) == 35
    assert {**before, **after} == pytest.approx(expected, abs=1e-4)
