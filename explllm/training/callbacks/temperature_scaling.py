"""Temperature scaling: probabilities that match the accuracy on validation faces."""

from typing import Any

import numpy as np
from lightning.pytorch import Callback, Trainer

from explllm.metrics.calibration import fit_temperature
from explllm.training.face_task import all_gather_list
from explllm.training.task import ExpLLMTask


class TemperatureScaling(Callback):
    """Fits the model's temperature to the validation faces at each validation in `fit`, if the task sets `calibrate`.

    Epochs that train only the encoder are skipped. Checkpoints and the model's folder contain the temperature that was
    fitted to their weights.
    """

    def __init__(self) -> None:
        """Create the list of a validation's probabilities and targets."""
        self._answers: list[tuple[list[float], int]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Discard the faces of the previous validation, and its temperature, which belongs to other weights."""
        self._answers = []
        if self._applies(trainer, pl_module):
            pl_module.explllm.config.temperature = 1.0

    def on_validation_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, *_: Any
    ) -> None:
        """Collect a batch of validation faces."""
        if self._applies(trainer, pl_module):
            self._answers += zip(outputs["probabilities"].tolist(), outputs["targets"].tolist(), strict=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Fit the temperature."""
        if not self._applies(trainer, pl_module):
            return
        answers = all_gather_list([answer for answer in self._answers if answer[1] >= 0])
        if answers:
            probabilities, targets = zip(*answers, strict=True)
            temperature = fit_temperature(np.array(probabilities), np.array(targets))
            pl_module.explllm.config.temperature = temperature
            pl_module.log("val/temperature", temperature)

    @staticmethod
    def _applies(trainer: Trainer, pl_module: ExpLLMTask) -> bool:
        return pl_module.calibrate and trainer.state.fn == "fit" and not pl_module.trains_encoder_only
