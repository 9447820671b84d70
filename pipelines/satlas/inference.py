"""From the images of a tile to its predictions: overlapping windows, batched, without doubles at their seams."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ConfigurationError
from pipelines.satlas.images import RADIOMETRY, TileImage
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.predictions import TASK_KINDS, TileGrid, TilePredictions
from satclip_model.satlas import SatlasModel
from satclip_model.satlas.config import DetectionConfig, RegressionConfig, SegmentationConfig

if TYPE_CHECKING:
    import geopandas

_LABEL_RANGE: Final = 255.0
_OBSERVED_CELL_PX: Final = 32


@dataclass(frozen=True)
class Window:
    """A square of a tile; it may reach beyond the tile's lower and right edge where the tile is smaller."""

    row: int
    column: int
    size_px: int


def tile_windows(height_px: int, width_px: int, config: InferenceConfig) -> list[Window]:
    """Windows that cover a tile, row by row; the last ones end with the tile."""
    rows, columns = (_starts(size, config) for size in (height_px, width_px))
    return [Window(row, column, config.window_px) for row in rows for column in columns]


def predict_tile(
    model: SatlasModel,
    task: str,
    month: str,
    tile: str,
    grid: TileGrid,
    images: Sequence[TileImage],
    config: InferenceConfig | None = None,
    parents: dict[str, Any] | None = None,
    margin_px: int = 0,
) -> TilePredictions:
    """Predictions of a model on the images of one tile.

    Pixels of overlapping windows are means weighted by a raised cosine. A box counts in the window that shows most
    around it: its middle is at least half of the overlap less ``merge_distance_m`` away from the edge, so that none is
    lost between two windows that place it differently; then once within that distance. Where no image has a value,
    nothing is predicted. The margin is seen, not predicted, but for points up to ``merge_distance_m`` outside: the tile
    in which they lie may have placed them here.

    Where the overlap is half a window, the margin a quarter, and tiles are whole numbers of half windows, all tiles
    together go over one lattice of windows: points do not depend on where tiles begin.

    Args:
        model: In evaluation mode, on any device; one head.
        task: A name of `TASK_KINDS`, whose kind is that of the model's head.
        month: ``YYYY-MM``.
        tile: Name of the tile.
        grid: The tile's pixels.
        images: Of different dates, of the grid and its margin; of more than the model takes the first ones are used.
        config: Windows and thresholds.
        parents: What is recorded beside the radiometry.
        margin_px: Pixels of the images around the tile.

    Raises:
        ConfigurationError: The head is not of the task's kind, or the images do not fit grid or model.
    """
    config, seen = config or InferenceConfig(), grid.padded(margin_px)
    _require_fit(model, task, seen, images)
    images = list(images)[: model.config.num_images]
    inner = (slice(margin_px, margin_px + grid.height_px), slice(margin_px, margin_px + grid.width_px))
    inner_images = [TileImage(each.channels[(slice(None), *inner)], each.present[inner]) for each in images]
    head = model.config.heads[0]
    objects, values = None, None
    if isinstance(head, DetectionConfig):
        objects = _points(model, head, grid, images, config, margin_px)
    else:
        blended = blend_windows(run_windows(model, seen, images, config), seen, images)
        if isinstance(head, SegmentationConfig):
            objects = _polygons(blended, head, grid, config, inner)
        else:
            values = np.clip(blended[0][inner] / _LABEL_RANGE, 0.0, 1.0).astype(np.float32)
    return TilePredictions(
        task, month, tile, grid, _observed(grid, inner_images), objects, values,
        parents={"radiometry": RADIOMETRY, "config": config.model_dump(mode="json"), **(parents or {})},
    )  # fmt: skip


def _require_fit(model: SatlasModel, task: str, grid: TileGrid, images: Sequence[TileImage]) -> None:
    kinds = {SegmentationConfig: "polygons", DetectionConfig: "points", RegressionConfig: "values"}
    head = model.config.heads[0]
    found = kinds.get(type(head))
    if TASK_KINDS.get(task) != found or len(model.config.heads) != 1:
        raise ConfigurationError(
            f"task {task} predicts {TASK_KINDS.get(task, 'nothing known')}, but the model has "
            f"{len(model.config.heads)} heads, the first of kind {head.kind}; expected one head for it: name the task "
            f"the weights are of, one of {', '.join(TASK_KINDS)}"
        )
    shape = (grid.height_px, grid.width_px)
    for number, image in enumerate(images):
        if image.channels.shape != (9, *shape) or image.present.shape != shape:
            raise ConfigurationError(
                f"image {number} has shape {image.channels.shape}; expected {(9, *shape)}, nine channels on the tile's "
                "grid"
            )


def _starts(size_px: int, config: InferenceConfig) -> list[int]:
    last = max(size_px - config.window_px, 0)
    return [*range(0, last, config.window_px - config.overlap_px), last]


