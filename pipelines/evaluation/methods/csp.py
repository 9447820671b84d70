"""CSP's location encoder: contrastive pre-training against images of species or of land use, over published weights.

Source: Mai et al. (2023), CSP: Self-supervised contrastive spatial pre-training for geospatial-visual representations,
ICML; gengchenmai/csp (Apache-2.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.methods.base import batches
from pipelines.provenance import file_sha256
from satclip_model.checkpoint.archive import read_archive
from satclip_model.config import MultiScaleConfig
from satclip_model.errors import CheckpointError
from satclip_model.positional_encoding import build_positional_encoding

ENCODING: Final = MultiScaleConfig(kind="grid", num_frequencies=32, min_radius=0.1, max_radius=360.0)
HIDDEN_DIM: Final = 512
EMBEDDING_DIM: Final = 256
_PREFIXES: Final = ("loc_enc.spa_enc.ffn.", "spa_enc.ffn.", "ffn.")
_EXPECTED: Final = (
    "layers.0.linear.weight (512, 128), layers.0.layernorm.weight (512,) and layers.1.linear.weight (256, 512) below "
    "spa_enc.ffn or loc_enc.spa_enc.ffn"
)


class CSPNetwork(nn.Module):
    """Linear, activation and layer norm from 128 to 512; linear and activation to 256.

    Args:
        activation: ``leakyrelu`` (slope 0.2) of the models of iNaturalist, or ``gelu`` of those of fMoW.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.positional_encoding = build_positional_encoding(ENCODING)
        self.first = nn.Linear(ENCODING.encoding_dim, HIDDEN_DIM)
        self.norm = nn.LayerNorm(HIDDEN_DIM)
        self.second = nn.Linear(HIDDEN_DIM, EMBEDDING_DIM)
        self.activation = nn.GELU() if activation == "gelu" else nn.LeakyReLU(0.2)

    def forward(self, lonlat_deg: Tensor) -> Tensor:
        """Embeddings, shape (n, 256), float32, of places, shape (n, 2), longitude first."""
        encoded = self.positional_encoding(lonlat_deg.double()).float()
        embedded: Tensor = self.activation(self.second(self.norm(self.activation(self.first(encoded)))))
        return embedded


@dataclass(frozen=True)
class CSP:
    """CSP's embeddings of places.

    Attributes:
        path: A published checkpoint; its activation is told by its name, ``gelu`` or ``leakyrelu``, as the originals
            are named, and otherwise by its recorded parameters.
        name: Short name in the rows of scores.
    """

    path: Path
    name: str = "csp"

    @cached_property
    def target(self) -> str:
        """SHA-256 of the weights."""
        return file_sha256(self.path)

    @cached_property
    def encoder(self) -> CSPNetwork:
        """The network over the file's weights.

        Raises:
            ArtefactError: The file cannot be read, is of another network or encoding, or does not tell its activation.
        """
        try:
            content = read_archive(self.path)
            _check_encoding(self.path, content)
            state = _state(content)
            network = CSPNetwork(_activation(self.path, content))
            network.load_state_dict(
                {
                    f"{ours}.{part}": state[f"layers.{theirs}.{part}"]
                    for ours, theirs in (("first", "0.linear"), ("norm", "0.layernorm"), ("second", "1.linear"))
                    for part in ("weight", "bias")
                },
                strict=True,
            )
        except (CheckpointError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{self.path}: no weights of CSP ({error}); expected {_EXPECTED}") from error
        return network.eval()

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features, shape (n, 256)."""
        with torch.inference_mode():
            parts = [self.encoder(torch.from_numpy(batch)).numpy() for batch in batches(lonlat_deg)]
        return np.concatenate(parts)


def open_csp(weights: Path | None) -> CSP:
    """CSP over given weights.

    Raises:
        MissingWeightsError: They are not there.
    """
    if weights is None or not weights.is_file():
        raise MissingWeightsError(
            f"csp: {weights or 'no weights'}: expected a location encoder that CSP's authors published, "
            "model_inat_2018_gridcell_..._leakyrelu_UNSUPER-contsoftmax_....pth.tar or "
            "model_fmow_gridcell_..._gelu_UNSUPER-contsoftmax_....pth.tar (those without UNSUPER are fine-tuned on "
            "labels); give it as csp:PATH"
        )
    return CSP(weights)


def _state(content: Any) -> Mapping[str, Tensor]:  # noqa: ANN401
    state = content.get("state_dict", content)
    for prefix in _PREFIXES:
        chosen = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        if chosen:
            return chosen
    raise KeyError("no spa_enc.ffn")


def _check_encoding(path: Path, content: Any) -> None:  # noqa: ANN401
    """Refuses recorded parameters of another encoding, whose weights have the same shapes."""
    params = content.get("params")
    if not isinstance(params, Mapping):
        return
    expected: dict[str, object] = {"frequency_num": ENCODING.num_frequencies, "min_radius": ENCODING.min_radius}
    expected |= {"max_radius": ENCODING.max_radius, "freq_init": "geometric"}
    other = [
        f"{name} {params[name]}, expected {each}" for name, each in expected.items() if params.get(name, each) != each
    ]
    if other:
        raise ArtefactError(f"{path}: an encoder of CSP over another encoding: {'; '.join(other)}")


def _activation(path: Path, content: Any) -> str:  # noqa: ANN401
    params = content.get("params")
    recorded = str(params.get("spa_f_act", "")) if isinstance(params, Mapping) else ""
    for told in (recorded.lower(), path.name.lower()):
        for name in ("leakyrelu", "gelu"):
            if name in told:
                return name
    raise ArtefactError(
        f"{path}: tells no activation, which the weights of CSP need; keep leakyrelu (iNaturalist) or gelu (fMoW) in "
        "the file's name, as the originals have it"
    )
