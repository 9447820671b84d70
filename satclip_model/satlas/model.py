"""Backbone, pyramid and heads in one module."""

from collections.abc import Sequence
from typing import Any, Final, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from satclip_model.satlas.backbone import STRIDES, SwinBackbone, build_backbone
from satclip_model.satlas.config import SatlasConfig
from satclip_model.satlas.heads import DetectionHead, build_head
from satclip_model.satlas.pyramid import Pyramid, Upsampling

_MULTIPLE: Final = STRIDES[-1]


class SatlasModel(nn.Module):
    """Predictions from the images of a place; parameters have the names of the public weights.

    Attributes:
        config: What it is made of.

    Source: Bastani et al. (2023), SatlasPretrain: A large-scale dataset for remote sensing image understanding, ICCV.
    """

    def __init__(self, config: SatlasConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.intermediates = nn.ModuleList(
            [Pyramid(self.backbone.map_dims, config.pyramid_dim), Upsampling(config.pyramid_dim)]
        )
        self.heads = nn.ModuleList(build_head(each, config.pyramid_dim) for each in config.heads)

    def for_inference(self) -> Self:
        """This model in evaluation mode, arranged to be fast: the same predictions but for rounding."""
        for module in self.backbone.modules():
            if isinstance(module, SwinBackbone):
                module.in_groups = True
        self.intermediates.to(memory_format=torch.channels_last)
        self.heads.to(memory_format=torch.channels_last)
        return self.eval()

    def encode(
        self,
        images: Float[Tensor, "batch image channel height width"],
        present: Bool[Tensor, "batch image"] | None = None,
    ) -> list[Tensor]:
        """Five maps of ``pyramid_dim`` channels: at full resolution, 1/4, 1/8, 1/16 and 1/32.

        Args:
            images: Channels from 0 to 1 in the order of ``MULTISPECTRAL_CHANNELS`` or ``RGB_CHANNELS``; height and
                width are multiples of 32.
            present: Which images are there; all if None. The others count for nothing.

        Raises:
            ValueError: Another number of channels or more images than the configuration says, another size, or a
                sample without an image.
        """
        maps = self._pyramid(images, present)
        return list(self.intermediates[1](maps))

    def _pyramid(self, images: Tensor, present: Tensor | None) -> list[Tensor]:
        self._require(images, present)
        maps = self.backbone(images, present) if self.config.temporal else self.backbone(images[:, 0])
        return list(self.intermediates[0](maps))

    def _maps(self, images: Tensor, present: Tensor | None) -> list[Tensor]:
        """As `encode`; where only detections are made, the finest map stands for the one at full resolution."""
        if all(isinstance(head, DetectionHead) for head in self.heads):
            maps = self._pyramid(images, present)
            return [maps[0], *maps]
        return self.encode(images, present)

    def forward(
        self,
        images: Float[Tensor, "batch image channel height width"],
        present: Bool[Tensor, "batch image"] | None = None,
    ) -> list[Any]:
        """Predictions of each head; see `encode` for the arguments and `satlas.heads` for what each gives."""
        maps = self._maps(images, present)
        return [head(images[:, 0], maps) for head in self.heads]

    def losses(
        self,
        images: Float[Tensor, "batch image channel height width"],
        targets: Sequence[Any],
        present: Bool[Tensor, "batch image"] | None = None,
    ) -> list[Tensor]:
        """The loss of each head, given its targets."""
        maps = self._maps(images, present)
        return [
            head.loss(images[:, 0], maps, target)  # type: ignore[operator]
            for head, target in zip(self.heads, targets, strict=True)
        ]

    def _require(self, images: Tensor, present: Tensor | None) -> None:
        config = self.config
        if images.ndim != 5 or images.shape[2] != config.num_channels or not 1 <= images.shape[1] <= config.num_images:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; expected (batch, 1 to {config.num_images} images, "
                f"{config.num_channels} channels, height, width)"
            )
        if any(size % _MULTIPLE or not size for size in images.shape[-2:]):
            raise ValueError(
                f"images are {images.shape[-2]} x {images.shape[-1]} pixels; expected multiples of {_MULTIPLE}: crop "
                "or pad them"
            )
        if present is None:
            return
        if present.shape != images.shape[:2] or not bool(present.any(1).all()):
            raise ValueError(
                f"present has shape {tuple(present.shape)} and {int((~present.any(-1)).sum())} samples without an "
                f"image; expected shape {tuple(images.shape[:2])} and an image in each sample: leave such samples out"
            )


def build_satlas(config: SatlasConfig, seed: int = 0) -> SatlasModel:
    """An untrained model; the same seed gives the same weights, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SatlasModel(config)
