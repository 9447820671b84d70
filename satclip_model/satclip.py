"""The two towers: images and locations in one embedding space."""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import SatCLIPConfig
from satclip_model.image_encoder import build_image_backbone, build_image_head
from satclip_model.location_encoder import LocationEncoder

INITIAL_TEMPERATURE: Final = 0.07
"""That of CLIP and of SatCLIP."""

_FROZEN_BATCH: Final = 64


class SatCLIP(nn.Module):
    """Image backbone with a trainable head, location encoder, and a learned temperature.

    ``logit_scale`` is the log value: temperature = exp(-logit_scale), never below ``config.min_temperature``.

    Source: Klemmer et al. (2025), SatCLIP: Global, general-purpose location embeddings with satellite imagery, AAAI.
    """

    def __init__(self, config: SatCLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.image_backbone = build_image_backbone(config.image_backbone)
        self.image_projection = build_image_head(
            config.image_head, config.image_backbone.feature_dim, config.embedding_dim
        )
        self.location_encoder = LocationEncoder(config.location)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    @property
    def clamped_logit_scale(self) -> Tensor:
        """Log of the inverse temperature, at most -log(min_temperature)."""
        bound = self.config.min_temperature
        return self.logit_scale.clamp(max=-math.log(bound)) if bound > 0 else self.logit_scale

    def encode_image_features(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch embed"]:
        """Unit-length embeddings of features of the image backbone, float32."""
        return functional.normalize(self.image_projection(features), dim=1).float()

    @property
    def trains_backbone(self) -> bool:
        """Whether training moves the weights of the image backbone."""
        return any(each.requires_grad for each in self.image_backbone.parameters())

    def image_features(
        self, reflectance: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Features of images under the backbone; see `image_encoder.image_input` for scale, bands and size.

        A frozen backbone takes some images at a time, so that memory does not grow with the batch.
        """
        parts = (reflectance,) if self.trains_backbone else torch.split(reflectance, _FROZEN_BATCH)
        return torch.cat([self.image_backbone(part) for part in parts])

    def encode_image(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch embed"]:
        """Unit-length embeddings of images, float32; see `image_features`."""
        return self.encode_image_features(self.image_features(reflectance))

    def encode_image_batch(
        self, images: Float[Tensor, "batch feature"] | Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embed"]:
        """Unit-length embeddings of what a training is given: features of the image backbone, or images."""
        return self.encode_image_features(images) if images.ndim == 2 else self.encode_image(images)

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
