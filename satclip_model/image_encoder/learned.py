"""What the image backbones with learned weights have in common."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import MoCoConfig, ModifiedResNetConfig, VisionTransformerConfig
from satclip_model.image_encoder.fingerprint import fingerprint_weights
from satclip_model.image_encoder.image_input import match_channels


class LearnedImageBackbone[ConfigT: (MoCoConfig, VisionTransformerConfig, ModifiedResNetConfig)](nn.Module, ABC):
    """An image network that is trained, or kept as it is where its settings say so.

    Frozen, its parameters need no gradient, its features carry none, and ``train()`` leaves it in evaluation mode, so
    that the statistics of its normalisation never move.

    A subclass gives `encode`, and calls `freeze_unless_trainable` once its layers are made.
    """

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config: ConfigT = config

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.config.feature_dim

    @property
    def fingerprint(self) -> str:
        """Hex digest of kind, settings and weights; equal fingerprints give equal features."""
        return fingerprint_weights(self.config, self)

    def train(self, mode: bool = True) -> "LearnedImageBackbone[ConfigT]":
        """Sets training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode and self.config.trainable)
        return self

    def freeze_unless_trainable(self) -> None:
        """Ends gradients and training mode where the settings say that the weights do not move."""
        if not self.config.trainable:
            self.requires_grad_(False)
            self.train(False)

    @abstractmethod
    def encode(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of images that have the channels and the type of the weights."""

    def forward(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of images, in the type of the weights.

        Args:
            reflectance: Nominally 0 to 1, bands in S2-100K's order; with 13 channels the cirrus band B10 may be there
                or not.

        Raises:
            ValueError: Another number of bands, integers, or a size that the network does not take.
        """
        prepared = match_channels(reflectance, self.config.in_channels).to(next(self.parameters()).dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.trainable):
            return self.encode(prepared)
