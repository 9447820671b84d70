"""Fixed encodings of places: one file per family."""

from torch import nn

from satclip_model.config import PositionalEncodingConfig, SphericalHarmonicsConfig
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics


def build_positional_encoding(config: PositionalEncodingConfig) -> nn.Module:
    """The encoding that a configuration describes: a module from lonlat_deg (n, 2) to (n, ``config.encoding_dim``)."""
    if isinstance(config, SphericalHarmonicsConfig) and config.convention != "discretized":
        return SphericalHarmonics(config.num_degrees, config.convention)
    raise ValueError(f"positional encoding {config.kind!r} is not built yet")