def run_windows(
    model: SatlasModel, grid: TileGrid, images: Sequence[TileImage], config: InferenceConfig
) -> Iterator[tuple[Window, Any]]:
    """Windows with an image and what the head gives there."""
    device = next(model.parameters()).device
    windows = [
        (window, present)
        for window in tile_windows(grid.height_px, grid.width_px, config)
        if (present := _present(images, window, config)).any()
    ]
    batch_size = config.batch_size_on(device.type)
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        stacked = torch.stack([cut_window(images, window, model.config.num_channels) for window, _ in batch])
        has_image = torch.from_numpy(np.stack([each for _, each in batch]))
        with torch.inference_mode(), autocast_for(device, config):
            (given,) = model(stacked.to(device).float() / _LABEL_RANGE, has_image.to(device))
        for position, (window, _) in enumerate(batch):
            yield window, _on_cpu(given[position])


def autocast_for(device: torch.device, config: InferenceConfig) -> AbstractContextManager[Any]:
    """A block in which a model computes in the precision asked for."""
    reduced = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if reduced else nullcontext()


def _on_cpu(given: Any) -> Any:  # noqa: ANN401
    if isinstance(given, Tensor):
        return given.float().cpu().numpy()
    return {name: each.float().cpu().numpy() for name, each in given.items()}


def _present(images: Sequence[TileImage], window: Window, config: InferenceConfig) -> NDArray[np.bool_]:
    shares = [each.present[_part(window)].sum() / window.size_px**2 for each in images]
    if shares and max(shares) > 0 and max(shares) < config.min_present:
        return np.array([share == max(shares) for share in shares])
    return np.array([share >= config.min_present for share in shares], dtype=np.bool_)


def _part(window: Window) -> tuple[slice, slice]:
    return (
        slice(window.row, window.row + window.size_px),
        slice(window.column, window.column + window.size_px),
    )


def cut_window(images: Sequence[TileImage], window: Window, num_channels: int) -> Tensor:
    """Images of a window, uint8, (image, channel, size, size), zeros beyond the tile."""
    cut = np.zeros((len(images), num_channels, window.size_px, window.size_px), dtype=np.uint8)
    for position, image in enumerate(images):
        part = image.channels[(slice(num_channels), *_part(window))]
        cut[position, :, : part.shape[1], : part.shape[2]] = part
    return torch.from_numpy(cut)


def blend_windows(
    found: Iterator[tuple[Window, NDArray[np.float32]]], grid: TileGrid, images: Sequence[TileImage]
) -> NDArray[np.float32]:
    """Weighted means over windows, (outputs, rows, columns); NaN where no image has a value."""
    shape = (grid.height_px, grid.width_px)
    total: NDArray[np.float32] | None = None
    weights = np.zeros(shape, dtype=np.float32)
    for window, outputs in found:
        given = outputs if outputs.ndim == 3 else outputs[None]
        total = np.zeros((len(given), *shape), dtype=np.float32) if total is None else total
        rows, columns = _part(window)
        height, width = weights[rows, columns].shape
        weight = _raised_cosine(window.size_px)[:height, :width]
        total[:, rows, columns] += given[:, :height, :width] * weight
        weights[rows, columns] += weight
    blended = np.full((1 if total is None else len(total), *shape), np.nan, dtype=np.float32)
    seen = _seen(grid, images) & (weights > 0)
    if total is not None:
        blended[:, seen] = total[:, seen] / weights[seen]
    return blended


def _raised_cosine(size_px: int) -> NDArray[np.float32]:
    middles = (np.arange(size_px) + 0.5) / size_px
    profile = 0.5 - 0.5 * np.cos(2 * np.pi * middles) + 1e-3
    return np.outer(profile, profile).astype(np.float32)


def _seen(grid: TileGrid, images: Sequence[TileImage]) -> NDArray[np.bool_]:
    seen = np.zeros((grid.height_px, grid.width_px), dtype=np.bool_)
    for image in images:
        seen |= image.present
    return seen


