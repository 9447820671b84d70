"""Methods by name."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.evaluation.methods.base import LocationFeatures
from pipelines.evaluation.methods.baselines import EncodingAlone, SinCosCoordinates, UntrainedEncoder

if TYPE_CHECKING:
    from satclip_model.config import LocationEncoderConfig

BASELINES: Final = ("sincos", "harmonics", "untrained", "geoclip")
"""What every table is compared with, beside interpolation."""
_WITH_WEIGHTS: Final = ("geoclip", "csp", "gps2vec", "sinr", "torchgeo")
RELEASED_NUM_DEGREES: Final = 40


def method_names() -> tuple[str, ...]:
    """Names that `open_method` takes beside checkpoints."""
    return (*BASELINES, "csp", "gps2vec", "sinr", "torchgeo")


def open_method(
    name: str,
    *,
    reference: "LocationEncoderConfig | None" = None,
    seed: int = 0,
    download: bool = False,
    weights: Path | None = None,
) -> LocationFeatures:
    """What turns places into features, by name.

    Args:
        name: One of `method_names`, with ``:PATH`` behind it for weights; or a checkpoint: a path, ``OWNER/NAME:FILE``
            on the Hugging Face Hub, or a released model such as ``microsoft/SatCLIP-ViT16-L40``.
        reference: Configuration of ``harmonics`` and ``untrained``; by default that of the released models of 40
            degrees.
        seed: Of the weights of ``untrained``.
        download: Whether files that are not in the Hub's cache may be fetched.
        weights: File or folder of the weights, for methods that have some.

    Raises:
        MissingWeightsError: The weights are not there; the message says where to have them.
        ArtefactError: The weights cannot be read.
    """
    kind, colon, given = name.partition(":")
    if colon and kind in _WITH_WEIGHTS:
        weights = Path(given)
    if kind == "geoclip":
        from pipelines.evaluation.methods.geoclip import open_geoclip

        return open_geoclip(weights)
    if kind == "csp":
        from pipelines.evaluation.methods.csp import open_csp

        return open_csp(weights)
    if kind == "gps2vec":
        from pipelines.evaluation.methods.gps2vec import open_gps2vec

        return open_gps2vec(weights)
    if kind == "sinr":
        from pipelines.evaluation.methods.sinr import open_sinr

        return open_sinr(weights)
    if kind == "torchgeo":
        from pipelines.evaluation.methods.checkpoints import open_torchgeo

        return open_torchgeo(weights)
    if name == "sincos":
        return SinCosCoordinates()
    if name == "harmonics":
        return EncodingAlone((reference or released_config()).positional_encoding)
    if name == "untrained":
        return UntrainedEncoder(reference or released_config(), seed)
    from pipelines.evaluation.methods.checkpoints import open_checkpoint

    return open_checkpoint(name, download=download)


def released_config() -> "LocationEncoderConfig":
    """The location encoder of the released models with 40 degrees."""
    from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig

    return LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=RELEASED_NUM_DEGREES, convention="analytic"),
        network=SirenConfig(hidden_dim=512, num_hidden_layers=2),
        embedding_dim=256,
    )
