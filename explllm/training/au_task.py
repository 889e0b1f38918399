"""The LightningModule that trains and tests a regressor of action units."""

from typing import Any

import torch
from rich import get_console

from explllm.core.action_units import NAMES
from explllm.core.errors import CheckpointError, ConfigError
from explllm.data.dataset import Batch
from explllm.faces.pixels import ImagePreset
from explllm.metrics.au_regression import ActionUnitAgreement
from explllm.metrics.facs import ACTIVE_FROM, FacsF1
from explllm.models.au_regressor import ActionUnitRegressor, RegressorSettings, build_regressor, regressor_config
from explllm.training.face_task import FaceTask
from explllm.training.optimization import OptimizationSettings

_FLOOR = 1e-4
"""Added to the denominator of the loss's CCC: in a micro-batch that hardly moves a unit, noise would be all."""


class ActionUnitTask(FaceTask):
    """Trains an `ActionUnitRegressor` on labeled intensities; tests it by intensity, or on FACS labels by F1."""

    def __init__(
        self,
        network: RegressorSettings | None = None,
        optimization: OptimizationSettings | None = None,
        ccc_weight: float = 1.0,
        facs_active_from: float = ACTIVE_FROM,
    ) -> None:
        """Make the configuration; the weights come later, in `configure_model`.

        Args:
            network: The model's parts.
            optimization: Learning rate, decay, warm-up.
            ccc_weight: Weight of 1 - CCC in the loss, beside ten times the mean squared error; 0 leaves it out. CCC
                counts every unit alike, so that one which moves little is learned too.
            facs_active_from: Intensity in [0, 1] from which a unit counts as active in tests on FACS labels.

        Raises:
            ConfigError: If a number is out of range, or parts do not fit each other.
        """
        super().__init__()
        if ccc_weight < 0 or not 0 < facs_active_from <= 1:
            raise ConfigError(
                f"ccc_weight {ccc_weight}, facs_active_from {facs_active_from}",
                remedy="Give a weight of 0 or more, and an intensity above 0 and up to 1.",
            )
        self.network, self.optimization = network or RegressorSettings(), optimization or OptimizationSettings()
        self.ccc_weight, self.facs_active_from = ccc_weight, facs_active_from
        self.prepared = regressor_config(self.network)
        self.image = ImagePreset.from_dict(self.prepared.image or {})
        self.model: ActionUnitRegressor | None = None
        self.agreement = ActionUnitAgreement()
        self.facs: FacsF1 | None = None

    @property
    def regressor(self) -> ActionUnitRegressor:
        """The model, once `configure_model` has run."""
        if self.model is None:
            raise TypeError("configure_model() comes first")
        return self.model

    def configure_model(self) -> None:
        """Build the model; loads the encoder's base weights."""
        if self.model is not None:
            return
        self.model = build_regressor(self.prepared)
        # Lightning trains modules in the mode that it finds them in; a frozen encoder stays in evaluation mode.
        self.model.train()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of one look at each image; augmentation shows the mirrored faces."""
        step = self._is_step(batch_idx)
        self._check_readable(batch, step)
        loss = regression_loss(
            self.regressor.forward_single_view(batch["pixel_values"]), batch["action_units"], self.ccc_weight
        )
        self._log_loss(loss, step)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self._start_counting()

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self._start_counting()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Estimate faces: intensities (B, 24), rows (B,) of those that count."""
        return self._estimate(batch, counts=True)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Estimate faces, as in validation."""
        return self._estimate(batch, counts=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Estimate faces."""
        return self._estimate(batch, counts=False)

    def on_validation_epoch_end(self) -> None:
        """Log and print the figures, if validation is part of training."""
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        figures = self.figures()
        for name in ("pearson", "ccc", "icc", "mae"):
            if figures.get(name) is not None:
                self.log(f"val/{name}", figures[name], prog_bar=name == "pearson", rank_zero_only=True)
        if self.trainer.is_global_zero and figures.get("pearson") is not None:
            # Before the first optimizer step there is no loss.
            loss = "" if self.last_loss is None else f"loss {float(self.last_loss):.3f}, "
            get_console().print(
                f"step {self.trainer.global_step}: {loss}val Pearson "
                f"{figures['pearson']:.3f}, ICC(3,1) {figures['icc']:.3f}, CCC {figures['ccc']:.3f}, "
                f"MAE {figures['mae']:.4f}",
                soft_wrap=True,
                highlight=False,
            )

    def figures(self) -> dict[str, Any]:
        """Return the figures of the last validation or test, over all processes, each of which must ask.

        Returns:
            What `explllm.metrics.au_regression.agreement_summary` gives, if a face has intensities; ``facs``: what
            `explllm.metrics.facs.facs_summary` gives, if the data has FACS labels.
        """
        figures: dict[str, Any] = self.agreement.compute()
        figures = figures if figures["faces"] else {}
        return figures if self.facs is None else {**figures, "facs": self.facs.compute()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the units' names too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = list(NAMES)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of a regressor of this architecture.

        Raises:
            CheckpointError: If it is not; the message names the first weight that does not fit.
        """
        if checkpoint["labels"] != list(NAMES):
            raise CheckpointError(
                "the checkpoint is of another kind of model",
                where=str(self.trainer.ckpt_path),
                remedy="Use one of a regressor's run.",
            )
        super().on_load_checkpoint(checkpoint)

    def _start_counting(self) -> None:
        self.agreement.reset()
        name = self._data().labels.facs_set
        self.facs = None if name is None else FacsF1(name, self.facs_active_from).to(self.device)

    def _estimate(self, batch: Batch, counts: bool) -> dict[str, torch.Tensor]:
        self._count_unreadable(batch)
        counting = self._counting(batch)
        pixels = batch["pixel_values"][counting]
        # In float32 whatever the precision of training, as in the ONNX file.
        with torch.autocast(self.device.type, enabled=False):
            found = self.regressor(pixels) if len(pixels) else pixels.new_zeros(0, len(NAMES))
        if counts:
            self.agreement.update(found, batch["action_units"][counting])
            if self.facs is not None:
                facs = batch["facs"][counting]
                coded = ~facs.isnan().any(1)
                self.facs.update(found[coded], facs[coded])
        return {"action_units": found, "rows": batch["rows"][counting]}


def regression_loss(predictions: torch.Tensor, targets: torch.Tensor, ccc_weight: float) -> torch.Tensor:
    """Return ten times the mean squared error, and 1 - CCC (Lin 1989) as a mean over the units of the micro-batch.

    Args:
        predictions: (B, U) estimates.
        targets: (B, U) labels; where a unit is not labeled, not a number: it adds nothing.
        ccc_weight: Weight of 1 - CCC.

    Returns:
        The loss; 0 if nothing is labeled.
    """
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)
    # Filled up with the estimates themselves: their difference is 0, and no gradient is not a number.
    labels = torch.where(known, targets, predictions.detach())
    error = torch.where(known, predictions - labels, 0)
    loss = 10 * error.square().sum() / known.sum().clamp(min=1)
    if not ccc_weight:
        return loss

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.where(known, values, 0).sum(0) / count

    mean_x, mean_y = mean(predictions), mean(labels)
    x, y = predictions - mean_x, labels - mean_y
    spread = mean(x.square()) + mean(y.square()) + (mean_x - mean_y).square()
    ccc = (2 * mean(x * y) + _FLOOR) / (spread + _FLOOR)
    return loss + ccc_weight * (1 - ccc)[known.any(0)].sum() / known.any(0).sum().clamp(min=1)
