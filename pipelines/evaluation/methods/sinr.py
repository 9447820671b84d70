"""SINR's location encoder: what species were observed where, over published weights.

Source: Cole et al. (2023), Spatial implicit neural representations for global-scale species mapping, ICML;
elijahcole/sinr (MIT).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.methods.base import batches
from pipelines.provenance import file_sha256
from satclip_model.checkpoint.archive import read_archive
from satclip_model.errors import CheckpointError
from satclip_model.location_network import FCNet

NUM_INPUTS: Final = 4
HIDDEN_DIM: Final = 256


@dataclass(frozen=True)
class SINR:
    """The 256 numbers before SINR's layer of species.

    Attributes:
        path: A checkpoint of SINR over coordinates alone, without environmental inputs.
        name: Short name in the rows of scores.
    """

    path: Path
    name: str = "sinr"

    @cached_property
    def target(self) -> str:
        """SHA-256 of the weights."""
        return file_sha256(self.path)

    @cached_property
    def encoder(self) -> FCNet:
        """Four residual layers of width 256 over four inputs, and the layer of species, which is not used.

        Raises:
            ArtefactError: The file cannot be read, or is of another network.
        """
        try:
            state = _state(read_archive(self.path))
            network = FCNet(NUM_INPUTS, len(state["class_emb.weight"]), HIDDEN_DIM)
            network.load_state_dict(state)
        except (CheckpointError, RuntimeError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{self.path}: no weights of SINR over coordinates ({error}); expected feats.0.weight (256, 4), "
                "feats.2.w1.weight and on, and class_emb.weight"
            ) from error
        return network.eval()

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features, shape (n, 256)."""
        with torch.inference_mode():
            parts = [self.encoder.feats(sinr_inputs(torch.from_numpy(batch))).numpy() for batch in batches(lonlat_deg)]
        return np.concatenate(parts)


def sinr_inputs(lonlat_deg: Tensor) -> Tensor:
    """Inputs of SINR, shape (n, 4), float32: sin x, sin y, cos x, cos y of x = pi lon / 180 and y = pi lat / 90."""
    angles = math.pi * lonlat_deg / torch.tensor([180.0, 90.0], dtype=lonlat_deg.dtype)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1).float()


def open_sinr(weights: Path | None) -> SINR:
    """SINR over given weights.

    Raises:
        MissingWeightsError: They are not there.
    """
    if weights is None or not weights.is_file():
        raise MissingWeightsError(
            f"sinr: {weights or 'no weights'}: expected a checkpoint of SINR's published models over coordinates, such "
            "as model_an_full_input_enc_sin_cos_hard_cap_num_per_class_1000.pt; give it as sinr:PATH"
        )
    return SINR(weights)


def _state(content: Any) -> Mapping[str, Tensor]:  # noqa: ANN401
    state = content.get("state_dict", content)
    return {str(name).removeprefix("model."): tensor for name, tensor in state.items()}
