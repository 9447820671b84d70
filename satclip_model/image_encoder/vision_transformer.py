"""The vision transformer of CLIP over multispectral images."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import VisionTransformerConfig
from satclip_model.image_encoder.image_input import require_size
from satclip_model.image_encoder.learned import LearnedImageBackbone

_HEAD_DIM = 64
_MLP_RATIO = 4
_QUICK_GELU_FACTOR = 1.702


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x).

    Source: Hendrycks and Gimpel (2016), Gaussian error linear units, section 2.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The activation, element by element."""
        return x * torch.sigmoid(_QUICK_GELU_FACTOR * x)


class AttentionBlock(nn.Module):
    """Self-attention and a two-layer network, each after layer normalisation and added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // _HEAD_DIM, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, _MLP_RATIO * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(_MLP_RATIO * width, width),
            )
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Tokens after the block."""
        normalised = self.ln_1(tokens)
        tokens = tokens + self.attn(normalised, normalised, normalised, need_weights=False)[0]
        mixed: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return mixed


class VisionTransformer(LearnedImageBackbone[VisionTransformerConfig]):
    """Square tokens of an image, transformer blocks, and a projection of the class token.

    Parameters have the names of the original: ``conv1``, ``class_embedding``, ``positional_embedding``, ``ln_pre``,
    ``transformer.resblocks.i``, ``ln_post`` and ``proj``. Pixels beyond the last whole token are not seen.

    Source: Radford et al. (2021), Learning transferable visual models from natural language supervision, section 2.4.
    """

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__(config)
        width, num_tokens = config.width, (config.image_size // config.patch_size) ** 2
        scale = width**-0.5
        self.conv1 = nn.Conv2d(
            config.in_channels, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(num_tokens + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        blocks = nn.Sequential(*(AttentionBlock(width) for _ in range(config.num_layers)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.output_dim))
        self.freeze_unless_trainable()

    def encode(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of images that have the channels and the type of the weights."""
        require_size(reflectance, self.config.image_size)
        patches = self.conv1(reflectance).flatten(start_dim=2).transpose(1, 2)
        class_tokens = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([class_tokens, patches], dim=1) + self.positional_embedding)
        tokens = self.transformer["resblocks"](tokens)
        features: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return features
