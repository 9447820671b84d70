"""The image tower: a backbone, frozen or not, and a head."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import ImageBackboneConfig, ImageHeadConfig
from satclip_model.image_encoder import build_image_backbone, build_image_head

_FROZEN_BATCH: Final = 64


class ImageTower(nn.Module):
    """Image backbone with a head that gives embeddings.

    Args:
        backbone: Settings of the backbone.
        head: Settings of the head.
        embedding_dim: Length of an embedding.
    """

    def __init__(self, backbone: ImageBackboneConfig, head: ImageHeadConfig, embedding_dim: int) -> None:
        super().__init__()
        self.image_backbone = build_image_backbone(backbone)
        self.image_projection = build_image_head(head, backbone.feature_dim, embedding_dim)

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
