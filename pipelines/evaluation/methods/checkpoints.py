"""Location encoders of checkpoints, ours and published ones, by our code and by torchgeo's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ArtefactError, ConfigurationError, MissingWeightsError
from pipelines.evaluation.methods.base import EncoderFeatures, batches
from pipelines.provenance import file_sha256

MODEL_NAME = "satclip"


def open_checkpoint(source: str, *, download: bool = False) -> EncoderFeatures:
    """The location encoder of a checkpoint of any format; embeddings are not normalised, as the original's.

    Args:
        source: Path; ``OWNER/NAME:FILE`` on the Hugging Face Hub; or a released model.
        download: Whether a file that is not in the Hub's cache may be fetched.

    Raises:
        MissingWeightsError: The file is not there, or not in the cache and not to be fetched.
        ArtefactError: It cannot be read.
    """
    from pipelines.embeddings.streaming import open_location_encoder
    from satclip_model.errors import CheckpointError
    from satclip_model.hub import resolve

    try:
        path = resolve(source, download=download)
    except CheckpointError as error:
        raise MissingWeightsError(str(error)) from error
    encoder, provenance = open_location_encoder(str(path))
    return EncoderFeatures(MODEL_NAME, encoder.encode, target=provenance["checkpoint_sha256"])


@dataclass(frozen=True)
class TorchgeoSatCLIP:
    """A published checkpoint through torchgeo's own SatCLIP, in float32; it clamps latitudes to 89.95 degrees.

    Attributes:
        path: The checkpoint.
        name: Short name in the rows of scores.
    """

    path: Path
    name: str = "torchgeo"

    @cached_property
    def target(self) -> str:
        """SHA-256 of the checkpoint."""
        return file_sha256(self.path)

    @cached_property
    def encode(self) -> Callable[[NDArray[np.float64]], NDArray[np.float32]]:
        """Embeddings, shape (n, e), of places, shape (n, 2).

        Raises:
            ArtefactError: The checkpoint is of a location encoder that torchgeo does not build.
            ConfigurationError: torchgeo is not installed.
        """
        import torch

        from satclip_model.checkpoint.loading import load_location_encoder
        from satclip_model.config import SirenConfig, SphericalHarmonicsConfig

        try:
            from torchgeo.models import SatCLIP
        except ImportError as error:
            raise ConfigurationError(f"torchgeo cannot be imported ({error}); pip install torchgeo") from error
        ours = load_location_encoder(self.path)
        encoding, network = ours.config.positional_encoding, ours.config.network
        if not isinstance(encoding, SphericalHarmonicsConfig) or not isinstance(network, SirenConfig):
            raise ArtefactError(
                f"{self.path}: {encoding.kind} and {network.kind}; torchgeo builds spherical harmonics and SIREN only"
            )
        if encoding.convention != "analytic":
            raise ArtefactError(f"{self.path}: harmonics are {encoding.convention}; torchgeo's are analytic only")
        theirs = SatCLIP(
            legendre_polys=encoding.num_degrees, capacity=network.hidden_dim, embed_dim=ours.config.embedding_dim,
            num_hidden_layers=network.num_hidden_layers,
        )  # fmt: skip
        theirs.nnet.load_state_dict(ours.location_network.state_dict())
        theirs.eval()

        @torch.inference_mode()
        def encode(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
            embeddings: NDArray[np.float32] = theirs(torch.from_numpy(lonlat_deg).float()).numpy()
            return embeddings

        return encode

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Embeddings, shape (n, e)."""
        return np.concatenate([self.encode(batch) for batch in batches(lonlat_deg)])


def open_torchgeo(weights: Path | None) -> TorchgeoSatCLIP:
    """Torchgeo's SatCLIP over a given checkpoint.

    Raises:
        MissingWeightsError: It is not there.
    """
    if weights is None or not weights.is_file():
        raise MissingWeightsError(
            f"torchgeo: {weights or 'no weights'}: expected a SatCLIP checkpoint; give it as torchgeo:PATH"
        )
    return TorchgeoSatCLIP(weights)
