"""Products made from a Zarr grid of embeddings: eight-bit integers, and a picture of principal components."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import from_bounds

from pipelines.atomic import replacing
from pipelines.embeddings.conventions import grid_edges_deg
from pipelines.embeddings.embedding_grid import INT8_FILL, VARIABLE, EmbeddingGridContent, writing_embedding_grid
from pipelines.errors import ConfigurationError

LARGEST: Final = 127
NUM_COMPONENTS: Final = 3
STRETCH_PERCENT: Final = (2.0, 98.0)


@dataclass(frozen=True)
class QuantizationError:
    """How far eight-bit embeddings are from those they were made of, over all cells that are there.

    Attributes:
        max_error: Largest absolute difference of a number.
        max_error_in_scales: The same in units of its component's scale; at most one half, but for rounding.
        rms_error: Root of the mean squared difference.
        max_cosine_distance: Largest 1 - cosine between an embedding and its eight-bit form.
    """

    max_error: float
    max_error_in_scales: float
    rms_error: float
    max_cosine_distance: float


def write_int8_grid(source: Path, path: Path) -> QuantizationError:
    """Writes a Zarr grid again in eight bits, with one symmetric scale per component; -128 where there is nothing.

    An embedding is ``location_embedding * scale``. The measured error goes into the provenance.

    Args:
        source: Zarr group of `pipelines.embeddings.grid_streaming.embed_grid`.
        path: Zarr group to write, whole or not at all.
    """
    group: Any = zarr.open_group(source, mode="r")
    largest = np.zeros(group[VARIABLE].shape[-1])
    for rows in _rows(group):
        largest = np.maximum(largest, np.nanmax(np.abs(rows), axis=(0, 1), initial=0.0, where=~np.isnan(rows)))
    scale = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    content = EmbeddingGridContent(
        np.asarray(group["lon"][:]),
        np.asarray(group["lat"][:]),
        len(scale),
        np.dtype(np.int8),
        int(group[VARIABLE].shards[0]),
        scale,
    )
    provenance: dict[str, Any] = {**group.attrs["satclip_provenance"], "stored_as": "int8"}
    measured = _ErrorSums()
    with writing_embedding_grid(path, content, provenance) as write:
        for rows in _rows(group):
            present = ~np.isnan(rows[..., 0])
            cells = np.full(rows.shape, INT8_FILL, dtype=np.int8)
            cells[present] = np.clip(np.rint(rows[present] / scale), -LARGEST, LARGEST).astype(np.int8)
            measured.add(rows[present], cells[present], scale)
            write(cells)
        error = measured.result()
        provenance["quantization_error"] = vars(error)
    return error


class _ErrorSums:
    def __init__(self) -> None:
        self._max = self._max_in_scales = self._squares = self._cosine = 0.0
        self._count = 0

    def add(self, exact: NDArray[np.float64], cells: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        if len(exact) == 0:
            return
        restored = cells.astype(np.float64) * scale
        difference = np.abs(restored - exact)
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(restored, axis=1)
        cosine = np.divide((exact * restored).sum(axis=1), lengths, out=np.ones_like(lengths), where=lengths > 0)
        self._max = max(self._max, float(difference.max()))
        self._max_in_scales = max(self._max_in_scales, float((difference / scale).max()))
        self._squares += float((difference**2).sum())
        self._count += difference.size
        self._cosine = max(self._cosine, float((1 - cosine).max()))

    def result(self) -> QuantizationError:
        return QuantizationError(
            self._max, self._max_in_scales, float(np.sqrt(self._squares / max(1, self._count))), self._cosine
        )


def write_component_picture(source: Path, path: Path) -> None:
    """Writes the first three principal components as red, green and blue, a cloud-optimized GeoTIFF on EPSG:4326.

    Cells weigh alike. Each component is stretched between its 2nd and 98th percentile; alpha is 0 where there is no
    embedding. The tags hold the mean, the components, their share of variance, the stretch and the provenance.

    Args:
        source: Zarr group of `pipelines.embeddings.grid_streaming.embed_grid`.
        path: File to write, whole or not at all.

    Raises:
        ConfigurationError: Embeddings have fewer than three components.
    """
    group: Any = zarr.open_group(source, mode="r")
    mean, components, explained = _principal_components(group)
    scores = np.concatenate([(rows - mean) @ components.T for rows in _rows(group)])
    present = ~np.isnan(scores[..., 0])
    low, high = np.percentile(scores[present], STRETCH_PERCENT, axis=0)
    span = np.where(high > low, high - low, 1.0)
    colors = np.rint(255 * np.clip((scores - low) / span, 0, 1))
    bands = np.zeros((NUM_COMPONENTS + 1, *present.shape), dtype=np.uint8)
    bands[:NUM_COMPONENTS, present] = colors[present].T
    bands[NUM_COMPONENTS, present] = 255
    tags = {
        "mean": mean.tolist(),
        "components": components.tolist(),
        "explained_variance_ratio": explained.tolist(),
        "stretch_percent": list(STRETCH_PERCENT),
        "stretch_low": low.tolist(),
        "stretch_high": high.tolist(),
        "satclip_provenance": group.attrs["satclip_provenance"],
    }
    edges = grid_edges_deg(np.asarray(group["lon"][:]), np.asarray(group["lat"][:]))
    _write_cog(path, bands, edges, {name: json.dumps(value, sort_keys=True) for name, value in tags.items()})


def _write_cog(
    path: Path, bands: NDArray[np.uint8], edges_deg: tuple[float, float, float, float], tags: Mapping[str, str]
) -> None:
    count, height, width = bands.shape
    transform = from_bounds(*edges_deg, width, height)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": count, "height": height, "width": width}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile, crs="EPSG:4326", transform=transform, photometric="RGB", alpha="YES") as plain:
            plain.write(bands)
            plain.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
            plain.update_tags(**tags)
        with memory.open() as plain, replacing(path) as partial:
            rasterio.shutil.copy(
                plain, partial, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=256, OVERVIEWS="IGNORE_EXISTING"
            )


def _principal_components(
    group: Any,  # noqa: ANN401
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean (e,), components (3, e) and their share of variance (3,); a component's largest loading is positive."""
    dim = group[VARIABLE].shape[-1]
    if dim < NUM_COMPONENTS:
        raise ConfigurationError(f"embeddings have {dim} components; a picture needs at least {NUM_COMPONENTS}")
    count, total, products = 0, np.zeros(dim), np.zeros((dim, dim))
    for rows in _rows(group):
        cells = rows[~np.isnan(rows[..., 0])]
        count, total, products = count + len(cells), total + cells.sum(axis=0), products + cells.T @ cells
    mean = total / count
    variances, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    components = vectors[:, ::-1][:, :NUM_COMPONENTS].T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    explained = variances[::-1][:NUM_COMPONENTS] / max(float(variances.sum()), np.finfo(float).tiny)
    return mean, components * np.where(largest < 0, -1.0, 1.0), explained


def _rows(group: Any) -> Iterator[NDArray[np.float64]]:  # noqa: ANN401
    array = group[VARIABLE]
    step = int(array.shards[0])
    for start in range(0, array.shape[0], step):
        yield np.asarray(array[start : start + step], dtype=np.float64)
