"""Class probabilities of every pixel of a scene, by windows that slide over it and are blended.

A window has one vector of probabilities. A pixel takes the mean of those of the windows that hold it, weighted by a
raised cosine in both directions, which is largest at the middle of a window and falls to zero at its edge, so that no
window's edge shows.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.ground_cover.scene_raster import SceneRaster, is_valid
from pipelines.progress import Progress
from pipelines.sentinel2 import QUANTIFICATION

logger = logging.getLogger(__name__)

Classify = Callable[[torch.Tensor], torch.Tensor]
"""Reflectance (n, 12, size, size) to probabilities (n, classes)."""

_GRID_ROWS_AT_ONCE: Final = 16
MINIMUM_VALID_SHARE: Final = 0.25
"""Windows with fewer valid pixels say nothing."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows over an axis of pixels, the outer ones partly beyond its ends.

    Attributes:
        size_px: Side of a window.
        stride_px: Step from one window to the next; divides the size.
        shift_px: Where the grid begins, 0 to ``stride_px - 1``.
    """

    size_px: int
    stride_px: int
    shift_px: int = 0

    def __post_init__(self) -> None:
        if self.size_px < 2 or not 1 <= self.stride_px <= self.size_px // 2 or self.size_px % self.stride_px:
            raise ConfigurationError(
                f"windows of {self.size_px} px every {self.stride_px} px: expected a stride that divides the size and "
                "is at most half of it"
            )
        if not 0 <= self.shift_px < self.stride_px:
            raise ConfigurationError(f"shift of {self.shift_px} px: expected 0 to {self.stride_px - 1}")

    def starts(self, length: int) -> NDArray[np.intp]:
        """First pixel of every window that holds a pixel of an axis; negative beyond its beginning."""
        earliest = 1 - self.size_px
        return np.arange(earliest + (self.shift_px - earliest) % self.stride_px, length, self.stride_px)

    def weights(self, length: int, pixels: NDArray[np.intp]) -> NDArray[np.float32]:
        """How much each window counts in some pixels of an axis, shape (pixels, windows)."""
        inside = pixels[:, None] - self.starts(length)[None, :]
        weight = np.sin(np.pi * (inside + 0.5) / self.size_px) ** 2
        return np.where((inside >= 0) & (inside < self.size_px), weight, 0.0).astype(np.float32)


@dataclass(frozen=True)
class WindowScores:
    """Probabilities of all windows of a scene.

    Attributes:
        probabilities: Shape (rows of windows, columns of windows, classes); zeros where ``is_known`` is false.
        is_known: Which windows have enough valid pixels.
        rows: The grid of rows.
        columns: The grid of columns.
        shape: Rows and columns of the scene.
    """

    probabilities: NDArray[np.float32]
    is_known: NDArray[np.bool_]
    rows: WindowGrid
    columns: WindowGrid
    shape: tuple[int, int]

    def blend(self, pixel_rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Probabilities of all pixels of some rows, shape (classes, rows, columns); zeros where no window is known."""
        height, width = self.shape
        down = self.rows.weights(height, pixel_rows)
        across = self.columns.weights(width, np.arange(width)).T
        total = down @ self.is_known.astype(np.float32) @ across
        summed = np.stack([down @ each @ across for each in np.moveaxis(self.probabilities, 2, 0)])
        blended: NDArray[np.float32] = np.divide(summed, total, out=np.zeros_like(summed), where=total > 0)
        return blended


