"""Folds for cross-validation: places at random, whole blocks of the globe, or whole continents."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.errors import TableError
from pipelines.evaluation.sphere import EARTH_RADIUS_KM, block_cells, normalized, unit_vectors
from pipelines.evaluation.tasks.continents import NO_CONTINENT, continent_of

CONTINENT_BLOCKS_DEG: Final = 10.0
"""Blocks within a continent that intervals draw."""
MIN_PLACES_PER_CONTINENT: Final = 20


class SplitConfig(BaseModel):
    """How places are divided into folds.

    Attributes:
        kind: ``random`` divides the places; ``blocks`` divides square cells of longitude and latitude, each whole;
            ``continents`` holds out each continent in turn.
        num_folds: Number of folds; at least 3, so that something can be chosen within the training folds. Continents
            are as many as there are.
        cell_deg: Size of a cell in degrees; for ``blocks`` only.
        buffer_km: Places nearer than this to a tested place are not trained on, along the great circle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random", "blocks", "continents"]
    num_folds: int = Field(default=5, ge=3)
    cell_deg: float | None = Field(default=None, gt=0, le=180)
    buffer_km: float = Field(default=0.0, ge=0, le=20_000)

    @model_validator(mode="after")
    def _cells_belong_to_blocks(self) -> Self:
        if (self.kind == "blocks") != (self.cell_deg is not None):
            raise ValueError(f"split {self.kind!r} has cell_deg {self.cell_deg}; blocks need it, others take none")
        return self

    def assign(self, lonlat_deg: NDArray[np.float64], seed: int, continents: Path | None = None) -> "Folds":
        """Folds of places, shape (n, 2), longitude first in degrees, drawn by ``seed``.

        Args:
            lonlat_deg: The places.
            seed: Of the draw.
            continents: Polygons of continents; see `continent_of`.

        Raises:
            TableError: There are fewer places, blocks with places or continents than folds, or a buffer leaves a fold
                nothing to train on.
        """
        if self.kind == "continents":
            folds = continent_folds(lonlat_deg, continent_of(lonlat_deg, continents))
        elif self.cell_deg is None:
            folds = random_folds(lonlat_deg, self.num_folds, seed)
        else:
            folds = block_folds(lonlat_deg, self.cell_deg, self.num_folds, seed)
        return with_buffer(folds, lonlat_deg, self.buffer_km) if self.buffer_km > 0 else folds


@dataclass(frozen=True)
class Folds:
    """Which fold tests each place.

    Attributes:
        fold: Shape (n,), 0 to ``num_folds - 1``; -1 for places that are neither trained on nor tested.
        block: Shape (n,), 0 to the number of blocks less 1: places that share it are never parted. Of random folds,
            each distinct place is a block of its own.
        num_folds: Number of folds, none of them empty.
        excluded: Per fold the rows that are not trained on although another fold tests them; empty without a buffer.
        names: What each fold is called where they are scored one by one; empty where they are scored together.
    """

    fold: NDArray[np.int64]
    block: NDArray[np.int64]
    num_folds: int
    excluded: tuple[NDArray[np.intp], ...] = ()
    names: tuple[str, ...] = ()

    def train_test(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Row numbers to train on and to test on, fold by fold."""
        for index in range(self.num_folds):
            yield self.train_rows(index), np.flatnonzero(self.fold == index)

    def train_rows(self, index: int) -> NDArray[np.intp]:
        """Row numbers to train on where a fold is tested."""
        train = (self.fold != index) & (self.fold >= 0)
        if self.excluded:
            train[self.excluded[index]] = False
        return np.flatnonzero(train)


def random_folds(lonlat_deg: NDArray[np.float64], num_folds: int, seed: int) -> Folds:
    """Folds of places drawn at random; rows with the same coordinates share a fold.

    Raises:
        TableError: There are fewer distinct places than folds.
    """
    return _divide(normalized(lonlat_deg), num_folds, seed, "distinct places")


def block_folds(lonlat_deg: NDArray[np.float64], cell_deg: float, num_folds: int, seed: int) -> Folds:
    """Folds of whole cells of ``cell_deg`` degrees, about equal in number of places; see `block_cells`.

    Raises:
        TableError: There are fewer cells with places than folds.
    """
    cells = block_cells(lonlat_deg, cell_deg)
    return _divide(cells, num_folds, seed, f"blocks of {cell_deg:g} degrees with places")


def continent_folds(lonlat_deg: NDArray[np.float64], continent: NDArray[np.str_]) -> Folds:
    """A fold per continent, in alphabetical order; blocks are cells of 10 degrees within it.

    Places without a continent, and continents with fewer than 20 places, are left out.

    Raises:
        TableError: There are fewer than 3 continents.
    """
    names, counts = np.unique(continent, return_counts=True)
    kept = [str(name) for name, count in zip(names, counts, strict=True)
            if name != NO_CONTINENT and count >= MIN_PLACES_PER_CONTINENT]  # fmt: skip
    if len(kept) < 3:
        raise TableError(
            f"found {len(kept)} continents with at least {MIN_PLACES_PER_CONTINENT} places "
            f"({', '.join(kept) or 'none'}), but holding one out needs 3; leave the split by continents out"
        )
    fold = np.full(len(continent), -1, dtype=np.int64)
    for index, name in enumerate(kept):
        fold[continent == name] = index
    cells = np.column_stack([fold, block_cells(lonlat_deg, CONTINENT_BLOCKS_DEG)])
    block = np.unique(cells, axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    return Folds(fold, block, len(kept), names=tuple(kept))


def with_buffer(folds: Folds, lonlat_deg: NDArray[np.float64], buffer_km: float) -> Folds:
    """The same folds, no place of which is trained on within ``buffer_km`` of a place that is tested.

    Raises:
        TableError: A fold has nothing left to train on.
    """
    from scipy.spatial import cKDTree

    vectors = unit_vectors(lonlat_deg)
    chord = 2.0 * math.sin(min(buffer_km / EARTH_RADIUS_KM, math.pi) / 2.0)
    excluded = []
    for index in range(folds.num_folds):
        train, test = folds.train_rows(index), np.flatnonzero(folds.fold == index)
        distance, _ = cKDTree(vectors[test]).query(vectors[train], distance_upper_bound=chord * (1 + 1e-12) + 1e-12)
        excluded.append(train[np.isfinite(distance)])
        if len(excluded[-1]) == len(train):
            raise TableError(
                f"a buffer of {buffer_km:g} km leaves fold {index} of {folds.num_folds} no place to train on; use a "
                "smaller buffer"
            )
    return replace(folds, excluded=tuple(excluded))


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
