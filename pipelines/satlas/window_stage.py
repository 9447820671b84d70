"""Windows of a month from a STAC catalog, tile by tile; what is there is not made again."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ArtefactError, SatclipError
from pipelines.patches.async_read import open_reader
from pipelines.patches.config import PatchConfig
from pipelines.patches.together import all_or_none, run_on_own_loop
from pipelines.progress import Progress
from pipelines.provenance import content_hash
from pipelines.sampling.areas import area_of_box
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.items import Scene, scene_of_item
from pipelines.satlas.area_tiles import AreaTile, cells_under, tiles_of_area
from pipelines.satlas.image_choice import CellChoice, ImageChooser
from pipelines.satlas.images import MODEL_BANDS, TileImage
from pipelines.satlas.mosaics import ImagePeriod, mosaic, periods_of_month
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.windows import RECORD_FILE, PeriodImages, read_windows_record, windows_folder, write_windows
from pipelines.satlas.windows_config import WindowsConfig

logger = logging.getLogger(__name__)

SEARCH_CELL_M: Final = 100_000.0
"""Tiles of a square of this size share a search."""
_NUM_CHANNELS: Final = len(MODEL_BANDS)


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


def build_windows(root: Path, month: str, config: WindowsConfig, catalog: Catalog) -> WindowsRun:
    """Makes the windows of an area for a month; one that fails is noted, the others go on.

    A window is written when it is known, and the same call takes it from there. Images are kept below ``satlas/images``
    and ``satlas/clear``, because the next months look at them again.

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

            async def one(tile: AreaTile, chooser: ImageChooser) -> None:
                async with slots:
                    try:
                        found = [await self._period(chooser, tile, period) for period in self.periods]
                        folder = await asyncio.to_thread(
                            write_windows, self.root, self.month, tile.name, tile.grid, found, self.parents,
                            config.margin_px,
                        )  # fmt: skip
                        self.run.made.append(folder)
                    except (SatclipError, OSError) as error:
                        logger.warning("tile %s: no window: %s", tile.name, error)
                        self.run.failures[tile.name] = str(error)
                    progress.advance()

            for group in _search_groups(tiles):
                scenes = await asyncio.to_thread(self._search, group)
                chooser = ImageChooser(self.root, config, reader, scenes)
                await all_or_none([one(tile, chooser) for tile in group])

    def _cells(self, tile: AreaTile) -> list[AreaTile]:
        return cells_under(tile.grid.padded(self.config.margin_px), self.config.cell_side_px)

    def _search(self, tiles: Sequence[AreaTile]) -> list[Scene]:
        """All scenes that may show a square that a tile reaches, each acquisition once, as it was processed last."""
        cells = {cell.name: cell for tile in tiles for cell in self._cells(tile)}
        corners = np.concatenate([_corners_lonlat_deg(cell.grid) for cell in cells.values()])
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

    async def _period(self, chooser: ImageChooser, tile: AreaTile, period: ImagePeriod) -> PeriodImages:
        """The mosaic of a period; an image whose files are damaged is left out, and the squares choose again."""
        grid, cells = tile.grid.padded(self.config.margin_px), self._cells(tile)
        excluded: frozenset[str] = frozenset()
        while True:
            choices = [await chooser.choose(cell, period, excluded) for cell in cells]
            scenes = {each.scene.item_id: each.scene for choice in choices for each in choice.chosen}
            images = {name: await chooser.image(tile.name, grid, scene) for name, scene in scenes.items()}
            damaged = {name for name, image in images.items() if image is None}
            if not damaged:
                break
            excluded |= damaged
        usable = {name: image for name, image in images.items() if image is not None}
        return self._assembled(tile, period, list(zip(cells, choices, strict=True)), usable)

    def _assembled(
        self,
        tile: AreaTile,
        period: ImagePeriod,
        choices: Sequence[tuple[AreaTile, CellChoice]],
        images: Mapping[str, TileImage],
    ) -> PeriodImages:
        found = {scene.item_id for _, choice in choices for scene in choice.found}
        if not found:
            return PeriodImages(period, None, [], "the catalog has no image of the tile in these days")
        margin_px, grid = self.config.margin_px, tile.grid.padded(self.config.margin_px)
        whole, clear, used = _mosaic_of_cells(grid, choices, images)
        inner = slice(margin_px, margin_px + tile.grid.height_px)
        covered = float(whole.present[inner, inner].mean())
        if covered < self.config.min_clear:
            best = max(choice.best for _, choice in choices)
            num_read = max(choice.num_read for _, choice in choices)
            return PeriodImages(
                period, None, [],
                f"of {len(found)} images the clearest of {num_read} shows {best:.1%} of a square of "
                f"{self.config.cell_side_px} pixels, together they show {covered:.1%} of the tile; "
                f"expected {self.config.min_clear:.1%}",
            )  # fmt: skip
        scenes = {each.scene.item_id: each.scene for _, choice in choices for each in choice.chosen}
        items = [
            {
                "id": name, "datetime": scenes[name].datetime, "clear": clear[name], "used": share,
                "boa_add_offset": scenes[name].boa_add_offset, "baseline": scenes[name].processing_baseline,
            }
            for name, share in sorted(used.items(), key=lambda each: (-each[1], each[0])) if share > 0
        ]  # fmt: skip
        return PeriodImages(period, whole, items)


def _mosaic_of_cells(
    grid: TileGrid, choices: Sequence[tuple[AreaTile, CellChoice]], images: Mapping[str, TileImage]
) -> tuple[TileImage, dict[str, float], dict[str, float]]:
    """A mosaic of what each square chose, and of each image the share that it shows clearly and that it gave."""
    channels = np.zeros((_NUM_CHANNELS, grid.height_px, grid.width_px), dtype=np.uint8)
    present = np.zeros((grid.height_px, grid.width_px), dtype=np.bool_)
    clear: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for cell, choice in choices:
        here, there = grid.shared_part(cell.grid), cell.grid.shared_part(grid)
        parts: list[TileImage] = []
        for each in choice.chosen:
            image = images[each.scene.item_id]
            shown: NDArray[np.bool_] = each.clear(cell.grid.height_px)[there]
            parts.append(TileImage(image.channels[(slice(None), *here)], image.present[here] & shown))
            clear[each.scene.item_id] += int(shown.sum())
        if not parts:
            continue
        laid, shares = mosaic(parts)
        channels[(slice(None), *here)], present[here] = laid.channels, laid.present
        for each, share in zip(choice.chosen, shares, strict=True):
            used[each.scene.item_id] += round(share * laid.present.size)
    return (
        TileImage(channels, present),
        {name: number / present.size for name, number in clear.items()},
        {name: number / present.size for name, number in used.items()},
    )


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
