"""From reflectance to image embeddings: a backbone, frozen or not, and a trainable head."""

from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import ImageBackboneConfig, ImageHeadConfig, RandomFeaturesConfig
from satclip_model.image_encoder.projection import ImageProjection
from satclip_model.image_encoder.random_convolutional import RandomConvolutionalFeatures

__all__ = [
    "ImageBackbone",
    "ImageProjection",
    "RandomConvolutionalFeatures",
    "build_image_backbone",
    "build_image_head",
]


class ImageBackbone(Protocol):
    """A module that turns reflectance into features."""

    config: Any

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of kind, settings and weights; equal fingerprints give equal features."""

    def __call__(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of patches: 12 bands in S2-100K's order, nominally 0 to 1."""


def build_image_backbone(config: ImageBackboneConfig) -> nn.Module:
    """The untrained backbone that a configuration describes; see `ImageBackbone`."""
    if isinstance(config, RandomFeaturesConfig):
        return RandomConvolutionalFeatures(config)
    raise ValueError(f"image backbone {config.kind!r} is not built yet")


def build_image_head(config: ImageHeadConfig, feature_dim: int, embedding_dim: int) -> nn.Module:
    """The untrained head that a configuration describes."""
    if config.kind == "identity":
        return nn.Identity()
    return ImageProjection(
        feature_dim=feature_dim,
        embedding_dim=embedding_dim,
        hidden_dim=config.hidden_dim,
        feature_dropout=config.feature_dropout,
        dropout=config.dropout,
    )
