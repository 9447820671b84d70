"""Which images show a place: chosen per square of a grid that no tile moves, so that tiles that overlap agree."""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.errors import SceneContentError
from pipelines.patches.together import all_or_none
from pipelines.patches.windows import Grid, PatchReader, PatchWindow, ReadTally
from pipelines.sampling.items import Scene, scene_hrefs
from pipelines.satlas.area_tiles import AreaTile
from pipelines.satlas.images import MODEL_BANDS, TileImage, band_channels
from pipelines.satlas.mosaics import ImagePeriod, is_clear
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.windows import read_tile_image_file, write_tile_image
from pipelines.satlas.windows_config import WindowsConfig
from pipelines.sentinel2 import SCENE_CLASSIFICATION

logger = logging.getLogger(__name__)

_ALL_COVERED: Final = 0.999
_UNSAFE: Final = re.compile(r"[^\w.-]")


@dataclass(frozen=True)
class ChosenImage:
    """An image of a square.

    Attributes:
        scene: The scene it is part of.
        share: Of the square that it shows clearly.
        packed: Where, as bits.
    """

    scene: Scene
    share: float
    packed: NDArray[np.uint8]

    def clear(self, side_px: int) -> NDArray[np.bool_]:
        """Where it shows the ground of the square, (side_px, side_px)."""
        return np.unpackbits(self.packed, count=side_px**2).astype(np.bool_).reshape(side_px, side_px)


@dataclass(frozen=True)
class CellChoice:
    """The images of a square in a period.

    Attributes:
        found: Scenes of the catalog that show a part of it.
        num_read: How many of them had a scene classification that could be read.
        best: Largest share that one of these shows clearly.
        chosen: The uppermost first.
    """

    found: tuple[Scene, ...]
    num_read: int
    best: float
    chosen: tuple[ChosenImage, ...]


