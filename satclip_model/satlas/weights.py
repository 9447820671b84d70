"""Published weights into the models they are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from satclip_model.checkpoint.archive import read_archive
from satclip_model.checkpoint.weights import load_weights
from satclip_model.errors import CheckpointError
from satclip_model.hub import resolve
from satclip_model.satlas.config import HeadConfig, SatlasConfig, pretrained_config
from satclip_model.satlas.model import SatlasModel, build_satlas

HUB_REPOSITORY: Final = "allenai/satlas-pretrain"
_DISTRIBUTED_PREFIX: Final = "module."
_SHARED: Final = ("backbone.", "intermediates.0.")
_UPSAMPLING: Final = "intermediates.1."


def load_satlas_weights(model: SatlasModel, path: Path) -> None:
    """Puts the weights of a whole model, as published or written by ``torch.save(model.state_dict())``, into it.

    Raises:
        CheckpointError: The file cannot be read, or is of another model; what both are is said.
    """
    state = read_satlas_state(path)
    _require_pairing(path, model, state)
    load_weights(path, model, state)


def load_pretrained(
    name: str,
    heads: tuple[HeadConfig, ...],
    *,
    num_images: int | None = None,
    path: Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> SatlasModel:
    """New heads over a backbone and pyramid that were pre-trained on SatlasPretrain.

    Args:
        name: One of `PRETRAINED`.
        heads: What to predict.
        num_images: Images of a sample; by default 8 for weights of several images, else 1.
        path: File of the weights; None takes it from the Hugging Face Hub.
        download: Whether a file that is not in the Hub's cache may be fetched.
        seed: Of the weights of the heads.

    Raises:
        CheckpointError: The weights are not there, cannot be read, or are of another backbone.
        ValueError: There are no weights of that name, or they are of one image and several are wanted.
    """
    config = pretrained_config(name, heads, num_images)
    if path is None:
        path = resolve(f"{HUB_REPOSITORY}:{name.lower()}.pth", download=download)
    model = build_satlas(config, seed)
    state = read_satlas_state(path)
    shared = {key: tensor for key, tensor in state.items() if key.startswith(_SHARED)}
    if not shared:
        raise CheckpointError(f"{path}: no weights under backbone. and intermediates.0.; expected those of {name}")
    _require_pairing(path, model, shared)
    parts = nn.ModuleDict({"backbone": model.backbone, "intermediates": nn.ModuleList([model.intermediates[0]])})
    load_weights(path, parts, shared)
    upsampling = {key: tensor for key, tensor in state.items() if key.startswith(_UPSAMPLING)}
    if upsampling:
        own = model.intermediates[1]
        load_weights(path, own, {key.removeprefix(_UPSAMPLING): tensor for key, tensor in upsampling.items()})
    return model


def read_satlas_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without the prefix that distributed training leaves.

    Raises:
        CheckpointError: The file cannot be read, or holds no tensors by name.
    """
    content = read_archive(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(each, Tensor) for each in content.values()):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, expected tensors by name")
    return {str(name).removeprefix(_DISTRIBUTED_PREFIX): tensor for name, tensor in content.items()}


def describe_state(state: Mapping[str, Tensor]) -> str:
    """What weights are of, in a few words: backbone, channels, whether of several images, and heads."""
    return ", ".join([_describe_backbone(state), *_describe_heads(state)])


def describe_config(config: SatlasConfig) -> str:
    """What a configuration asks for, in the words of `describe_state`."""
    with torch.device("meta"):
        return describe_state(SatlasModel(config).state_dict())


def _describe_backbone(state: Mapping[str, Tensor]) -> str:
    for images, prefix in (("several images", "backbone.backbone."), ("one image", "backbone.")):
        swin, resnet = f"{prefix}backbone.features.0.0.weight", f"{prefix}resnet.conv1.weight"
        if swin in state:
            return f"Swin of width {state[swin].shape[0]}, {state[swin].shape[1]} channels, {images}"
        if resnet in state:
            blocks = [key for key in state if key.startswith(f"{prefix}resnet.layer") and key.endswith("conv1.weight")]
            return f"ResNet of {len(blocks)} blocks, {state[resnet].shape[1]} channels, {images}"
    return "no known backbone"


def _describe_heads(state: Mapping[str, Tensor]) -> list[str]:
    heads: list[str] = []
    while any(key.startswith(f"heads.{len(heads)}.") for key in state):
        prefix = f"heads.{len(heads)}."
        boxes, labels, maps = (
            state.get(f"{prefix}{name}")
            for name in ("roi_heads.box_predictor.cls_score.weight", "extra.weight", "layers.1.weight")
        )
        if boxes is not None:
            heads.append(f"detection of {boxes.shape[0] - 1} categories")
        elif labels is not None:
            heads.append(f"classification into {labels.shape[0]} categories")
        elif maps is not None:
            heads.append(f"maps of {maps.shape[0]} outputs")
        else:
            heads.append("an unknown head")
    return heads


def _require_pairing(path: Path, model: SatlasModel, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    has_heads = any(name.startswith("heads.") for name in state)
    expected = describe_state(own) if has_heads else _describe_backbone(own)
    found = describe_state(state)
    if found != expected:
        raise CheckpointError(
            f"{path}: weights of {found}, but the configuration asks for {expected}; choose the configuration that "
            "belongs to the weights, or the weights that belong to the task"
        )
