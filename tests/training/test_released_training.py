"""Six optimizer steps of the authors' released training, through our own module, optimizer and schedule."""

import json

import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from explllm.core.manifest import Manifest
from explllm.data.dataset import Collator, TrainingDataset
from explllm.data.face_data_module import FaceDataModule
from explllm.data.mixture import SampleSpec
from explllm.models.build import NetworkSettings
from explllm.models.lora import LoraSettings
from explllm.models.released.convert import convert_released
from explllm.training.optimization import OptimizationSettings
from explllm.training.task import ExpLLMTask


class ReleasedOrder(FaceDataModule):
    """The golden records, 12 as CoT and then each as FER three times, in the order of the released training."""

    def __init__(self, folder, order):
        super().__init__(batch_size=4, micro_batch_size=1, cot_order="cot_first", write_cot=False)
        self.folder, self.order = folder, order

    def read(self):
        records = json.loads((self.folder / "records.json").read_text())
        rows = [
            {"image": f"images/{r['file_name']}", "expression": r["emo"], "cot": r["description"], "split": "train"}
            for r in records
        ]
        return Manifest(pd.DataFrame(rows), self.folder)

    def train_dataloader(self):
        conversations = self._conversations()
        dataset = TrainingDataset(self.manifest, self.images(), conversations, cot_order=self.cot_order)
        specs = [[SampleSpec(place % 12, "cot" if place < 12 else "fer", 0)] for place in self.order]
        return DataLoader(dataset, batch_sampler=specs, collate_fn=Collator(conversations))


class Losses(Callback):
    def __init__(self):
        self.seen, self.rates = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_six_steps_of_the_released_training(golden, our_name, tmp_path):
    trajectory = json.loads((golden / "training" / "trajectory.json").read_text())
    final = torch.load(golden / "training" / "final_trainable.pt", weights_only=True)
    convert_released(golden / "checkpoint", tmp_path / "model")
    lora = LoraSettings(dropout=0.0)
    task = ExpLLMTask(
        NetworkSettings(
            vision=str(tmp_path / "model" / "vision"),
            language=str(tmp_path / "model" / "language"),
            vision_lora=lora,
            language_lora=lora,
            vision_drop_path=0.4,  # as released; with one conversation at a time it does nothing
            chat_format="expllm",
            image_preset="released",
            base_dtype="float32",
            labels="affectnet8",
        ),
        OptimizationSettings(learning_rate=5e-4, weight_decay=0.05, warmup_ratio=0.2),
        init_from=tmp_path / "model",
    )
    losses = Losses()
    trainer = Trainer(
        max_steps=6,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
        default_root_dir=tmp_path,
    )
    trainer.fit(task, datamodule=ReleasedOrder(golden, trajectory["order"][:24]))

    wanted = torch.tensor(trajectory["micro_losses"])
    found = torch.tensor(losses.seen)
    assert found.shape == wanted.shape
    assert ((found - wanted) / wanted).abs().max() < 1e-4
    rates = [entry["learning_rate"] for entry in trajectory["log"] if "learning_rate" in entry]
    torch.testing.assert_close(losses.rates[3::4], rates, rtol=1e-6, atol=1e-12)

    weights = {n: w for n, w in task.explllm.named_parameters() if w.requires_grad}
    assert len(final) == len(weights) == 20
    for name, value in final.items():
        weight = weights[our_name(name)]
        assert ((weight - value).abs().max() / value.abs().max()) < 1e-3, name
