"""The LightningModule: labels, seeds, targets, and refused settings."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file

from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.expressions import Expression
from explllm.data.datamodules import DrawnFaces
from explllm.models.build import NetworkSettings
from explllm.models.loss import conversation_loss, token_weights
from explllm.models.settings import decisive_settings
from explllm.models.storage import WEIGHTS
from explllm.training.batches import measured_units, mixed_up, parts_of_similar_length
from explllm.training.callbacks.temperature_scaling import TemperatureScaling
from explllm.training.checkpoints import BestCheckpoint, model_from_checkpoint, read_checkpoint
from explllm.training.optimization import OptimizationSettings
from explllm.training.task import ExpLLMTask

SIZES = {"train": 56, "val": 14, "test": 27, "size": 64}


@pytest.fixture
def settings(small_settings):
    network = small_settings["model"]["init_args"]["network"]
    return lambda **more: NetworkSettings(**{**network, **more})


@pytest.fixture
def data(drawn_faces):
    return lambda **more: DrawnFaces(drawn_faces, **SIZES, **{"batch_size": 8, "micro_batch_size": 4, **more})


@pytest.fixture
def trainer(tmp_path):
    return lambda **more: Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        **{
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **more,
        },
    )


def test_as_a_library(settings, data, trainer, drawn_faces):
    """Without the command line: labels are those of the training data, in the paper's order."""
    task = ExpLLMTask(settings(), OptimizationSettings(learning_rate=1e-3))
    trainer(max_steps=2, num_sanity_val_steps=0, limit_val_batches=0).fit(task, data())
    assert task.labels == tuple(Expression)[:7]
    [found] = task.explllm.recognize(drawn_faces / "test/00000-fear.png")
    assert tuple(found.probabilities) == task.labels


def test_labels_of_the_settings_keep_their_order(settings, data, trainer):
    task = ExpLLMTask(settings(labels="rafdb"))
    trainer(max_steps=1, limit_val_batches=0).fit(task, data())
    assert task.explllm.config.labels[:3] == ["Surprise", "Fear", "Disgust"]
    targets = task.targets({"expressions": torch.tensor([list(Expression).index(Expression.FEAR), -1])})
    assert targets.tolist() == [1, -1]


def test_labels_of_the_data_that_the_model_lacks(settings, data, trainer):
    task = ExpLLMTask(settings(labels=["Fear", "Anger"]))
    with pytest.raises(ConfigError, match=r"the data contains Disgust.* \(it has Fear, Anger\)"):
        trainer(max_steps=1, limit_val_batches=0).fit(task, data())


def test_dropout_is_seeded_by_the_batch(settings, data, trainer, monkeypatch):
    """Random numbers drawn in between, for example by a callback, do not change the run."""

    class Noise(Callback):
        def on_train_batch_end(self, *_):
            torch.rand(17)

    losses = []
    for callbacks in ([], [Noise()]):
        torch.manual_seed(3)
        task = ExpLLMTask(settings(language={**settings().language, "attention_dropout": 0.5}))
        trainer(max_steps=3, limit_val_batches=0, callbacks=callbacks).fit(task, data())
        losses.append(float(task.last_loss))
    assert losses[0] == losses[1]

    # Dropout is active: without it the loss differs.
    torch.manual_seed(3)
    task = ExpLLMTask(settings(language={**settings().language, "attention_dropout": 0.0}))
    trainer(max_steps=3, limit_val_batches=0).fit(task, data())
    assert abs(float(task.last_loss) - losses[0]) > 1e-6


def test_frozen_parts_stay_in_evaluation_mode_and_do_not_move(settings, data, trainer):
    torch.manual_seed(3)
    task = ExpLLMTask(settings(vision_train="frozen", language_train="frozen"), OptimizationSettings(learning_rate=0.1))
    task.configure_model()
    before = {name: value.clone() for name, value in task.explllm.state_dict().items()}
    modes = []

    class Modes(Callback):
        def on_train_batch_start(self, *_):
            modes.append(
                (task.explllm.vision.training, task.explllm.projector.training, task.explllm.language.training)
            )

    trainer(max_steps=2, limit_val_batches=0, callbacks=[Modes()]).fit(task, data(conversations="captions"))
    assert set(modes) == {(False, True, False)}
    moved = {name for name, value in task.explllm.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("projector.") for name in moved)


