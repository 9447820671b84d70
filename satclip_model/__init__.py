"""SatCLIP in PyTorch: positional encodings, towers, losses and checkpoints.

Places are (n, 2) tensors ``lonlat_deg`` of degrees, longitude first; images are (n, 12, height, width) reflectance,
nominally 0 to 1, bands in S2-100K's order. Names are imported when they are first used, and PyTorch with them.

>>> import torch
>>> from satclip_model import load_location_encoder
>>> encoder = load_location_encoder("microsoft/SatCLIP-ViT16-L40", download=True)
>>> embeddings = encoder(torch.tensor([[13.4, 52.5]], dtype=torch.float64))  # (1, 256), not normalised
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from satclip_model.checkpoint.loading import load_location_encoder, load_model
    from satclip_model.checkpoint.native import write_checkpoint
    from satclip_model.checkpoint.official import write_official_checkpoint
    from satclip_model.checkpoint.safetensors import write_safetensors
    from satclip_model.config import (
        CoordinatesConfig,
        FCNetConfig,
        ImageHeadConfig,
        LinearConfig,
        LocationEncoderConfig,
        MLPConfig,
        MoCoConfig,
        ModifiedResNetConfig,
        MultiScaleConfig,
        RandomFeaturesConfig,
        SatCLIPConfig,
        SirenConfig,
        SphericalHarmonicsConfig,
        VisionTransformerConfig,
    )
    from satclip_model.errors import CheckpointError, DivergenceError
    from satclip_model.image_encoder.moco import load_moco_weights
    from satclip_model.lightning_module import OptimizationSettings, SatCLIPLightningModule
    from satclip_model.location_encoder import LocationEncoder, build_location_encoder
    from satclip_model.loss import contrastive_loss
    from satclip_model.onnx_export.export import export_onnx
    from satclip_model.satclip import SatCLIP, build_satclip

__all__ = [
    "CheckpointError", "CoordinatesConfig", "DivergenceError", "FCNetConfig", "ImageHeadConfig", "LinearConfig",
    "LocationEncoder", "LocationEncoderConfig", "MLPConfig", "MoCoConfig", "ModifiedResNetConfig", "MultiScaleConfig",
    "OptimizationSettings", "RandomFeaturesConfig", "SatCLIP", "SatCLIPConfig", "SatCLIPLightningModule",
    "SirenConfig", "SphericalHarmonicsConfig", "VisionTransformerConfig", "build_location_encoder", "build_satclip",
    "contrastive_loss", "export_onnx", "load_location_encoder", "load_moco_weights", "load_model", "write_checkpoint",
    "write_official_checkpoint", "write_safetensors",
]  # fmt: skip

_NAMES: Final = {
    "checkpoint.loading": ("load_location_encoder", "load_model"),
    "checkpoint.native": ("write_checkpoint",),
    "checkpoint.official": ("write_official_checkpoint",),
    "checkpoint.safetensors": ("write_safetensors",),
    "config": (
        "CoordinatesConfig", "FCNetConfig", "ImageHeadConfig", "LinearConfig", "LocationEncoderConfig", "MLPConfig",
        "MoCoConfig", "ModifiedResNetConfig", "MultiScaleConfig", "RandomFeaturesConfig", "SatCLIPConfig",
        "SirenConfig", "SphericalHarmonicsConfig", "VisionTransformerConfig",
    ),
    "errors": ("CheckpointError", "DivergenceError"),
    "image_encoder.moco": ("load_moco_weights",),
    "lightning_module": ("OptimizationSettings", "SatCLIPLightningModule"),
    "location_encoder": ("LocationEncoder", "build_location_encoder"),
    "loss": ("contrastive_loss",),
    "onnx_export.export": ("export_onnx",),
    "satclip": ("SatCLIP", "build_satclip"),
}  # fmt: skip
_MODULES: Final = MappingProxyType({name: module for module, names in _NAMES.items() for name in names})


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
