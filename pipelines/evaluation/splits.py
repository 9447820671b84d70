"""Folds for cross-validation: places at random, or whole blocks of the globe."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.errors import TableError


class SplitConfig(BaseModel):
    """How places are divided into folds.

    Attributes:
        kind: ``random`` divides the places, ``blocks`` divides square cells of longitude and latitude, each whole.
        num_folds: Number of folds; at least 3, so that something can be chosen within the training folds.
        cell_deg: Size of a cell in degrees; for ``blocks`` only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random", "blocks"]
    num_folds: int = Field(default=5, ge=3)
    cell_deg: float | None = Field(default=None, gt=0, le=180)

    @model_validator(mode="after")
    def _cells_belong_to_blocks(self) -> Self:
        if (self.kind == "blocks") != (self.cell_deg is not None):
            raise ValueError(f"split {self.kind!r} has cell_deg {self.cell_deg}; blocks need it, random takes none")
        return self

    def assign(self, lonlat_deg: NDArray[np.float64], seed: int) -> "Folds":
        """Folds of places, shape (n, 2), longitude first in degrees, drawn by ``seed``.

        Raises:
            TableError: There are fewer places, or fewer blocks with places, than folds.
        """
        if self.cell_deg is None:
            return random_folds(lonlat_deg, self.num_folds, seed)
        return block_folds(lonlat_deg, self.cell_deg, self.num_folds, seed)


@dataclass(frozen=True)
class Folds:
    """Which fold tests each place.

    Attributes:
        fold: Shape (n,), 0 to ``num_folds - 1``.
        block: Shape (n,), 0 to the number of blocks less 1: places that share it are never parted. Of random folds,
            each distinct place is a block of its own.
        num_folds: Number of folds, none of them empty.
    """

    fold: NDArray[np.int64]
    block: NDArray[np.int64]
    num_folds: int

    def train_test(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Row numbers to train on and to test on, fold by fold."""
        for index in range(self.num_folds):
            yield np.flatnonzero(self.fold != index), np.flatnonzero(self.fold == index)


def random_folds(lonlat_deg: NDArray[np.float64], num_folds: int, seed: int) -> Folds:
    """Folds of places drawn at random; rows with the same coordinates share a fold.

    Raises:
        TableError: There are fewer distinct places than folds.
    """
    return _divide(_normalized(lonlat_deg), num_folds, seed, "distinct places")


def block_folds(lonlat_deg: NDArray[np.float64], cell_deg: float, num_folds: int, seed: int) -> Folds:
    """Folds of whole cells of ``cell_deg`` degrees, about equal in number of places; see `block_cells`.

    Raises:
        TableError: There are fewer cells with places than folds.
    """
    cells = block_cells(lonlat_deg, cell_deg)
    return _divide(cells, num_folds, seed, f"blocks of {cell_deg:g} degrees with places")


def block_cells(lonlat_deg: NDArray[np.float64], cell_deg: float) -> NDArray[np.float64]:
    """Column and row, whole numbers from 0, of the cell of ``cell_deg`` degrees that each place is in, shape (n, 2).

    Cells start at the antimeridian and the south pole. Longitudes -180 and 180 are one meridian, a pole is one place.
    """
    cells: NDArray[np.float64] = np.floor((_normalized(lonlat_deg) + np.array([180.0, 90.0])) / cell_deg)
    cells[:, 1] = np.minimum(cells[:, 1], np.ceil(180.0 / cell_deg) - 1)
    return cells


def _normalized(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    lon_deg = np.where(np.abs(lonlat_deg[:, 1]) == 90.0, -180.0, lonlat_deg[:, 0])
    return np.column_stack([np.where(lon_deg == 180.0, -180.0, lon_deg), lonlat_deg[:, 1]]) + 0.0


def _divide(keys: NDArray[np.float64], num_folds: int, seed: int, what: str) -> Folds:
    _, block, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    if len(sizes) < num_folds:
        raise TableError(
            f"found {len(sizes)} {what}, but {num_folds} folds need as many; use fewer folds or smaller blocks"
        )
    # The factor lets the seed move large blocks too; sorted by size alone, they would always be dealt out alike.
    order = np.argsort(-sizes * np.random.default_rng(seed).uniform(0.5, 1.0, len(sizes)), kind="stable")
    fold_of_block = np.empty(len(sizes), dtype=np.int64)
    loads = [(0, index) for index in range(num_folds)]
    for chosen in order.tolist():
        load, index = heapq.heappop(loads)
        fold_of_block[chosen] = index
        heapq.heappush(loads, (load + int(sizes[chosen]), index))
    return Folds(fold_of_block[block], block.astype(np.int64), num_folds)
