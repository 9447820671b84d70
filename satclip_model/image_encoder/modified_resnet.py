"""The modified ResNet of CLIP over multispectral images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import ModifiedResNetConfig
from satclip_model.image_encoder.image_input import require_size
from satclip_model.image_encoder.learned import LearnedImageBackbone

_EXPANSION = 4
_STRIDE = 32
_HEAD_DIM = 64


class Bottleneck(nn.Module):
    """Three convolutions with a skip; a stride averages before the third convolution and before that of the skip."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * channels
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(
        self, maps: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        """Maps after the block."""
        branch = functional.relu(self.bn1(self.conv1(maps)))
        branch = functional.relu(self.bn2(self.conv2(branch)))
        if self.stride > 1:
            branch, maps = functional.avg_pool2d(branch, self.stride), functional.avg_pool2d(maps, self.stride)
        return functional.relu(self.bn3(self.conv3(branch)) + self.downsample(maps))


class AttentionPool(nn.Module):
    """Attention of the mean over the cells of a map to the cells and itself: one vector per map.

    Weights of the four projections start normal with standard deviation 1/sqrt(width).
    """

    def __init__(self, num_cells: int, width: int, out_dim: int) -> None:
        super().__init__()
        self.num_heads = width // _HEAD_DIM
        self.positional_embedding = nn.Parameter(torch.randn(num_cells + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, maps: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """One vector per map."""
        cells = maps.flatten(start_dim=2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + self.positional_embedding
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens))
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        pooled: Tensor = self.c_proj(attended.flatten(start_dim=1))
        return pooled


class ModifiedResNet(LearnedImageBackbone[ModifiedResNetConfig]):
    """A stem of three convolutions, four stages of bottleneck blocks, and attention pooling.

    Parameters have the names of the original: ``conv1`` to ``bn3``, ``layer1`` to ``layer4`` and ``attnpool``. The last
    normalisation of every block starts with weight 0, so that each block starts as its skip.

    Source: Radford et al. (2021), Learning transferable visual models from natural language supervision, section 2.4.
    """

    def __init__(self, config: ModifiedResNetConfig) -> None:
        super().__init__(config)
        width = config.width
        self.conv1 = nn.Conv2d(config.in_channels, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        first, second, third, fourth = config.num_blocks
        self.layer1 = _build_stage(width, width, first, stride=1)
        self.layer2 = _build_stage(4 * width, 2 * width, second, stride=2)
        self.layer3 = _build_stage(8 * width, 4 * width, third, stride=2)
        self.layer4 = _build_stage(16 * width, 8 * width, fourth, stride=2)
        self.attnpool = AttentionPool((config.image_size // _STRIDE) ** 2, 32 * width, config.output_dim)
        self.freeze_unless_trainable()

    def encode(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of images that have the channels and the type of the weights."""
        require_size(reflectance, self.config.image_size)
        maps = reflectance
        for convolution, normalisation in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            maps = functional.relu(normalisation(convolution(maps)))
        maps = functional.avg_pool2d(maps, 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        features: Tensor = self.attnpool(maps)
        return features


def _build_stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    return nn.Sequential(first, *(Bottleneck(_EXPANSION * channels, channels, 1) for _ in range(num_blocks - 1)))
