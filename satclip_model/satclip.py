"""The two towers: images and locations in one embedding space."""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import SatCLIPConfig
from satclip_model.image_tower import ImageTower
from satclip_model.location_encoder import LocationEncoder

INITIAL_TEMPERATURE: Final = 0.07
"""That of CLIP and of SatCLIP."""


class SatCLIP(ImageTower):
    """Image backbone with a trainable head, location encoder, and a learned temperature.

    ``logit_scale`` is the log value: temperature = exp(-logit_scale), never below ``config.min_temperature``.

    Source: Klemmer et al. (2025), SatCLIP: Global, general-purpose location embeddings with satellite imagery, AAAI.
    """

    def __init__(self, config: SatCLIPConfig) -> None:
        super().__init__(config.image_backbone, config.image_head, config.embedding_dim)
        self.config = config
        self.location_encoder = LocationEncoder(config.location)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    @property
    def clamped_logit_scale(self) -> Tensor:
        """Log of the inverse temperature, at most -log(min_temperature)."""
        bound = self.config.min_temperature
        return self.logit_scale.clamp(max=-math.log(bound)) if bound > 0 else self.logit_scale

    def encode_location(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch embed"]:
        """Unit-length embeddings of places (degrees, longitude first), float32."""
        return functional.normalize(self.location_encoder(lonlat_deg), dim=1).float()

    def forward(
        self, features: Float[Tensor, "batch feature"], lonlat_deg: Float[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch"]]:
        """Scaled cosine similarities: of each image with all locations, and of each location with all images."""
        images, locations = self.encode_image_features(features), self.encode_location(lonlat_deg)
        logits_per_image = self.clamped_logit_scale.exp() * images @ locations.T
        return logits_per_image, logits_per_image.T


def build_satclip(config: SatCLIPConfig, seed: int) -> SatCLIP:
    """An untrained model; the same seed gives the same weights, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SatCLIP(config)
