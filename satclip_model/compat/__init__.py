"""The original's names with the original's signatures, over this package's modules.

Code written for microsoft/satclip runs with ``from satclip_model.compat import *`` in place of its imports of
``model``, ``location_encoder``, ``load``, ``load_lightweight``, ``loss`` and ``main``; as from the original, ``torch``
comes with it. Weights have the original's names, so that its checkpoints load with ``load_state_dict``, and ours load
in it.

Unlike the original, a ``moco_*`` image tower starts with random weights, and nothing is downloaded; the harmonics are
exact at the poles; the file of a checkpoint is never unpickled blindly. As in the original, sine layers have a dropout
of 0.5 until ``eval()`` is called.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.checkpoint.loading import load_location_encoder, load_model
from satclip_model.checkpoint.official import official_parts
from satclip_model.checkpoint.official_settings import (
    MODULE_ARGUMENTS,
    config_from_hyper_parameters,
)
from satclip_model.compat.location import (
    LocationEncoder,
    PositionalEncoding,
    build_sized_encoding,
    get_neural_network,
    get_positional_encoding,
)
from satclip_model.config import MoCoConfig, SatCLIPConfig
from satclip_model.errors import CheckpointError
from satclip_model.image_encoder import build_image_backbone
from satclip_model.location_network import build_location_network
from satclip_model.loss import symmetric_cross_entropy
from satclip_model.satclip import INITIAL_TEMPERATURE

if TYPE_CHECKING:
    from satclip_model.compat.training import SatCLIPLightningModule

__all__ = [
    "LocationEncoder",
    "PositionalEncoding",
    "SatCLIP",
    "SatCLIPLightningModule",
    "SatCLIPLoss",
    "get_neural_network",
    "get_positional_encoding",
    "get_satclip",
    "get_satclip_loc_encoder",
    "torch",
]

_TRAINING_ARGUMENTS: Final = {"learning_rate", "weight_decay"}
_MODEL_PREFIX: Final = "model."


class SatCLIP(nn.Module):
    """Both towers; ``logits_per_image, logits_per_coord = model(images, coords)``.

    ``visual`` is the image tower with its last layer, float32; ``location`` is ``posenc`` and ``nnet``, float64.

    Args:
        embed_dim: Length of an embedding.
        image_resolution: Side of an image in pixels; not used by ``moco_*``.
        vision_layers: Transformer blocks; or bottleneck blocks of the four stages of a modified ResNet; or
            ``moco_resnet18``, ``moco_resnet50``, ``moco_vit16`` (13 channels, frozen but for the last layer).
        vision_width: Width of the image tower; not used by ``moco_*``.
        vision_patch_size: Side of a token in pixels; used by transformers.
        in_channels: Channels of an image; not used by ``moco_*``.
        le_type: Positional encoding: ``sphericalharmonics``, ``direct``, ``cartesian3d``, ``wrap``, ``theory``,
            ``grid``, ``spherec``, ``spherecplus``, ``spherem`` or ``spheremplus``.
        pe_type: Network behind it: ``siren``, ``fcnet``, ``mlp`` or ``linear``.
        frequency_num: Frequencies of ``theory`` to ``spheremplus``.
        max_radius: Their largest divisor of degrees.
        min_radius: Their smallest divisor of degrees.
        harmonics_calculation: ``analytic``, ``closed-form`` or ``discretized``.
        legendre_polys: Degrees of the harmonics.
        sh_embedding_dims: Without effect, as in the original.
        ffn: Without effect, as in the original.
        num_hidden_layers: Hidden layers of ``siren`` and ``mlp``.
        capacity: Width of the network.

    Raises:
        ValueError: Arguments that describe no model of the original.
    """

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: tuple[int, int, int, int] | int | str,
        vision_width: int,
        vision_patch_size: int,
        in_channels: int,
        le_type: str,
        pe_type: str,
        frequency_num: int,
        max_radius: float,
        min_radius: float,
        harmonics_calculation: str,
        legendre_polys: int = 10,
        sh_embedding_dims: int = 16,
        ffn: bool = True,
        num_hidden_layers: int = 2,
        capacity: int = 256,
    ) -> None:
        super().__init__()
        del sh_embedding_dims, ffn
        config = _config(
            {
                "embed_dim": embed_dim,
                "image_resolution": image_resolution,
                "vision_layers": vision_layers,
                "vision_width": vision_width,
                "vision_patch_size": vision_patch_size,
                "in_channels": in_channels,
                "le_type": le_type,
                "pe_type": pe_type,
                "frequency_num": frequency_num,
                "max_radius": max_radius,
                "min_radius": min_radius,
                "harmonics_calculation": harmonics_calculation,
                "legendre_polys": legendre_polys,
                "num_hidden_layers": num_hidden_layers,
                "capacity": capacity,
            }
        )
        self.visual = _build_visual(config)
        encoding = config.location.positional_encoding
        self.posenc = build_sized_encoding(encoding).double()
        self.nnet = build_location_network(
            config.location.network, in_dim=encoding.encoding_dim, out_dim=embed_dim
        ).double()
        self.location = LocationEncoder(self.posenc, self.nnet)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights of the image tower."""
        return next(self.visual.parameters()).dtype

    def encode_image(self, image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of images (reflectance, nominally 0 to 1), not normalised."""
        embeddings: Tensor = self.visual(image.type(self.dtype))
        return embeddings

    def encode_location(self, coords: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of places (degrees, longitude first), not normalised, float64."""
        embeddings: Tensor = self.location(coords.double())
        return embeddings

    def forward(
        self, image: Float[Tensor, "batch channel height width"], coords: Float[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch"]]:
        """Scaled cosine similarities of each image with all places, and of each place with all images."""
        images = functional.normalize(self.encode_image(image), dim=1)
        locations = functional.normalize(self.encode_location(coords).float(), dim=1)
        logits_per_image = self.logit_scale.exp() * images @ locations.t()
        return logits_per_image, logits_per_image.t()


class SatCLIPLoss(nn.Module):
    """Mean of the cross entropies image to place and place to image.

    Args:
        local_loss: Only False; the original labels columns that its logits do not have.
        cache_labels: Only False; labels are made where the logits are.
        rank: Only 0.
        world_size: Only 1; every process has the logits of its own batch.

    Raises:
        ValueError: Another value than the default.
    """

    def __init__(
        self, local_loss: bool = False, cache_labels: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__()
        if local_loss or cache_labels or rank or world_size != 1:
            raise ValueError(
                f"local_loss={local_loss}, cache_labels={cache_labels}, rank={rank}, world_size={world_size}: only the "
                "defaults have an effect in the original that is right; leave them out"
            )

    def forward(
        self,
        logits_per_image: Float[Tensor, "batch batch"],
        logits_per_coord: Float[Tensor, "batch batch"],
        output_dict: bool = False,
    ) -> Float[Tensor, ""] | dict[str, Float[Tensor, ""]]:
        """The loss; with ``output_dict`` under the key ``contrastive_loss``."""
        loss = symmetric_cross_entropy(logits_per_image, logits_per_coord)
        return {"contrastive_loss": loss} if output_dict else loss


def get_satclip(
    ckpt_path: str | Path, device: str | torch.device, return_all: bool = False
) -> SatCLIP | LocationEncoder:
    """The location encoder of a checkpoint, or with ``return_all`` both towers, in evaluation mode.

    Args:
        ckpt_path: As ``source`` of `satclip_model.load_model`; nothing is downloaded.
        device: Where the weights go.
        return_all: Whether the image tower is wanted too.

    Raises:
        CheckpointError: As for `satclip_model.load_model`.
        ValueError: A model of ours that the original does not have.
    """
    if not return_all:
        return get_satclip_loc_encoder(ckpt_path, device)
    _, hyper_parameters, state = official_parts(load_model(ckpt_path)[0])
    arguments = {name: hyper_parameters[name] for name in MODULE_ARGUMENTS if name not in _TRAINING_ARGUMENTS}
    model = SatCLIP(**arguments)
    model.load_state_dict({name.removeprefix(_MODEL_PREFIX): tensor for name, tensor in state.items()})
    return model.to(device).eval()


def get_satclip_loc_encoder(ckpt_path: str | Path, device: str | torch.device) -> LocationEncoder:
    """The location encoder of a checkpoint, float64, in evaluation mode; its image tower may be missing.

    Args:
        ckpt_path: As ``source`` of `satclip_model.load_location_encoder`; nothing is downloaded.
        device: Where the weights go.

    Raises:
        CheckpointError: As for `satclip_model.load_location_encoder`.
    """
    encoder = load_location_encoder(ckpt_path)
    dim = encoder.config.positional_encoding.encoding_dim
    posenc = PositionalEncoding(encoder.positional_encoding, dim)
    return LocationEncoder(posenc, encoder.location_network).double().to(device).eval()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Imports Lightning only for the module that needs it."""
    if name == "SatCLIPLightningModule":
        from satclip_model.compat.training import SatCLIPLightningModule

        return SatCLIPLightningModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _config(arguments: dict[str, Any]) -> SatCLIPConfig:
    try:
        return config_from_hyper_parameters(arguments)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def _build_visual(config: SatCLIPConfig) -> nn.Module:
    """The image tower under the original's names; of ``moco_*`` timm's network with a new last layer."""
    backbone = build_image_backbone(config.image_backbone)
    if not isinstance(config.image_backbone, MoCoConfig):
        return backbone
    network: Any = backbone.network
    network.requires_grad_(False)
    network.reset_classifier(config.embedding_dim)
    visual: nn.Module = network.train()
    return visual
