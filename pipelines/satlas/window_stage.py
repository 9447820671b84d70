"""Windows of a month from a STAC catalog, tile by tile; what is there is not made again."""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.errors import ArtefactError, SatclipError, SceneContentError
from pipelines.patches.async_read import open_reader
from pipelines.patches.config import PatchConfig
from pipelines.patches.together import all_or_none, run_on_own_loop
from pipelines.patches.windows import Grid, PatchReader, PatchWindow, ReadTally
from pipelines.progress import Progress
from pipelines.provenance import content_hash
from pipelines.sampling.areas import area_of_box
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.items import Scene, scene_hrefs, scene_of_item
from pipelines.satlas.area_tiles import AreaTile, tiles_of_area
from pipelines.satlas.images import MODEL_BANDS, TileImage, band_channels
from pipelines.satlas.mosaics import ImagePeriod, is_clear, mosaic, periods_of_month
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.windows import (
    RECORD_FILE,
    PeriodImages,
    read_tile_image_file,
    read_windows_record,
    windows_folder,
    write_tile_image,
    write_windows,
)
from pipelines.satlas.windows_config import WindowsConfig
from pipelines.sentinel2 import SCENE_CLASSIFICATION

logger = logging.getLogger(__name__)

SEARCH_CELL_M: Final = 100_000.0
"""Tiles of a square of this size share a search."""
_ALL_COVERED: Final = 0.999
_UNSAFE: Final = re.compile(r"[^\w.-]")


@dataclass(frozen=True)
class WindowsRun:
    """What became of a month's tiles.

    Attributes:
        made: Folders made now.
        kept: Folders that were there, of the same settings.
        failures: Tiles that could not be made, and why.
        without_image: Tiles of which no period has an image.
    """

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    without_image: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """An image of a tile whose scene classification was read."""

    scene: Scene
    clear: NDArray[np.bool_]

    @property
    def share(self) -> float:
        return float(self.clear.mean())


def build_windows(root: Path, month: str, config: WindowsConfig, catalog: Catalog) -> WindowsRun:
    """Makes the windows of an area for a month; one that fails is noted, the others go on.

    A window is written when it is known, and the same call takes it from there. Images are kept below
    ``satlas/images/TILE``, because the next months look at them again.

    Args:
        root: The workspace.
        month: ``YYYY-MM``.
        config: The area, and which images are chosen.
        catalog: Opened for searching.

    Raises:
        CatalogError: The search fails after its retries; nothing of the tiles not yet made is kept.
        ConfigurationError: The area cannot be read.
        ValueError: The month is not of the form YYYY-MM.
    """
    periods = periods_of_month(month, config.num_periods, config.period_days)
    parents = {
        "config": config.content,
        "config_sha256": content_hash(config.content),
        "collection": catalog.collection,
    }
    run, pending = WindowsRun(), []
    for tile in tiles_of_area(config):
        folder = windows_folder(root, month, tile.name)
        if _is_there(folder, parents):
            run.kept.append(folder)
        else:
            pending.append(tile)
    logger.info("satlas windows of %s: %d tiles to make, %d there already", month, len(pending), len(run.kept))
    if pending:
        maker = _Maker(root, month, config, catalog, periods, parents, run)
        run_on_own_loop(lambda: maker.make(pending))
    run.without_image.extend(
        folder.name
        for folder in sorted([*run.made, *run.kept])
        if all("file" not in entry for entry in read_windows_record(folder)["periods"])
    )
    return run


def _is_there(folder: Path, parents: dict[str, Any]) -> bool:
    if not (folder / RECORD_FILE).is_file():
        return False
    try:
        return bool(read_windows_record(folder)["parents"] == parents)
    except ArtefactError:
        return False


