"""The original's positional encodings, networks and location encoder; see `satclip_model.compat`."""

from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.checkpoint.official_settings import network_config, positional_encoding_config
from satclip_model.config import PositionalEncodingConfig
from satclip_model.location_encoder import encode_places
from satclip_model.location_network import LocationNetwork, build_location_network
from satclip_model.positional_encoding import build_positional_encoding


class PositionalEncoding(nn.Module):
    """A fixed encoding that knows its length."""

    def __init__(self, encoding: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        self.encoding, self.embedding_dim = encoding, embedding_dim

    def forward(self, lonlat: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        """Encoded places (degrees, longitude first) in the type of the coordinates."""
        encoded: Tensor = self.encoding(lonlat.double())
        return encoded.to(lonlat.dtype)


class LocationEncoder(nn.Module):
    """A positional encoding followed by a network.

    Args:
        posenc: From coordinates to features.
        nnet: From features to embeddings.
    """

    def __init__(self, posenc: nn.Module, nnet: nn.Module) -> None:
        super().__init__()
        self.posenc, self.nnet = posenc, nnet

    def forward(self, x: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of places (degrees, longitude first), not normalised, in the type of the network's weights."""
        if isinstance(self.posenc, PositionalEncoding) and isinstance(self.nnet, LocationNetwork):
            return encode_places(self.posenc.encoding, self.nnet, x)
        encoded = self.posenc(x.double())
        embeddings: Tensor = self.nnet(encoded.to(next(self.nnet.parameters()).dtype))
        return embeddings


def get_positional_encoding(
    name: str,
    legendre_polys: int = 10,
    harmonics_calculation: str = "analytic",
    min_radius: float = 1,
    max_radius: float = 360,
    frequency_num: int = 10,
) -> PositionalEncoding:
    """The positional encoding ``name`` (see ``le_type`` of `SatCLIP`), with its length as ``embedding_dim``.

    Raises:
        ValueError: No encoding of the original.
    """
    return build_sized_encoding(
        positional_encoding_config(
            {
                "le_type": name,
                "legendre_polys": legendre_polys,
                "harmonics_calculation": harmonics_calculation,
                "min_radius": min_radius,
                "max_radius": max_radius,
                "frequency_num": frequency_num,
            }
        )
    )


def get_neural_network(
    name: str, input_dim: int, num_classes: int = 256, dim_hidden: int = 256, num_layers: int = 2
) -> nn.Module:
    """The network ``name`` (see ``pe_type`` of `SatCLIP`) from (n, ``input_dim``) to (n, ``num_classes``), float32.

    Raises:
        ValueError: No network of the original.
    """
    config = network_config({"pe_type": name, "capacity": dim_hidden, "num_hidden_layers": num_layers})
    return build_location_network(config, in_dim=input_dim, out_dim=num_classes)


def build_sized_encoding(config: PositionalEncodingConfig) -> PositionalEncoding:
    """The positional encoding that a configuration of ours describes."""
    return PositionalEncoding(build_positional_encoding(config), config.encoding_dim)