class ImageChooser:
    """Chooses images and reads them; a square is decided once per period, whichever tiles ask.

    Args:
        root: The workspace, which keeps what was read for the months that look at it again.
        config: How many images are looked at and taken.
        reader: Open.
        scenes: All that may show one of the squares, each acquisition once.
    """

    def __init__(self, root: Path, config: WindowsConfig, reader: PatchReader, scenes: Sequence[Scene]) -> None:
        self._root, self._config, self._reader, self._scenes = root, config, reader, scenes
        self._choices: dict[tuple[str, ImagePeriod, frozenset[str]], asyncio.Task[CellChoice]] = {}

    async def choose(self, cell: AreaTile, period: ImagePeriod, excluded: frozenset[str]) -> CellChoice:
        """The images of a square: the clearest on top, then those that fill its holes.

        Args:
            cell: The square.
            period: Days of the images.
            excluded: Items that cannot be used.

        Raises:
            SceneReadError: A file cannot be read now.
        """
        key = (cell.name, period, excluded)
        if key not in self._choices:
            self._choices[key] = asyncio.ensure_future(self._choose(cell, period, excluded))
        return await asyncio.shield(self._choices[key])

    async def _choose(self, cell: AreaTile, period: ImagePeriod, excluded: frozenset[str]) -> CellChoice:
        found = [
            scene
            for scene in scenes_over(cell.grid, self._scenes)
            if period.holds(date.fromisoformat(scene.datetime[:10])) and scene.item_id not in excluded
        ]
        found.sort(key=lambda scene: (np.nan_to_num(scene.scene_cloud_cover_percent, nan=100.0), scene.item_id))
        looked_at = [self._candidate(cell, scene) for scene in found[: self._config.max_candidates]]
        candidates = [each for each in await all_or_none(looked_at) if each]
        candidates.sort(key=lambda each: (-each.share, each.scene.item_id))
        side_px = cell.grid.height_px
        covered = np.zeros((side_px, side_px), dtype=np.bool_)
        chosen: list[ChosenImage] = []
        for each in candidates:
            if len(chosen) == self._config.max_images or covered.mean() >= _ALL_COVERED:
                break
            clear = each.clear(side_px)
            if (clear & ~covered).any():
                covered |= clear
                chosen.append(each)
        best = max((each.share for each in candidates), default=0.0)
        return CellChoice(tuple(found), len(candidates), best, tuple(chosen))

    async def _candidate(self, cell: AreaTile, scene: Scene) -> ChosenImage | None:
        """What a scene shows of a square; None where its classification is damaged or missing for good."""
        path = self._kept("clear", cell.grid, cell.name, scene, "npz")
        if path.is_file():
            with np.load(path) as content:
                return ChosenImage(scene, float(content["share"]), content["clear"])
        hrefs = scene_hrefs(scene)
        if SCENE_CLASSIFICATION not in hrefs:
            logger.warning("item %s left out: it has no scene classification", scene.item_id)
            return None
        read = await self._read(cell.name, cell.grid, scene, {SCENE_CLASSIFICATION: hrefs[SCENE_CLASSIFICATION]})
        if read is None:
            return None
        clear = is_clear(read[SCENE_CLASSIFICATION].astype(np.uint8))
        image = ChosenImage(scene, float(clear.mean()), np.packbits(clear))
        with replacing(path) as partial, partial.open("wb") as handle:
            np.savez_compressed(handle, clear=image.packed, share=image.share)
        return image

    async def image(self, tile: str, grid: TileGrid, scene: Scene) -> TileImage | None:
        """A scene's channels over a tile, clouds and all; None where a file of it is damaged or missing for good.

        Raises:
            SceneReadError: A file cannot be read now.
        """
        path = self._kept("images", grid, tile, scene, "tif")
        if path.is_file():
            return read_tile_image_file(path, grid)
        hrefs = scene_hrefs(scene)
        read = await self._read(tile, grid, scene, {band: hrefs[band] for band in MODEL_BANDS})
        if read is None:
            return None
        image = TileImage(*band_channels(read, scene.boa_add_offset))
        await asyncio.to_thread(write_tile_image, path, image, grid)
        return image

    async def _read(
        self, tile: str, wanted: TileGrid, scene: Scene, hrefs: dict[str, str]
    ) -> dict[str, NDArray[Any]] | None:
        """Bands of a scene on a square of pixels, 0 where the scene ends."""
        grid = Grid(scene.epsg, scene.x_ul_m, scene.y_ul_m, scene.width_px, scene.height_px, scene.resolution_m)
        size = wanted.height_px
        row = round((scene.y_ul_m - wanted.north_m) / scene.resolution_m)
        column = round((wanted.west_m - scene.x_ul_m) / scene.resolution_m)
        first_row = min(max(row, 0), max(scene.height_px - size, 0))
        first_column = min(max(column, 0), max(scene.width_px - size, 0))
        window = PatchWindow(first_row, first_column, size)
        try:
            found = await self._reader.read_bands(hrefs, grid, window, ReadTally())
        except SceneContentError as error:
            logger.warning("item %s left out of tile %s: %s", scene.item_id, tile, error)
            return None
        return {band: _moved(values, row - first_row, column - first_column) for band, values in found.items()}

    def _kept(self, kind: str, grid: TileGrid, name: str, scene: Scene, suffix: str) -> Path:
        side = str(grid.height_px)
        return self._root / "satlas" / kind / side / name / f"{_UNSAFE.sub('_', scene.item_id)}.{suffix}"


def scenes_over(grid: TileGrid, scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes in a grid's zone that share pixels with it, on the same raster of pixels."""
    west, south, east, north = grid.bounds_m
    return [
        scene
        for scene in scenes
        if scene.epsg == grid.epsg
        and scene.resolution_m == grid.resolution_m
        and scene.x_ul_m < east
        and scene.x_ul_m + scene.width_px * scene.resolution_m > west
        and scene.y_ul_m > south
        and scene.y_ul_m - scene.height_px * scene.resolution_m < north
        and (scene.x_ul_m - west) % grid.resolution_m == 0
        and (scene.y_ul_m - north) % grid.resolution_m == 0
    ]


def _moved(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Values of a square that was read ``rows`` above and ``columns`` left of where it is wanted; 0 beyond it."""
    if not rows and not columns:
        return values
    height, width = values.shape
    moved = np.zeros_like(values)
    from_row, to_row = max(rows, 0), max(-rows, 0)
    from_column, to_column = max(columns, 0), max(-columns, 0)
    part = values[from_row : height - to_row, from_column : width - to_column]
    moved[to_row : to_row + part.shape[0], to_column : to_column + part.shape[1]] = part
    return moved
