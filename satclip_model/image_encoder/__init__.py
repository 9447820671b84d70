"""From reflectance to image embeddings: a backbone, frozen or not, and a trainable head."""

from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import (
    ImageBackboneConfig,
    ImageHeadConfig,
    MoCoConfig,
    RandomFeaturesConfig,
    VisionTransformerConfig,
)
from satclip_model.image_encoder.moco import MOCO_WEIGHTS, MoCoBackbone, load_moco_weights
from satclip_model.image_encoder.modified_resnet import ModifiedResNet
from satclip_model.image_encoder.projection import ImageProjection
from satclip_model.image_encoder.random_convolutional import RandomConvolutionalFeatures
from satclip_model.image_encoder.vision_transformer import VisionTransformer

__all__ = [
    "MOCO_WEIGHTS",
    "ImageBackbone",
    "ImageProjection",
    "MoCoBackbone",
    "ModifiedResNet",
    "RandomConvolutionalFeatures",
    "VisionTransformer",
    "build_image_backbone",
    "build_image_head",
    "load_moco_weights",
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
        """Features of images; see `satclip_model.image_encoder.image_input` for scale, bands and size."""


def build_image_backbone(config: ImageBackboneConfig) -> nn.Module:
    """The untrained backbone that a configuration describes; see `ImageBackbone`."""
    if isinstance(config, RandomFeaturesConfig):
        return RandomConvolutionalFeatures(config)
    if isinstance(config, MoCoConfig):
        return MoCoBackbone(config)
    if isinstance(config, VisionTransformerConfig):
        return VisionTransformer(config)
    return ModifiedResNet(config)


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
