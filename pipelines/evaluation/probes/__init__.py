"""Ways to predict a target from features, on places that they were not fitted to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pipelines.evaluation.probes.base import Kind, OutOfFold, Probe, Target
from pipelines.evaluation.probes.interpolation import InverseDistance
from pipelines.evaluation.probes.mlp import SmallMLP
from pipelines.evaluation.probes.neighbors import NearestNeighbors
from pipelines.evaluation.probes.ridge import ALPHAS, RidgeProbe

PROBES: Final[Mapping[str, Probe]] = MappingProxyType(
    {"ridge": RidgeProbe(), "knn": NearestNeighbors(), "mlp": SmallMLP()}
)
"""Probes on features, by name."""

__all__ = [
    "ALPHAS",
    "PROBES",
    "InverseDistance",
    "Kind",
    "NearestNeighbors",
    "OutOfFold",
    "Probe",
    "RidgeProbe",
    "SmallMLP",
    "Target",
]