class _Maker:
    """Searches, reads and writes the windows of one month."""

    def __init__(
        self,
        root: Path,
        month: str,
        config: WindowsConfig,
        catalog: Catalog,
        periods: list[ImagePeriod],
        parents: dict[str, Any],
        run: WindowsRun,
    ) -> None:
        self.root, self.month, self.config, self.catalog = root, month, config, catalog
        self.periods, self.parents, self.run = periods, parents, run

    async def make(self, tiles: list[AreaTile]) -> None:
        """Makes all of them, as many at a time as the settings say."""
        config = self.config
        progress = Progress(logger, f"windows {self.month}", len(tiles), "tiles")
        settings = PatchConfig(max_attempts=config.max_attempts, backoff_s=config.backoff_s)
        slots = asyncio.Semaphore(config.num_workers)
        async with open_reader(self.catalog, settings) as reader:

            async def one(tile: AreaTile, scenes: list[Scene]) -> None:
                async with slots:
                    try:
                        found = [await self._period(reader, tile, period, scenes) for period in self.periods]
                        folder = await asyncio.to_thread(
                            write_windows, self.root, self.month, tile.name, tile.grid, found, self.parents
                        )
                        self.run.made.append(folder)
                    except (SatclipError, OSError) as error:
                        logger.warning("tile %s: no window: %s", tile.name, error)
                        self.run.failures[tile.name] = str(error)
                    progress.advance()

            for group in _search_groups(tiles):
                scenes = await asyncio.to_thread(self._search, group)
                await all_or_none([one(tile, _scenes_over(tile.grid, scenes)) for tile in group])

    def _search(self, tiles: Sequence[AreaTile]) -> list[Scene]:
        """All scenes that may show one of the tiles, each acquisition once, as it was processed last."""
        corners = np.concatenate([_corners_lonlat_deg(tile.grid) for tile in tiles])
        found = self.catalog.search(
            area_of_box(corners), self.periods[-1].start.isoformat(), self.periods[0].end.isoformat(), 100.0
        )
        newest: dict[tuple[str, str], Scene] = {}
        for item in found:
            scene = scene_of_item(item, self.catalog)
            if isinstance(scene, str):
                logger.warning("item %s left out: %s", item.get("id"), scene)
                continue
            key = (scene.mgrs_tile or scene.item_id, scene.datetime[:19])
            if key not in newest or _age(newest[key]) < _age(scene):
                newest[key] = scene
        return [newest[key] for key in sorted(newest)]

    async def _period(
        self, reader: PatchReader, tile: AreaTile, period: ImagePeriod, scenes: Sequence[Scene]
    ) -> PeriodImages:
        config = self.config
        own = [scene for scene in scenes if period.holds(date.fromisoformat(scene.datetime[:10]))]
        own.sort(key=lambda scene: (np.nan_to_num(scene.scene_cloud_cover_percent, nan=100.0), scene.item_id))
        if not own:
            return PeriodImages(period, None, [], "the catalog has no image of the tile in these days")
        kept = own[: config.max_candidates]
        candidates = [
            each for each in await all_or_none([self._candidate(reader, tile, scene) for scene in kept]) if each
        ]
        candidates.sort(key=lambda each: (-each.share, each.scene.item_id))
        chosen: list[_Candidate] = []
        images: list[TileImage] = []
        covered = np.zeros((tile.grid.height_px, tile.grid.width_px), dtype=np.bool_)
        for each in candidates:
            if len(images) == config.max_images or covered.mean() >= _ALL_COVERED:
                break
            if not (each.clear & ~covered).any():
                continue
            image = await self._image(reader, tile, each.scene)
            if image is not None:
                image = TileImage(image.channels, image.present & each.clear)
                covered |= image.present
                images.append(image)
                chosen.append(each)
        best = f"{max((each.share for each in candidates), default=0.0):.1%}"
        if not images or covered.mean() < config.min_clear:
            return PeriodImages(
                period, None, [],
                f"of {len(own)} images the clearest of {len(candidates)} shows {best} of the tile, together they show "
                f"{covered.mean():.1%}; expected {config.min_clear:.1%}",
            )  # fmt: skip
        whole, shares = mosaic(images)
        items = [
            {
                "id": each.scene.item_id, "datetime": each.scene.datetime, "clear": each.share, "used": share,
                "boa_add_offset": each.scene.boa_add_offset, "baseline": each.scene.processing_baseline,
            }
            for each, share in zip(chosen, shares, strict=True)
        ]  # fmt: skip
        return PeriodImages(period, whole, items)

    async def _candidate(self, reader: PatchReader, tile: AreaTile, scene: Scene) -> _Candidate | None:
        """Where a scene shows a tile's ground; None where its classification is damaged or missing for good."""
        path = self._cached(tile, scene, "clear.npz")
        if path.is_file():
            with np.load(path) as content:
                packed = np.unpackbits(content["clear"], count=tile.grid.height_px * tile.grid.width_px)
            return _Candidate(scene, packed.astype(np.bool_).reshape(tile.grid.height_px, tile.grid.width_px))
        hrefs = scene_hrefs(scene)
        if SCENE_CLASSIFICATION not in hrefs:
            logger.warning("item %s left out: it has no scene classification", scene.item_id)
            return None
        read = await self._read(reader, tile, scene, {SCENE_CLASSIFICATION: hrefs[SCENE_CLASSIFICATION]})
        if read is None:
            return None
        clear = is_clear(read[SCENE_CLASSIFICATION].astype(np.uint8))
        with replacing(path) as partial, partial.open("wb") as handle:
            np.savez_compressed(handle, clear=np.packbits(clear))
        return _Candidate(scene, clear)

    async def _image(self, reader: PatchReader, tile: AreaTile, scene: Scene) -> TileImage | None:
        """A scene's channels over a tile, clouds and all; None where a file of it is damaged or missing for good."""
        path = self._cached(tile, scene, "tif")
        if path.is_file():
            return read_tile_image_file(path, tile.grid)
        hrefs = scene_hrefs(scene)
        read = await self._read(reader, tile, scene, {band: hrefs[band] for band in MODEL_BANDS})
        if read is None:
            return None
        image = TileImage(*band_channels(read, scene.boa_add_offset))
        await asyncio.to_thread(write_tile_image, path, image, tile.grid)
        return image

    async def _read(
        self, reader: PatchReader, tile: AreaTile, scene: Scene, hrefs: dict[str, str]
    ) -> dict[str, NDArray[Any]] | None:
        """Bands of a scene on a tile's grid, 0 where the scene ends."""
        grid = Grid(scene.epsg, scene.x_ul_m, scene.y_ul_m, scene.width_px, scene.height_px, scene.resolution_m)
        size = tile.grid.height_px
        row = round((scene.y_ul_m - tile.grid.north_m) / scene.resolution_m)
        column = round((tile.grid.west_m - scene.x_ul_m) / scene.resolution_m)
        first_row = min(max(row, 0), max(scene.height_px - size, 0))
        first_column = min(max(column, 0), max(scene.width_px - size, 0))
        window = PatchWindow(first_row, first_column, size)
        try:
            found = await reader.read_bands(hrefs, grid, window, ReadTally())
        except SceneContentError as error:
            logger.warning("item %s left out of tile %s: %s", scene.item_id, tile.name, error)
            return None
        return {band: _moved(values, row - first_row, column - first_column) for band, values in found.items()}

    def _cached(self, tile: AreaTile, scene: Scene, suffix: str) -> Path:
        return self.root / "satlas" / "images" / tile.name / f"{_UNSAFE.sub('_', scene.item_id)}.{suffix}"


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


def _age(scene: Scene) -> tuple[str, str, str]:
    return scene.generation_time, scene.processing_baseline, scene.item_id


def _search_groups(tiles: Sequence[AreaTile]) -> Iterator[list[AreaTile]]:
    def cell(tile: AreaTile) -> tuple[int, float, float]:
        return tile.grid.epsg, tile.grid.west_m // SEARCH_CELL_M, tile.grid.north_m // SEARCH_CELL_M

    for _, group in groupby(sorted(tiles, key=lambda tile: (cell(tile), tile.name)), key=cell):
        yield list(group)


def _corners_lonlat_deg(grid: TileGrid) -> NDArray[np.float64]:
    from pyproj import Transformer

    west, south, east, north = grid.bounds_m
    lon, lat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(
        [west, west, east, east], [south, north, south, north]
    )
    return np.column_stack([lon, lat])


def _scenes_over(grid: TileGrid, scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes in a tile's zone that share pixels with it, on the same grid of pixels."""
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
