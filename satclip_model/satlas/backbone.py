"""Networks that turn an image into maps at four resolutions, and their pooling over the images of a sample."""

from typing import Final

import torch
import torchvision
from jaxtyping import Bool, Float
from torch import Tensor, nn

from satclip_model.satlas.config import BackboneKind, SatlasConfig
from satclip_model.satlas.swin_groups import fits_groups, run_stage

STRIDES: Final = (4, 8, 16, 32)
"""Pixels of the image per pixel of each map, from the finest to the coarsest."""

_STAGES: Final = (1, 3, 5, 7)


class SwinBackbone(nn.Module):
    """Swin Transformer V2 of torchvision with a first convolution for any number of channels.

    Attributes:
        map_dims: Channels of the four maps.
        in_groups: Whether stages go through `swin_groups.run_stage` where they can: on a processor, in float32,
            without gradients.
    """

    def __init__(self, kind: BackboneKind, num_channels: int) -> None:
        super().__init__()
        self.backbone = getattr(torchvision.models, kind)(weights=None)
        first = self.backbone.features[0][0]
        self.backbone.features[0][0] = nn.Conv2d(num_channels, first.out_channels, kernel_size=4, stride=4)
        self.map_dims = tuple(first.out_channels * 2**stage for stage in range(len(_STAGES)))
        self.in_groups = False

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16 and 1/32 of the image, each (batch, dim, rows, columns)."""
        maps = []
        for index, layer in enumerate(self.backbone.features):
            images = self._stage(layer, images) if index in _STAGES else layer(images)
            if index in _STAGES:
                maps.append(images.permute(0, 3, 1, 2))
        return maps

    def _stage(self, blocks: nn.Sequential, maps: Tensor) -> Tensor:
        plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        in_groups = self.in_groups and plain and not self.training and not torch.is_grad_enabled()
        return run_stage(blocks, maps) if in_groups and fits_groups(blocks, *maps.shape[1:3]) else blocks(maps)


class ResNetBackbone(nn.Module):
    """ResNet of torchvision with a first convolution for any number of channels.

    Attributes:
        map_dims: Channels of the four maps.
    """

    def __init__(self, kind: BackboneKind, num_channels: int) -> None:
        super().__init__()
        self.resnet = getattr(torchvision.models, kind)(weights=None)
        first = self.resnet.conv1
        self.resnet.conv1 = nn.Conv2d(num_channels, first.out_channels, 7, stride=2, padding=3, bias=False)
        self.map_dims = tuple(self.resnet.fc.in_features // 2**back for back in (3, 2, 1, 0))

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16 and 1/32 of the image, each (batch, dim, rows, columns)."""
        network = self.resnet
        maps = [network.maxpool(network.relu(network.bn1(network.conv1(images))))]
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps.append(layer(maps[-1]))
        return maps[1:]


class TemporalBackbone(nn.Module):
    """The largest value over the images of a sample, at each place of each map.

    Images pass through one network as a single batch, so that those of one sample see each other in batch
    normalisation while it trains.
    """

    def __init__(self, backbone: SwinBackbone | ResNetBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.map_dims = backbone.map_dims

    def forward(
        self,
        images: Float[Tensor, "batch image channel height width"],
        present: Bool[Tensor, "batch image"] | None = None,
    ) -> list[Tensor]:
        """Maps of samples; images that are not ``present`` count for nothing, and every sample needs one."""
        batch, count = images.shape[:2]
        if present is None:
            return [each.unflatten(0, (batch, count)).amax(1) for each in self.backbone(images.flatten(0, 1))]
        maps = self.backbone(images[present])
        return [_pool(each, present) for each in maps]


def build_backbone(config: SatlasConfig) -> TemporalBackbone | SwinBackbone | ResNetBackbone:
    """The network of a configuration, with random weights."""
    family = SwinBackbone if config.backbone.startswith("swin") else ResNetBackbone
    backbone = family(config.backbone, config.num_channels)
    return TemporalBackbone(backbone) if config.temporal else backbone


def _pool(maps: Tensor, present: Tensor) -> Tensor:
    spread = maps.new_full((*present.shape, *maps.shape[1:]), -torch.inf)
    spread[present] = maps
    return spread.amax(1)
