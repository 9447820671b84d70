"""Augmented views of patches, decided by seed, place and number of the view alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipelines.features.config import ViewsConfig
from pipelines.features.keyed_draws import draw_uniform
from pipelines.sentinel2 import NODATA_DN, QUANTIFICATION

_SHARPEST_SIGMA_PX: Final = 1e-3
_SMALLEST_WEIGHT: Final = 1e-7
"""Weights of the blur below this part of the largest are left out: subnormal numbers make products slow."""
_NUM_SPATIAL_DRAWS: Final = 6


@dataclass(frozen=True)
class ViewDraws:
    """What is done to each of n patches.

    Attributes:
        flip_rows: Whether the order of rows is reversed, shape (n,).
        flip_columns: Whether the order of columns is reversed, shape (n,).
        crop_fraction: Side of the crop over the side of the patch, shape (n,).
        top: Rows above the crop over all rows that it leaves, 0 to 1, shape (n,).
        left: The same of columns.
        blur_sigma_px: Standard deviation of the Gaussian in pixels of the view, shape (n,).
        band_gain: Factor per band, shape (n, bands).
    """

    flip_rows: NDArray[np.bool_]
    flip_columns: NDArray[np.bool_]
    crop_fraction: NDArray[np.float64]
    top: NDArray[np.float64]
    left: NDArray[np.float64]
    blur_sigma_px: NDArray[np.float64]
    band_gain: NDArray[np.float64]


def draw_views(place_ids: NDArray[np.int64], view: int, num_bands: int, config: ViewsConfig) -> ViewDraws:
    """The augmentations of places in view ``view``, 1 or more, each decided by (seed, view, place id)."""
    drawn = draw_uniform(config.seed, view, place_ids, _NUM_SPATIAL_DRAWS + num_bands)
    flip_rows, flip_columns, crop, top, left, blur = drawn[:, :_NUM_SPATIAL_DRAWS].T
    return ViewDraws(
        flip_rows=config.flips & (flip_rows < 0.5),
        flip_columns=config.flips & (flip_columns < 0.5),
        crop_fraction=1.0 - (1.0 - config.min_crop_fraction) * crop,
        top=top,
        left=left,
        blur_sigma_px=config.max_blur_sigma_px * blur,
        band_gain=1.0 + config.max_band_jitter * (2.0 * drawn[:, _NUM_SPATIAL_DRAWS:] - 1.0),
    )


@torch.no_grad()
def augment(
    reflectance: Tensor, place_ids: Sequence[int] | NDArray[np.int64] | Tensor, view: int, config: ViewsConfig
) -> Tensor:
    """One view of patches, of their size: crop resampled by linear interpolation, flips, Gaussian blur, band jitter.

    Flips, crop and blur act along rows and along columns independently, so that each axis is one matrix. The blur
    mirrors the view at its edges and keeps its mean. A view depends on its own patch, place and number: neither on the
    rest of the batch nor, but for the rounding of float32, on the device. It carries no gradient.

    Args:
        reflectance: Shape (batch, band, height, width), floating point, on any device.
        place_ids: Ids of the places, one per patch.
        view: Number of the view; 0 is the patch itself, returned as it is.
        config: The augmentations; ``num_views`` is not looked at.

    Returns:
        Shape and type of ``reflectance``, on its device.

    Raises:
        ValueError: Integers, another number of ids than patches, or a negative view.
    """
    if not reflectance.is_floating_point():
        raise ValueError(f"patches are {reflectance.dtype}; expected reflectance as floating point")
    if len(place_ids) != len(reflectance) or view < 0:
        raise ValueError(f"{len(place_ids)} place ids for {len(reflectance)} patches in view {view}; expected one each")
    if view == 0:
        return reflectance
    ids = np.asarray(place_ids.cpu() if isinstance(place_ids, Tensor) else place_ids, dtype=np.int64)
    _, num_bands, height, width = reflectance.shape
    draws = draw_views(ids, view, num_bands, config)
    device = reflectance.device
    with torch.autocast(device.type, enabled=False):
        blur_sigma_px = torch.tensor(draws.blur_sigma_px, dtype=torch.float32, device=device)
        rows, columns = (
            _axis_weights(_source_positions(size, draws.crop_fraction, start, flip), blur_sigma_px)
            for size, start, flip in (
                (height, draws.top, draws.flip_rows),
                (width, draws.left, draws.flip_columns),
            )
        )
        gain = torch.tensor(draws.band_gain, dtype=torch.float32, device=device)[:, :, None, None]
        viewed = gain * reflectance.float()
        for patch, along_rows, along_columns in zip(viewed, rows, columns, strict=True):
            torch.matmul(along_rows, patch @ along_columns.T, out=patch)
    return viewed.to(reflectance.dtype)


def reflectance_tensor(dn: Tensor, boa_add_offset: Tensor) -> Tensor:
    """As `pipelines.patches.radiometry.reflectance`, to the bit, for tensors on any device.

    Args:
        dn: Digital numbers as delivered, shape (batch, band, height, width), uint16.
        boa_add_offset: Offset per patch (0 or -1000), shape (batch,).
    """
    values = dn.to(torch.float32)
    nodata = values == NODATA_DN
    values += boa_add_offset.to(torch.float32)[:, None, None, None]
    return values.clamp_(min=0.0).div_(QUANTIFICATION).masked_fill_(nodata, 0.0)


def _source_positions(
    size: int, fraction: NDArray[np.float64], start: NDArray[np.float64], flip: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Where the pixels of a view lie along an axis of the patch, in pixels from the first one's centre: (n, size)."""
    along = (np.arange(size) + 0.5) * fraction[:, None] - 0.5 + (start * (1.0 - fraction) * size)[:, None]
    positions: NDArray[np.float64] = np.clip(np.where(flip[:, None], along[:, ::-1], along), 0.0, size - 1.0)
    return positions


def _axis_weights(positions: NDArray[np.float64], blur_sigma_px: Tensor) -> Tensor:
    """Weights (n, pixel of the view, pixel of the patch) of linear interpolation followed by the blur."""
    size = positions.shape[1]
    pixel = torch.arange(size, dtype=torch.float32, device=blur_sigma_px.device)
    sought = torch.tensor(positions, dtype=torch.float32, device=blur_sigma_px.device)
    interpolation = (1.0 - (sought[:, :, None] - pixel).abs()).clamp(min=0.0)
    if not blur_sigma_px.any():
        return interpolation
    sigma_px = blur_sigma_px.clamp(min=_SHARPEST_SIGMA_PX)[:, None]
    distance = torch.arange(2 * size, dtype=torch.float32, device=pixel.device)
    kernel = functional.threshold(torch.exp(-0.5 * (distance / sigma_px) ** 2), _SMALLEST_WEIGHT, 0.0)
    row, column = torch.meshgrid(*[torch.arange(size, device=pixel.device)] * 2, indexing="ij")
    blur = kernel[:, (row - column).abs()]
    blur += kernel[:, row + column + 1]
    blur += kernel[:, 2 * size - 1 - row - column]
    return (blur / blur.sum(dim=2, keepdim=True)) @ interpolation
