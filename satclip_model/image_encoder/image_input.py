"""What the image encoders are fed: scale, bands and size.

Scale: Sentinel-2 digital numbers divided by 10,000 are reflectance; no mean is taken off and no deviation divided by.
Bands: the 12 of S2-100K, in its order. Encoders of 13 channels expect Level-1C's cirrus band B10 before B11; Level-2A
has none, so zeros stand in for it.

The released models were fed digital numbers as stored: the offset of 1,000 that products of processing baseline 04.00
and later carry was not taken off, so the same ground is 0.1 brighter in those patches. Their frozen MoCo networks were
pre-trained on 13 bands of Level-1C, and fed 12 of Level-2A and zeros.

Source: Klemmer et al. (2025), SatCLIP, AAAI; microsoft/satclip, datamodules/s2geo_dataset.py and transforms.py.
"""

from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from satclip_model.config import NUM_BANDS

__all__ = [
    "CIRRUS_INDEX",
    "DN_PER_REFLECTANCE",
    "S2_100K_BANDS",
    "center_crop",
    "insert_cirrus_band",
    "match_channels",
    "reflectance_from_dn",
    "require_size",
]

S2_100K_BANDS: Final = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Bands of a patch, in order."""
CIRRUS_INDEX: Final = S2_100K_BANDS.index("B11")
"""Where the cirrus band B10 stands among 13 channels: after B09, before B11."""
DN_PER_REFLECTANCE: Final = 10_000
"""Digital number of reflectance 1 (Sentinel-2 Products Specification Document, quantification value)."""


def reflectance_from_dn(dn: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Reflectance, float32, of digital numbers as the released models were fed them: no offset is taken off."""
    return dn.to(torch.float32) / DN_PER_REFLECTANCE


def insert_cirrus_band(
    reflectance: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channels_with_cirrus height width"]:
    """The 12 bands of S2-100K with a band B10 of zeros between B09 and B11: 13 channels.

    Raises:
        ValueError: Another number of bands.
    """
    batch, num_bands, height, width = reflectance.shape
    if num_bands != NUM_BANDS:
        raise ValueError(f"reflectance has {num_bands} bands; expected {NUM_BANDS}: {', '.join(S2_100K_BANDS)}")
    cirrus = reflectance.new_zeros(batch, 1, height, width)
    return torch.cat([reflectance[:, :CIRRUS_INDEX], cirrus, reflectance[:, CIRRUS_INDEX:]], dim=1)


def match_channels(
    reflectance: Shaped[Tensor, "batch channel height width"], in_channels: int
) -> Float[Tensor, "batch in_channel height width"]:
    """Reflectance with the channels of an encoder's first layer.

    Args:
        reflectance: As many bands as the encoder has channels; 12 are enough where it has 13.
        in_channels: Channels of the encoder's first layer.

    Raises:
        ValueError: Another number of bands, or integers.
    """
    if not reflectance.is_floating_point():
        raise ValueError(
            f"images are {reflectance.dtype}; expected reflectance as floating point: divide digital numbers by "
            f"{DN_PER_REFLECTANCE} (reflectance_from_dn)"
        )
    num_bands = reflectance.shape[1]
    if num_bands == in_channels:
        return reflectance
    if num_bands == NUM_BANDS and in_channels == NUM_BANDS + 1:
        return insert_cirrus_band(reflectance)
    expected = f"{NUM_BANDS} or {in_channels}" if in_channels == NUM_BANDS + 1 else str(in_channels)
    raise ValueError(f"reflectance has {num_bands} bands; this encoder takes {expected}")


def center_crop(
    reflectance: Float[Tensor, "batch channel height width"], size_px: int
) -> Float[Tensor, "batch channel size size"]:
    """The middle ``size_px`` x ``size_px`` pixels; of an odd remainder the larger part is cut at the end.

    Raises:
        ValueError: A side shorter than ``size_px``.
    """
    height, width = reflectance.shape[-2:]
    if min(height, width) < size_px:
        raise ValueError(f"images of {height} x {width} pixels; this encoder takes {size_px} x {size_px} or larger")
    top, left = (height - size_px) // 2, (width - size_px) // 2
    return reflectance[..., top : top + size_px, left : left + size_px]


def require_size(reflectance: Float[Tensor, "batch channel height width"], size_px: int) -> None:
    """Refuses images that are not ``size_px`` x ``size_px`` pixels.

    Raises:
        ValueError: Another size.
    """
    height, width = reflectance.shape[-2:]
    if (height, width) != (size_px, size_px):
        raise ValueError(
            f"images of {height} x {width} pixels; this encoder takes {size_px} x {size_px} (its image_size): crop "
            "them, or build it for their size"
        )