def score_windows(
    scene: SceneRaster,
    classify: Classify,
    num_classes: int,
    size_px: int,
    stride_px: int,
    boa_add_offset: int = 0,
    shift_px: tuple[int, int] = (0, 0),
    num_workers: int = 1,
    windows_at_once: int = 8,
) -> WindowScores:
    """Probabilities of all windows of a scene; beyond its edges the scene is mirrored.

    Pixels without data count as the mean of the others in their window.

    Args:
        scene: The bands.
        classify: The model.
        num_classes: Classes that it tells apart.
        size_px: Side of a window.
        stride_px: Step between windows.
        boa_add_offset: What to add to digital numbers, 0 or -1000.
        shift_px: Where the grid begins, rows and columns.
        num_workers: Threads that call the model side by side, each with one thread of PyTorch; 0 calls it in this one.
        windows_at_once: Windows that the model is given together; few stay in a CPU's cache.

    Raises:
        ConfigurationError: Size and stride do not fit.
        SceneContentError: A file is damaged.
    """
    rows, columns = WindowGrid(size_px, stride_px, shift_px[0]), WindowGrid(size_px, stride_px, shift_px[1])
    row_starts, column_starts = rows.starts(scene.height), columns.starts(scene.width)
    shape = (len(row_starts), len(column_starts))
    probabilities = np.zeros((*shape, num_classes), dtype=np.float32)
    is_known = np.zeros(shape, dtype=bool)
    seen_columns = _mirrored(np.arange(column_starts[0], column_starts[-1] + size_px), scene.width)
    progress = Progress(logger, "dense map", shape[0] * shape[1], "windows")

    def score_row(number: int, reflectance: NDArray[np.float32], valid: NDArray[np.bool_]) -> int:
        for at, windows, known in _windows(reflectance, valid, size_px, stride_px, windows_at_once):
            is_known[number, at] = known
            if known.any():
                found = classify(torch.from_numpy(windows[known])).float().cpu().numpy()
                probabilities[number, np.arange(shape[1])[at][known]] = found
        return shape[1]

    with _workers(num_workers) as apply:
        for first in range(0, shape[0], _GRID_ROWS_AT_ONCE):
            group = row_starts[first : first + _GRID_ROWS_AT_ONCE]
            dn = scene.read_rows(_mirrored(np.arange(group[0], group[-1] + size_px), scene.height))[:, :, seen_columns]
            valid = is_valid(dn)
            reflectance = np.maximum(dn.astype(np.float32) + np.float32(boa_add_offset), 0) / np.float32(QUANTIFICATION)
            strips = [slice(start, start + size_px) for start in (group - group[0]).tolist()]
            numbers = range(first, first + len(group))
            for count in apply(score_row, numbers, [reflectance[:, x] for x in strips], [valid[x] for x in strips]):
                progress.advance(count)
    return WindowScores(probabilities, is_known, rows, columns, (scene.height, scene.width))


@contextmanager
def _workers(num_workers: int) -> Iterator[Callable[..., Iterable[int]]]:
    """Applies a function to arguments as `map` does, side by side.

    Several threads with one of PyTorch's each share cores better than one whose every small step is divided.
    """
    if not num_workers:
        yield map
        return
    with ThreadPoolExecutor(num_workers, "windows", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool.map


def _windows(
    reflectance: NDArray[np.float32], valid: NDArray[np.bool_], size_px: int, stride_px: int, at_once: int
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Windows of a strip, some at a time: where, shape (n, 12, size, size), and which have enough valid pixels."""
    starts = np.arange(0, valid.shape[1] - size_px + 1, stride_px)
    for first in range(0, len(starts), at_once):
        chosen = starts[first : first + at_once]
        windows = np.stack([reflectance[:, :, start : start + size_px] for start in chosen])
        masks = np.stack([valid[:, start : start + size_px] for start in chosen])
        shares = masks.mean(axis=(1, 2))
        for index in np.flatnonzero((shares < 1) & (shares >= MINIMUM_VALID_SHARE)):
            mean = windows[index][:, masks[index]].mean(axis=1)
            windows[index][:, ~masks[index]] = mean[:, None]
        yield slice(first, first + len(chosen)), windows, shares >= MINIMUM_VALID_SHARE


def _mirrored(pixels: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Pixels of an axis, those beyond its ends mirrored at the outer ones."""
    if length == 1:
        return np.zeros_like(pixels)
    period = 2 * (length - 1)
    folded = np.abs(pixels) % period
    return np.where(folded < length, folded, period - folded)