def _observed(grid: TileGrid, images: Sequence[TileImage]) -> NDArray[np.uint8]:
    """How many images cover at least half of each cell."""
    cell = gcd(gcd(grid.height_px, grid.width_px), _OBSERVED_CELL_PX)
    counts = np.zeros((grid.height_px // cell, grid.width_px // cell), dtype=np.uint8)
    for image in images:
        shares = image.present.reshape(counts.shape[0], cell, counts.shape[1], cell).mean(axis=(1, 3))
        counts += (shares >= 0.5).astype(np.uint8)
    return counts


def predict_points(
    model: SatlasModel, grid: TileGrid, images: Sequence[TileImage], config: InferenceConfig
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """Points that a detection model finds in a tile, each once.

    Returns:
        Column and row in pixels from the tile's upper left corner, shape (n, 2); category, counted from 0; score.
    """
    rows: list[NDArray[np.float64]] = [np.zeros((0, 4))]
    border_px = max(config.overlap_px / 2 - config.merge_distance_m / grid.resolution_m, 0.0)
    for window, given in run_windows(model, grid, images, config):
        boxes = given["boxes"].astype(np.float64)
        column, row = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        kept = _is_own(row, window.row, window.size_px, grid.height_px, border_px)
        kept &= _is_own(column, window.column, window.size_px, grid.width_px, border_px)
        kept &= given["scores"] >= config.min_score
        placed = [column + window.column, row + window.row, given["labels"] - 1, given["scores"]]
        rows.append(np.column_stack(placed)[kept])
    column, row, category, score = np.concatenate(rows).T
    places = np.column_stack([column, row])
    chosen = _once(places * grid.resolution_m, category, score, config.merge_distance_m)
    return places[chosen], category[chosen].astype(np.intp), score[chosen]


def _points(
    model: SatlasModel,
    head: DetectionConfig,
    grid: TileGrid,
    images: Sequence[TileImage],
    config: InferenceConfig,
    margin_px: int,
) -> "geopandas.GeoDataFrame":
    from shapely import points

    places, category, score = predict_points(model, grid.padded(margin_px), images, config)
    places = places - margin_px
    reach_px = config.merge_distance_m / grid.resolution_m
    near = ((places >= -reach_px) & (places < (grid.width_px + reach_px, grid.height_px + reach_px))).all(axis=1)
    (column, row), category, score = places[near].T, category[near], score[near]
    x_m, y_m = grid.west_m + column * grid.resolution_m, grid.north_m - row * grid.resolution_m
    return _frame(points(x_m, y_m), [head.categories[each] for each in category], score, grid)


def _is_own(middle: NDArray[np.float64], start: int, size_px: int, tile_px: int, border_px: float) -> NDArray[np.bool_]:
    """Whether positions are so far from the edges of a window that are not the tile's."""
    low = 0.0 if start == 0 else border_px
    high = size_px if start + size_px >= tile_px else size_px - border_px
    return np.asarray((middle >= low) & (middle < high) & (middle + start < tile_px))


def _once(
    places_m: NDArray[np.float64], category: NDArray[np.float64], score: NDArray[np.float64], distance_m: float
) -> NDArray[np.intp]:
    """Rows to keep, the highest score first, none near another of its category that is kept."""
    from scipy.spatial import cKDTree

    if not len(places_m):
        return np.zeros(0, dtype=np.intp)
    tree = cKDTree(places_m)
    dropped = np.zeros(len(places_m), dtype=np.bool_)
    kept = []
    for index in np.lexsort((places_m[:, 1], places_m[:, 0], -score)):
        if dropped[index]:
            continue
        kept.append(index)
        near = np.array(tree.query_ball_point(places_m[index], distance_m))
        dropped[near[category[near] == category[index]]] = True
    return np.array(kept, dtype=np.intp)


def _polygons(
    blended: NDArray[np.float32],
    head: SegmentationConfig,
    grid: TileGrid,
    config: InferenceConfig,
    inner: tuple[slice, slice],
) -> "geopandas.GeoDataFrame":
    """Polygons of a tile, cut at its edge; their size and score are those of the whole, as far as it was seen."""
    from rasterio.features import shapes
    from rasterio.transform import from_origin
    from scipy import ndimage
    from shapely import union_all
    from shapely.geometry import shape

    transform = from_origin(grid.west_m, grid.north_m, grid.resolution_m, grid.resolution_m)
    geometry, names, scores = [], [], []
    categories = enumerate(head.categories)
    for position, name in categories:
        share = np.nan_to_num(blended[min(position, len(blended) - 1)], nan=0.0)
        labels, number = ndimage.label(share > config.threshold, structure=np.ones((3, 3)))
        index = np.arange(1, number + 1)
        sizes, means = ndimage.sum_labels(labels > 0, labels, index), ndimage.mean(share, labels, index)
        parts: dict[int, list[Any]] = {}
        own = labels[inner].astype(np.int32)
        for outline, label in shapes(own, mask=own > 0, connectivity=8, transform=transform):
            parts.setdefault(int(label), []).append(shape(outline))
        for label, outlines in sorted(parts.items()):
            if sizes[label - 1] >= config.min_area_px:
                geometry.append(outlines[0] if len(outlines) == 1 else union_all(outlines))
                names.append(name)
                scores.append(float(means[label - 1]))
    return _frame(geometry, names, np.array(scores), grid)


def _frame(geometry: Any, names: list[str], scores: NDArray[np.float64], grid: TileGrid) -> "geopandas.GeoDataFrame":  # noqa: ANN401
    import geopandas
    import pandas as pd

    columns = {"category": pd.Series(names, dtype=object), "score": np.asarray(scores, dtype=np.float64)}
    return geopandas.GeoDataFrame(columns, geometry=list(geometry), crs=f"EPSG:{grid.epsg}")
