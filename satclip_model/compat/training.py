"""The original's Lightning module, over this package's modules; see `satclip_model.compat`."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.compat import SatCLIP, SatCLIPLoss
from satclip_model.lightning_module import parameter_groups


class SatCLIPLightningModule(lightning.LightningModule):
    """Contrastive training on batches ``{"image": (n, channels, height, width), "point": (n, 2)}``.

    Hyper-parameters and weights are saved under the original's names, so that checkpoints go both ways. As in the
    original, coordinates are rounded to float32 in training, which moves a place by up to 0.9 m.

    Args:
        embed_dim: As for `satclip_model.compat.SatCLIP`, like all arguments but the following two.
        image_resolution: See there.
        vision_layers: See there.
        vision_width: See there.
        vision_patch_size: See there.
        in_channels: See there.
        le_type: See there.
        pe_type: See there.
        frequency_num: See there.
        max_radius: See there.
        min_radius: See there.
        legendre_polys: See there.
        harmonics_calculation: See there.
        sh_embedding_dims: See there.
        learning_rate: Constant learning rate of AdamW.
        weight_decay: Decoupled weight decay of matrices; norms, biases and the temperature have none.
        num_hidden_layers: See there.
        capacity: See there.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        image_resolution: int = 256,
        vision_layers: tuple[int, int, int, int] | int | str = 12,
        vision_width: int = 768,
        vision_patch_size: int = 32,
        in_channels: int = 4,
        le_type: str = "grid",
        pe_type: str = "siren",
        frequency_num: int = 16,
        max_radius: float = 260,
        min_radius: float = 1,
        legendre_polys: int = 16,
        harmonics_calculation: str = "analytic",
        sh_embedding_dims: int = 32,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.01,
        num_hidden_layers: int = 2,
        capacity: int = 256,
    ) -> None:
        super().__init__()
        self.model = SatCLIP(
            embed_dim=embed_dim,
            image_resolution=image_resolution,
            vision_layers=vision_layers,
            vision_width=vision_width,
            vision_patch_size=vision_patch_size,
            in_channels=in_channels,
            le_type=le_type,
            pe_type=pe_type,
            frequency_num=frequency_num,
            max_radius=max_radius,
            min_radius=min_radius,
            harmonics_calculation=harmonics_calculation,
            legendre_polys=legendre_polys,
            sh_embedding_dims=sh_embedding_dims,
            num_hidden_layers=num_hidden_layers,
            capacity=capacity,
        )
        self.loss_fun = SatCLIPLoss()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.save_hyperparameters()

    def common_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch."""
        del batch_idx
        loss: Tensor = self.loss_fun(*self.model(batch["image"], batch["point"].float()))
        return loss

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch, logged as ``train_loss``."""
        loss = self.common_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch, logged as ``val_loss``."""
        loss = self.common_step(batch, batch_idx)
        self.log("val_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """AdamW; the first group of parameters has no weight decay."""
        decayed, plain = parameter_groups(self.model, self.weight_decay)
        return torch.optim.AdamW([plain, decayed], lr=self.learning_rate)