def test_ways_to_compute_do_not_change_the_result(settings, data, trainer):
    losses = []
    ways = [{}, {"gradient_checkpointing": True}, {"packing": True}, {"attention": "eager"}]
    for way in ways:
        torch.manual_seed(3)
        task = ExpLLMTask(settings(language={**settings().language, "attention_dropout": 0.0}), **way)
        trainer(max_steps=2, limit_val_batches=0).fit(task, data())
        losses.append(float(task.last_loss))
    assert losses == pytest.approx(losses[:1] * len(ways), abs=1e-6)
    for name, way in {
        "liger-kernel": {"liger_kernels": True},
        "flash_attention_2": {"attention": "flash_attention_2"},
    }.items():
        with pytest.raises(ConfigError, match=name):
            trainer(max_steps=1).fit(ExpLLMTask(settings(), **way), data())


def test_only_training_uses_the_attention_of_the_settings(settings, data, trainer):
    """In evaluation, an implementation that accepts no masks would take a pass for each label."""
    used = {}

    class Attention(Callback):
        def note(self, stage, module):
            used.setdefault(stage, set()).add(module.explllm.language.config._attn_implementation)

        def on_train_batch_start(self, _, module, *__):
            self.note("train", module)

        def on_validation_batch_start(self, _, module, *__):
            self.note("validate", module)

        def on_validation_end(self, _, module):
            self.note("explain", module)

        def on_test_batch_start(self, _, module, *__):
            self.note("test", module)

    options = {"limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1, "callbacks": [Attention()]}
    task = ExpLLMTask(settings(labels="rafdb"), attention="eager")
    trainer(max_epochs=2, num_sanity_val_steps=1, **options).fit(task, data())
    assert used == {"train": {"eager"}, "validate": {"sdpa"}, "explain": {"sdpa"}}
    assert task.explllm.language.config._attn_implementation == "sdpa"
    # A machine without the package can evaluate a model that was trained with it.
    other = ExpLLMTask(settings(labels="rafdb"), attention="flash_attention_2")
    trainer(**options).test(other, data(), verbose=False)
    assert used["test"] == {"sdpa"}


def test_a_run_without_a_number_of_steps_is_rejected(settings, data, trainer):
    with pytest.raises(ConfigError, match="the number of steps"):
        trainer(max_epochs=-1, max_time="00:12:00:00").fit(ExpLLMTask(settings()), data())


def test_a_run_continues_with_nan(settings, data, trainer):
    """Validation gives NaN metrics, which callbacks such as EarlyStopping handle; after the run, NaN is an error."""
    task, outcomes = ExpLLMTask(settings(labels="rafdb")), []

    class Poison(Callback):
        def on_train_start(self, *_):
            task.explllm.projector[0].weight.data.fill_(torch.nan)

        def on_validation_batch_end(self, _trainer, _module, outputs, *_):
            outcomes.append(outputs["probabilities"].isnan().all())

    options = {
        "max_epochs": 1,
        "limit_train_batches": 1,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1,
        "callbacks": [Poison()],
    }
    trainer(**options).fit(task, data())
    assert outcomes == [True]
    with pytest.raises(CheckpointError, match="probabilities are NaN"):
        task.explllm.recognize_pixels(torch.zeros(1, 3, 64, 64))


def test_only_the_first_process_copies_the_model_to_host_memory(settings, monkeypatch):
    task, moved = ExpLLMTask(settings()), []
    monkeypatch.setattr(LightningModule, "cpu", lambda self: moved.append(self.global_rank) or self)
    for rank in (0, 1):
        monkeypatch.setattr(ExpLLMTask, "global_rank", rank)
        assert task.cpu() is task
    assert moved == [0]


def test_a_checkpoint_names_the_commits_of_its_base_models(settings, trainer, data, tmp_path, monkeypatch):
    """The hub's main branch has moved since the training; another model or revision in the settings wins."""
    task = ExpLLMTask(settings(labels="rafdb"))
    fit = trainer(max_steps=1, limit_val_batches=0)
    task.config.vision_revision = "b" * 40
    fit.fit(task, data())
    fit.save_checkpoint(tmp_path / "some.ckpt")
    later = ExpLLMTask(settings(labels="rafdb"))
    assert later.config.vision_revision is None
    later.use_metadata_of(tmp_path / "some.ckpt")
    assert (later.config.vision_revision, later.config.text_revision) == ("b" * 40, None)
    pinned = ExpLLMTask(settings(labels="rafdb", vision_revision="v1"))
    pinned.config.vision_revision = "c" * 40
    pinned.use_metadata_of(tmp_path / "some.ckpt")
    assert pinned.config.vision_revision == "c" * 40


def test_before_it_is_built(settings):
    with pytest.raises(TypeError, match=r"call configure_model\(\) first"):
        _ = ExpLLMTask(settings()).explllm


def test_a_run_resumes_with_the_preprocessing_and_chat_format_of_its_weights(settings, data, trainer, tmp_path):
    task = ExpLLMTask(settings())
    first = trainer(max_steps=1, limit_val_batches=0)
    first.fit(task, data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    language = {**settings().language, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    changes = {
        "model.network.chat_format is vicuna, but the run to resume was trained with plain": {"chat_format": "vicuna"},
        "model.network.image_preset is dinov2, .* small": {"image_preset": "dinov2", "image_size": 64},
        "model.network.vision_feature_layer is -2, .* -1": {"vision_feature_layer": -2},
        "model.network.language is .*5000.0": {"language": language},
    }
    for message, change in changes.items():
        other = ExpLLMTask(settings(**change))
        with pytest.raises(ConfigError, match=message):
            trainer(max_steps=2).fit(other, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    # As if the model that the run started from had other preprocessing.
    other = ExpLLMTask(settings())
    other.config.image |= {"resample": "nearest"}
    with pytest.raises(ConfigError, match="the preprocessing of images differs"):
        trainer(max_steps=2).fit(other, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    # A base may have moved, and dropout has no meaning for the weights.
    assert decisive_settings({"vision": "/models/dino"}) == decisive_settings({"vision": "test/dino"})
    same = ExpLLMTask(settings(language={**settings().language, "attention_dropout": 0.3}, image_size=64))
    trainer(max_steps=2).fit(same, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)


def test_a_checkpoint_of_other_weights(settings, data, trainer, tmp_path):
    """Other trainable weights: refused for training, since the optimizer state does not fit, accepted for testing."""
    task = ExpLLMTask(settings())
    first = trainer(max_steps=1, limit_val_batches=0)
    first.fit(task, data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    other = ExpLLMTask(settings(projector_train="frozen"))
    with pytest.raises(CheckpointError, match="belongs to a run with other trainable weights"):
        trainer(max_steps=2).fit(other, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    again = ExpLLMTask(settings(projector_train="frozen"))
    trainer().test(again, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True, verbose=False)
    for (name, one), (_, two) in zip(task.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_precisions_that_round_trainable_weights_are_refused(settings, data, trainer, precision):
    with pytest.raises(ConfigError, match=rf"the precision {precision} is not supported.*bf16-mixed"):
        trainer(max_steps=1, precision=precision).fit(ExpLLMTask(settings()), data())


class DerivedStrategy(DDPStrategy):
    """A strategy derived from DDP, like Lightning's DeepSpeedStrategy, which writes a folder as a checkpoint."""


@pytest.mark.parametrize("derived", [False, True])
def test_strategies_that_train_wrongly_are_refused(settings, data, trainer, derived):
    strategy = DerivedStrategy() if derived else ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    name = type(strategy).__name__
    try:
        with pytest.raises(ConfigError, match=rf"the strategy {name} is not supported.*ddp, or fsdp2"):
            trainer(max_steps=1, strategy=strategy, devices=1).fit(ExpLLMTask(settings()), data())
    finally:
        torch.distributed.destroy_process_group()


def test_action_unit_loss(settings, data, trainer, tmp_path):
    """The head trains, is in the checkpoint, and not in the model that is used."""
    losses = []
    for weight in (0.0, 1.0):
        torch.manual_seed(3)
        task = ExpLLMTask(settings(), action_unit_weight=weight)
        fit = trainer(max_steps=1, limit_val_batches=0)
        fit.fit(task, data())
        losses.append(float(task.last_loss))
    assert 0.2 < losses[1] - losses[0] < 1.5  # 24 units with an initial intensity of 0.12
    fit.save_checkpoint(tmp_path / "one.ckpt")
    assert any("action_unit_head" in name for name in read_checkpoint(tmp_path / "one.ckpt")["state_dict"])
    again = ExpLLMTask(settings(), action_unit_weight=1.0)
    trainer(max_steps=2, limit_val_batches=0).fit(again, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    model = model_from_checkpoint(tmp_path / "one.ckpt")
    task.explllm.save_pretrained(tmp_path / "model")
    saved = load_file(tmp_path / "model" / WEIGHTS)
    assert saved.keys() == set(model.weights_to_save()) and not any("action_unit_head" in name for name in saved)
    following = ExpLLMTask(settings(), init_from=tmp_path / "model", action_unit_weight=1.0)
    trainer().validate(following, data(), verbose=False)
    assert torch.equal(following.explllm.projector[0].weight, task.explllm.projector[0].weight)
    with pytest.raises(ConfigError, match="`action_unit_weight` must be at least 0, got -1"):
        ExpLLMTask(settings(), action_unit_weight=-1)


def test_label_smoothing(settings, data, trainer):
    losses = []
    for smoothing in (0.0, 0.1):
        torch.manual_seed(3)
        task = ExpLLMTask(settings(), label_smoothing=smoothing)
        trainer(max_steps=1, limit_val_batches=0).fit(task, data())
        losses.append(float(task.last_loss))
    assert losses[1] != pytest.approx(losses[0], abs=1e-5)
    logits, targets = torch.randn(3, 5), torch.tensor([0, 1, 4])
    rows = torch.tensor([0, 0, 1])
    each = 0.9 * -logits.log_softmax(1)[range(3), targets] - 0.1 * logits.log_softmax(1).mean(1)
    found = conversation_loss(logits, targets, token_weights(rows, 2), label_smoothing=0.1)
    assert float(found) == pytest.approx(float((each[:2].mean() + each[2]) / 2), abs=1e-6)
    with pytest.raises(ConfigError, match=r"`label_smoothing` must be in \[0, 1\), got 1"):
        ExpLLMTask(settings(), label_smoothing=1)


def test_encoder_share(settings, data, trainer, tmp_path):
    """First encoder, projector and heads train, then projector and language model; the other weights stay bit-equal."""
    task = ExpLLMTask(
        settings(action_unit_tokens=True),
        encoder_share=0.5,
        action_unit_weight=1.0,
        mixup=0.4,
        measured_units_share=0.5,
        average_answers=True,
        calibrate=True,
    )

    class Phases(Callback):
        states, batches, temperatures, encoder_learns = [], [], [], []

        def on_after_backward(self, trainer, pl_module):
            self.encoder_learns.append(any(w.grad is not None for w in pl_module.explllm.vision.parameters()))

        def on_train_start(self, trainer, pl_module):
            self.states.append({name: value.clone() for name, value in pl_module.explllm.state_dict().items()})

        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/macro_recall", 1.0 - trainer.current_epoch / 2)  # best when no text is learned

        def on_train_epoch_end(self, trainer, pl_module):
            self.on_train_start(trainer, pl_module)
            self.temperatures.append(pl_module.explllm.config.temperature)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.batches.append({name: outputs[name].shape for name in outputs if name.endswith("logits")})

    phases = Phases()
    best = BestCheckpoint(str(tmp_path))
    run = trainer(max_epochs=2, callbacks=[TemperatureScaling(), phases, best], enable_checkpointing=True)
    run.fit(task, data(micro_batch_size=8))
    assert read_checkpoint(best.path)["global_step"] == run.global_step
    start, middle, end = phases.states

    def changed(one, two):
        return {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])}

    assert changed(start, middle) == {"vision", "projector", "action_unit_tokens", "expression_head"}
    assert changed(middle, end) == {"projector", "language", "action_unit_tokens"}
    assert all(torch.equal(middle[name], end[name]) for name in middle if "action_unit_tokens.head" in name)
    first, last = phases.batches[0], phases.batches[-1]
    assert first == {"expression_logits": (8, 7)} and last == {"label_logits": (8, len(task.conversations.tokenizer))}
    half = len(phases.encoder_learns) // 2
    assert all(phases.encoder_learns[:half]) and not any(phases.encoder_learns[half:])
    assert phases.temperatures[0] == 1 and phases.temperatures[1] != 1
    with pytest.raises(ConfigError, match=r"`encoder_share` must be in \[0, 1\], got 3"):
        ExpLLMTask(settings(), encoder_share=3)


def test_mixup_blends_images_and_targets(settings, data, trainer, monkeypatch):
    """The loss of a blended batch is that of both faces of each pair, weighted by their shares."""
    seen = {}

    def spy(batch, alpha):
        seen["batch"], seen["blend"] = batch, mixed_up(batch, alpha)
        return seen["blend"]

    class Recorder(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen["loss"], seen["logits"] = float(outputs["loss"]), outputs["expression_logits"]

    monkeypatch.setattr("explllm.training.task.mixed_up", spy)
    task = ExpLLMTask(settings(), encoder_share=1.0, mixup=0.4, label_smoothing=0.1)
    run = trainer(max_epochs=1, max_steps=1, num_sanity_val_steps=0, limit_val_batches=0, callbacks=[Recorder()])
    run.fit(task, data(micro_batch_size=8))
    batch, (pixels, units, order, share) = seen["batch"], seen["blend"]
    assert 0 < share < 1 and order.tolist() != [*range(8)]
    for blended, name in ((pixels, "pixel_values"), (units, "action_units")):
        torch.testing.assert_close(blended, share * batch[name] + (1 - share) * batch[name][order], equal_nan=True)
    each = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    targets = task.targets(batch)
    expected = share * each(seen["logits"], targets) + (1 - share) * each(seen["logits"], targets[order])
    assert seen["loss"] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ConfigError, match="`mixup` has no effect without `encoder_share`"):
        ExpLLMTask(settings(), mixup=0.4)


def test_measured_units_are_shown_with_texts_only(settings, data):
    """Conversations about the label alone keep the estimates: at a test there is nothing else."""
    task = ExpLLMTask(
        settings(action_unit_tokens=True, labels="rafdb"), measured_units_share=1.0, action_unit_weight=1.0
    )
    faces = data(micro_batch_size=8, fer_share=0.5, num_workers=0)
    faces.prepare_for(task)
    batches = [batch for batch, _ in zip(faces.train_dataloader(), range(4), strict=False)]
    kinds = set()
    for batch in batches:
        shown = measured_units(batch, 1.0)
        for row, labels in enumerate(batch["labels"]):
            has_text = int((labels != -100).sum()) > 20
            kinds.add(has_text)
            expected = batch["action_units"][row] if has_text else torch.full((24,), torch.nan)
            assert torch.equal(shown[row].nan_to_num(-1), expected.nan_to_num(-1))
    assert kinds == {True, False}
    with pytest.raises(ConfigError, match="requires action unit tokens"):
        ExpLLMTask(settings(), measured_units_share=0.5)
    with pytest.raises(ConfigError, match="nothing would train the estimates"):
        ExpLLMTask(settings(action_unit_tokens=True))


def test_the_best_checkpoint_has_learned_its_texts(settings, trainer):
    """With `encoder_share`, only the last epoch is considered."""
    task = ExpLLMTask(settings(), encoder_share=0.5)
    task.trainer = trainer(max_epochs=16)
    assert (task.encoder_epochs, task.first_selectable_epoch) == (8, 15)
    task.encoder_share = 0.0
    assert task.first_selectable_epoch == 0


def test_parts_of_similar_length():
    """Rows of a mixed batch are divided by length, without their padding, and every row is in one part."""
    lengths = torch.tensor([3, 9, 4, 10])
    mask = (torch.arange(10) < lengths[:, None]).long()
    ids = torch.arange(40).view(4, 10)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids, "rows": torch.arange(4), "unreadable": []}
    order, (short, long) = parts_of_similar_length(batch)
    assert order.tolist() == [0, 2, 1, 3] and short["rows"].tolist() == [0, 2] and long["rows"].tolist() == [1, 3]
    assert torch.equal(short["input_ids"], ids[[0, 2], :4]) and torch.equal(long["labels"], ids[[1, 3]])
