"""Satlas: features of several images of a place, pooled over time, and heads that detect, segment and regress."""

from satclip_model.satlas.config import (
    EXPLORER_CONFIGS,
    PRETRAINED,
    ClassificationConfig,
    DetectionConfig,
    RegressionConfig,
    SatlasConfig,
    SegmentationConfig,
)
from satclip_model.satlas.model import SatlasModel, build_satlas
from satclip_model.satlas.weights import load_pretrained, load_satlas_weights

__all__ = [
    "EXPLORER_CONFIGS",
    "PRETRAINED",
    "ClassificationConfig",
    "DetectionConfig",
    "RegressionConfig",
    "SatlasConfig",
    "SatlasModel",
    "SegmentationConfig",
    "build_satlas",
    "load_pretrained",
    "load_satlas_weights",
]
