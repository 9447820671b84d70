"""Training of the two towers, as a Lightning module."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.distributed import joint_contrastive_loss
from satclip_model.errors import DivergenceError
from satclip_model.loss import contrastive_loss
from satclip_model.satclip import SatCLIP


@dataclass(frozen=True)
class OptimizationSettings:
    """How the weights are moved.

    Attributes:
        learning_rate: Highest learning rate, reached at the end of the warm-up.
        weight_decay: Decoupled weight decay of matrices; norms, biases and the temperature have none.
        warmup_steps: Steps of linear warm-up.
        total_steps: Steps of the whole training; the cosine ends there at zero.
    """

    learning_rate: float
    weight_decay: float
    warmup_steps: int
    total_steps: int


class SatCLIPLightningModule(lightning.LightningModule):
    """Contrastive training on batches of (image features, lonlat_deg), or of (reflectance, lonlat_deg).

    Reflectance goes through the image backbone, which is trained unless it is frozen.

    Logs ``train_loss``, ``val_loss`` and ``temperature``, means over an epoch. With several ranks the training loss is
    that of the joint batch, to which every rank brings an equal share; the validation loss is the mean of those of the
    ranks' own batches.

    Args:
        model: The two towers; changed in place.
        settings: Optimiser and schedule.
        augment_lonlat: Maps training coordinates (n, 2) to jittered ones; None leaves them.
        logs_steps: Whether training steps log; Lightning takes about a millisecond for it, a quarter of a small step.
    """

    def __init__(
        self,
        model: SatCLIP,
        settings: OptimizationSettings,
        augment_lonlat: Callable[[Tensor], Tensor] | None = None,
        logs_steps: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.settings, self.augment_lonlat = model, settings, augment_lonlat
        self.logs_steps = logs_steps

    def _encode(self, images: Tensor, lonlat_deg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.model.encode_image_batch(images),
            self.model.encode_location(lonlat_deg),
            self.model.clamped_logit_scale,
        )

    def training_step(
        self, batch: tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch 2"]], batch_idx: int
    ) -> Float[Tensor, ""]:
        """Loss of one batch; with several ranks, this rank's share of it.

        Raises:
            DivergenceError: The loss is not finite.
            ValueError: The ranks' batches differ in size.
        """
        del batch_idx
        images, lonlat_deg = batch
        if self.augment_lonlat is not None:
            lonlat_deg = self.augment_lonlat(lonlat_deg)
        loss = joint_contrastive_loss(*self._encode(images, lonlat_deg))
        if not bool(torch.isfinite(loss)):
            raise DivergenceError(f"loss is {float(loss.detach())}")
        if self.logs_steps:
            self._log_step(loss.detach(), len(images))
        return loss

    def _log_step(self, loss: Tensor, batch_size: int) -> None:
        temperature = torch.exp(-self.model.clamped_logit_scale.detach())
        for name, value in (("train_loss", loss), ("temperature", temperature)):
            self.log(name, value, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)

    def validation_step(
        self, batch: tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch 2"]], batch_idx: int
    ) -> None:
        """Logs the loss of one batch, coordinates as they are."""
        del batch_idx
        images, lonlat_deg = batch
        loss = contrastive_loss(*self._encode(images, lonlat_deg))
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """AdamW with linear warm-up and a cosine to zero, stepped per batch."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings.warmup_steps, settings.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the highest learning rate at a step: linear up to 1, then a half cosine to 0 at ``total_steps``."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def parameter_groups(model: nn.Module, weight_decay: float) -> Iterable[dict[str, Any]]:
    """Trainable parameters in two groups: matrices, and without weight decay norms, biases and the temperature."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in trainable if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in trainable if each.ndim < 2], "weight_decay": 0.0},
    ]
