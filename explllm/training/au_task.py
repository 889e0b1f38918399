"""The LightningModule that trains and tests an action unit regressor."""

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
from explllm.training.strategies import shard

_FLOOR = 1e-4
"""Added to the numerator and the denominator of CCC in the loss. Without it, noise would dominate the loss of units
that barely vary in a micro-batch."""


class ActionUnitTask(FaceTask):
    """Trains an `ActionUnitRegressor` on intensities; tests it on intensities, on FACS labels (with F1), or on both."""

    def __init__(
        self,
        network: RegressorSettings | None = None,
        optimization: OptimizationSettings | None = None,
        ccc_weight: float = 1.0,
        facs_active_from: float = ACTIVE_FROM,
    ) -> None:
        """Build the configuration; `configure_model` loads the weights.

        Args:
            network: The model's parts.
            optimization: Learning rate, weight decay and warm-up.
            ccc_weight: Weight of 1 - CCC, which is added to ten times the mean squared error. CCC weights all units
                equally, including those that rarely move.
            facs_active_from: Intensity in (0, 1] from which a unit counts as active in tests on FACS labels.

        Raises:
            ConfigError: If a number is out of range, or the parts do not fit each other.
            CheckpointError: If the configuration of a pretrained encoder cannot be read.
        """
        super().__init__()
        if ccc_weight < 0 or not 0 < facs_active_from <= 1:
            raise ConfigError(
                f"`ccc_weight` must be at least 0 and `facs_active_from` in (0, 1], got {ccc_weight} and "
                f"{facs_active_from}",
                remedy="Change them.",
            )
        self.network, self.optimization = network or RegressorSettings(), optimization or OptimizationSettings()
        self.ccc_weight, self.facs_active_from = ccc_weight, facs_active_from
        self.config = regressor_config(self.network)
        self.image = ImagePreset.from_dict(self.config.image or {})
        self.model: ActionUnitRegressor | None = None
        self.agreement = ActionUnitAgreement()
        self.facs: FacsF1 | None = None

    @property
    def regressor(self) -> ActionUnitRegressor:
        """The model, once `configure_model` has run."""
        if self.model is None:
            raise TypeError("call configure_model() first")
        return self.model

    def configure_model(self) -> None:
        """Build the model with a pretrained encoder's base weights and, under FSDP2, shard it."""
        if self.model is not None:
            return
        self.model = build_regressor(self.config)
        # Lightning does not set training mode; a frozen encoder stays in evaluation mode.
        self.model.train()
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss without averaging over mirror images; augmentation can flip training images instead."""
        step = self._is_step(batch_idx)
        self._check_readable(batch, step)
        loss = regression_loss(
            self.regressor.forward_single_view(batch["pixel_values"]), batch["action_units"], self.ccc_weight
        )
        self._log_loss(loss, step)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics; F1 is among them if the data has FACS labels."""
        self.agreement.reset()
        name = self._data().labels.facs_set
        self.facs = None if name is None else FacsF1(name, self.facs_active_from).to(self.device)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Estimate intensities and update the metrics; return intensities (N, 24) and rows (N,) of N valid faces."""
        outputs, valid = self._estimate(batch)
        estimates = outputs["action_units"]
        self.agreement.update(estimates, batch["action_units"][valid])
        if self.facs is not None:
            facs = batch["facs"][valid]
            coded = ~facs.isnan().any(1)
            self.facs.update(estimates[coded], facs[coded])
        return outputs

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Estimate intensities; return intensities (N, 24) and rows (N,) of N valid faces."""
        return self._estimate(batch)[0]

    def on_validation_epoch_end(self) -> None:
        """Log and print the metrics during training, not after a standalone validation run."""
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        metrics = self.compute_metrics()
        for name in ("pearson", "ccc", "icc", "mae"):
            if metrics.get(name) is not None:
                # Log on every rank, where callbacks such as EarlyStopping read the value; it is the same on all ranks.
                self.log(f"val/{name}", metrics[name], prog_bar=name == "pearson")
        if self.trainer.is_global_zero and metrics.get("pearson") is not None:
            # There is no loss before the first optimizer step.
            loss = "" if self.last_loss is None else f"loss {float(self.last_loss):.3f}, "
            get_console().print(
                f"step {self.trainer.global_step}: {loss}val Pearson "
                f"{metrics['pearson']:.3f}, ICC(3,1) {metrics['icc']:.3f}, CCC {metrics['ccc']:.3f}, "
                f"MAE {metrics['mae']:.4f}",
                soft_wrap=True,
                highlight=False,
            )

    def compute_metrics(self) -> dict[str, Any]:
        """Compute the metrics of the last validation or test over all ranks. Call it on every rank.

        Returns:
            The result of `explllm.metrics.au_regression.agreement_summary`, if a face has intensities; under the
            key ``facs``, the result of `explllm.metrics.facs.facs_summary`, if the data has FACS labels.
        """
        metrics: dict[str, Any] = self.agreement.compute()
        metrics = metrics if metrics["faces"] else {}
        return metrics if self.facs is None else {**metrics, "facs": self.facs.compute()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the names of the units as well."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = list(NAMES)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to a regressor of this architecture.

        Raises:
            CheckpointError: If the checkpoint does not fit; the message names the first mismatched weight, if any.
        """
        if checkpoint["labels"] != list(NAMES):
            raise CheckpointError(
                "the checkpoint belongs to another kind of model",
                where=str(self.trainer.ckpt_path),
                remedy="Use the checkpoint of an action unit regressor.",
            )
        super().on_load_checkpoint(checkpoint)

    def _estimate(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        self._count_unreadable(batch)
        valid = self._valid_rows(batch)
        # Compute without autocast regardless of the training precision, as in the ONNX file (on a GPU, TF32 may apply).
        # Include invalid faces: under FSDP2, every rank must take part in every forward pass.
        with torch.autocast(self.device.type, enabled=False):
            estimates = self.regressor(batch["pixel_values"])[valid]
        return {"action_units": estimates, "rows": batch["rows"][valid]}, valid


def regression_loss(predictions: torch.Tensor, targets: torch.Tensor, ccc_weight: float) -> torch.Tensor:
    """Return ten times the mean squared error plus the weighted mean over units of 1 - CCC (Lin 1989).

    Args:
        predictions: (B, U) estimates.
        targets: (B, U) labels; NaN for unlabeled units, which do not contribute to the loss.
        ccc_weight: Weight of 1 - CCC.

    Returns:
        The loss; 0 if nothing is labeled.
    """
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)
    # Fill missing labels with the estimates: the error is then 0, and no gradient becomes NaN.
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
