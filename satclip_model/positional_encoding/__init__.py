"""Fixed encodings of places: one file per family."""

from collections.abc import Callable

from satclip_model.config import CoordinatesConfig, PositionalEncodingConfig, SphericalHarmonicsConfig
from satclip_model.positional_encoding.coordinates import Cartesian3D, Direct, Wrap
from satclip_model.positional_encoding.discretized_harmonics import DiscretizedSphericalHarmonics
from satclip_model.positional_encoding.lonlat import LonLatEncoding
from satclip_model.positional_encoding.sphere_grid import SphereGrid
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics
from satclip_model.positional_encoding.theory import Theory


def build_positional_encoding(config: PositionalEncodingConfig) -> LonLatEncoding | SphericalHarmonics:
    """The encoding that a configuration describes: a module from lonlat_deg (n, 2) to (n, ``config.encoding_dim``)."""
    if isinstance(config, SphericalHarmonicsConfig):
        if config.convention == "discretized":
            return DiscretizedSphericalHarmonics(config.num_degrees)
        return SphericalHarmonics(config.num_degrees, config.convention)
    if isinstance(config, CoordinatesConfig):
        encodings: dict[str, Callable[[], LonLatEncoding]] = {
            "direct": Direct,
            "cartesian3d": Cartesian3D,
            "wrap": Wrap,
        }
        return encodings[config.kind]()
    if config.kind == "theory":
        return Theory(config.num_frequencies, config.min_radius, config.max_radius)
    return SphereGrid(config.kind, config.num_frequencies, config.min_radius, config.max_radius)
