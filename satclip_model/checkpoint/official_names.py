"""Names of the weights in the original's checkpoints, and the same weights under ours.

The original keeps ``model.logit_scale``, the image tower with its last layer as ``model.visual.*``, and one location
network under two names, ``model.nnet.*`` and ``model.location.nnet.*``. Positional encodings have no weights.

Source: microsoft/satclip, model.py (SatCLIP) and main.py (SatCLIPLightningModule).
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from satclip_model.checkpoint.weights import location_weights
from satclip_model.config import MoCoConfig, ModifiedResNetConfig, SatCLIPConfig, VisionTransformerConfig
from satclip_model.errors import CheckpointError

__all__ = ["from_official", "location_from_official", "location_to_official", "to_official"]

_OFFICIAL_SCALE: Final = "model.logit_scale"
_OFFICIAL_VISUAL: Final = "model.visual."
_OFFICIAL_NETWORKS: Final = ("model.nnet.", "model.location.nnet.")
_SCALE: Final = "logit_scale"
_BACKBONE: Final = "image_backbone."
_MOCO_NETWORK: Final = "image_backbone.network."
_HEAD: Final = "image_projection."
_LINEAR: Final = "image_projection.layers.1."
_LOCATION: Final = "location_encoder."
_NETWORK: Final = "location_network."


def from_official(config: SatCLIPConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the original under our names, in the types they have.

    The standardisation of a linear head becomes the identity. Weights that ``state`` lacks stay missing: a file of the
    location tower alone gives the location tower alone.

    Args:
        config: Settings whose image tower the original can hold; see `to_official`.
        state: The original's ``state_dict``, names with ``model.``.

    Raises:
        CheckpointError: A name that is none of the original's, or two location networks that differ.
        ValueError: Settings that the original cannot hold.
    """
    _require_expressible(config)
    ours = {f"{_LOCATION}{name}": tensor for name, tensor in location_from_official(state).items()}
    for name, tensor in state.items():
        if name == _OFFICIAL_SCALE:
            ours[_SCALE] = tensor
        elif name.startswith(_OFFICIAL_VISUAL):
            ours[_image_name(config, name.removeprefix(_OFFICIAL_VISUAL))] = tensor
        elif not name.startswith(_OFFICIAL_NETWORKS):
            raise CheckpointError(
                f"weight {name} is none of the original's; expected {_OFFICIAL_SCALE}, {_OFFICIAL_VISUAL}* and "
                f"{'* or '.join(_OFFICIAL_NETWORKS)}*"
            )
    weight = ours.get(f"{_LINEAR}weight")
    if weight is not None:
        ours[f"{_HEAD}feature_mean"] = weight.new_zeros(weight.shape[-1])
        ours[f"{_HEAD}feature_scale"] = weight.new_ones(weight.shape[-1])
    return ours


def to_official(config: SatCLIPConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names of the original: the location network in float64 and under both of its names.

    The standardisation of the features is folded into the linear layer, and the bound on the temperature into
    ``logit_scale``, so that the original computes what our model computes.

    Args:
        config: Settings of the model.
        state: The ``state_dict`` of its `SatCLIP`.

    Raises:
        ValueError: Settings that the original cannot hold: frozen random features, a MoCo network of other than 13
            channels, a head with a hidden layer, or a head after a CLIP encoder.
    """
    _require_expressible(config)
    bound = -math.log(config.min_temperature) if config.min_temperature > 0 else None
    official = {_OFFICIAL_SCALE: state[_SCALE] if bound is None else state[_SCALE].clamp(max=bound)}
    prefix = _MOCO_NETWORK if isinstance(config.image_backbone, MoCoConfig) else _BACKBONE
    for name, tensor in state.items():
        if name.startswith(prefix):
            official[f"{_OFFICIAL_VISUAL}{name.removeprefix(prefix)}"] = tensor
    if isinstance(config.image_backbone, MoCoConfig):
        weight, bias = _fold_standardisation(state)
        official[f"{_OFFICIAL_VISUAL}{_head_name(config.image_backbone)}weight"] = weight
        official[f"{_OFFICIAL_VISUAL}{_head_name(config.image_backbone)}bias"] = bias
    return official | location_to_official(location_weights(state))


def location_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `LocationEncoder` among those of the original; either of the two names of a weight is enough.

    Raises:
        CheckpointError: Both names are there and their weights differ.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        family = next((prefix for prefix in _OFFICIAL_NETWORKS if name.startswith(prefix)), None)
        if family is None:
            continue
        key = f"{_NETWORK}{name.removeprefix(family)}"
        if key in ours and not _same(ours[key], tensor):
            raise CheckpointError(
                f"weight {name} differs from its other copy, {' or '.join(_OFFICIAL_NETWORKS)}; the original has one "
                "location network under both names, so the file is not one of its checkpoints"
            )
        ours.setdefault(key, tensor)
    return ours


def location_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `LocationEncoder` under both names of the original, float64; both names share their memory."""
    official = {}
    for name, tensor in state.items():
        if name.startswith(_NETWORK):
            exact = tensor.double()
            for prefix in _OFFICIAL_NETWORKS:
                official[f"{prefix}{name.removeprefix(_NETWORK)}"] = exact
    return official


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(
        first.double(), second.double(), rtol=0, atol=0, equal_nan=True
    )


def _image_name(config: SatCLIPConfig, visual_name: str) -> str:
    if not isinstance(config.image_backbone, MoCoConfig):
        return f"{_BACKBONE}{visual_name}"
    head = _head_name(config.image_backbone)
    if visual_name.startswith(head):
        return f"{_LINEAR}{visual_name.removeprefix(head)}"
    return f"{_MOCO_NETWORK}{visual_name}"


def _head_name(backbone: MoCoConfig) -> str:
    return "head." if backbone.kind == "moco_vit16" else "fc."


def _fold_standardisation(state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    mean, scale = state[f"{_HEAD}feature_mean"].double(), state[f"{_HEAD}feature_scale"].double()
    weight, bias = state[f"{_LINEAR}weight"], state[f"{_LINEAR}bias"]
    folded = weight.double() / scale
    return folded.to(weight.dtype), (bias.double() - folded @ mean).to(bias.dtype)


def _require_expressible(config: SatCLIPConfig) -> None:
    backbone, head = config.image_backbone, config.image_head
    if isinstance(backbone, MoCoConfig):
        if backbone.in_channels != 13:
            raise ValueError(f"the original's {backbone.kind} has 13 channels; this model has {backbone.in_channels}")
        if head.kind != "projection" or head.hidden_dim:
            raise ValueError(
                f"the original's {backbone.kind} ends in one linear layer; the head of this model is {head.kind!r} "
                f"with hidden_dim {head.hidden_dim}; train one with kind 'projection' and hidden_dim 0"
            )
    elif isinstance(backbone, VisionTransformerConfig | ModifiedResNetConfig):
        if head.kind != "identity":
            raise ValueError(f"the original has no layer after {backbone.kind}; this model has a head {head.kind!r}")
    else:
        raise ValueError(
            f"the original has no image tower {backbone.kind!r}; write the location tower alone, or train a model "
            "with a MoCo or CLIP image tower"
        )
