"""The files of a scene: which layout each has, and which rendered block answers which of its tiles."""

import re
from typing import Final

from pipelines.sandbox import spectra
from pipelines.sandbox.bounded_cache import BoundedCache
from pipelines.sandbox.geotiff import GeoTiffLayout, Level
from pipelines.sandbox.land_cover import LandCoverMap, map_from_path
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import Scene, scene_from_product_name
from pipelines.sandbox.tiling import TILE_SIZE_M

_PATH: Final = re.compile(r"([A-Z0-9_]+T[0-9]{6})/(B\d\d|B8A|SCL|visual)\.tif")


def cog_layout(scene: Scene, band: str) -> GeoTiffLayout:
    """Layout of the file of one band."""
    resolution = spectra.RESOLUTION_M[band]
    return GeoTiffLayout(
        width=TILE_SIZE_M // resolution,
        resolution_m=float(resolution),
        dtype="uint8" if band in ("SCL", "visual") else "uint16",
        num_samples=3 if band == "visual" else 1,
        epsg=scene.tile.epsg,
        x_ul_m=float(scene.tile.x_ul_m),
        y_ul_m=float(scene.tile.y_ul_m),
    )


class CogStore:
    """Opens virtual files by path; keeps a bounded number of headers and rendered tiles."""

    def __init__(self, renderer: Renderer, num_headers: int = 256, num_tiles: int = 128) -> None:
        self._renderer = renderer
        self._files: BoundedCache[CogFile] = BoundedCache(num_headers)
        self._tiles: BoundedCache[bytes] = BoundedCache(num_tiles)

    def open(self, path: str) -> "CogFile | MapFile":
        """The file at ``<product name>/<band>.tif``, or of a land-cover map.

        Raises:
            FileNotFoundError: No scene, band or map has that name.
        """
        land_cover = map_from_path(path)
        if land_cover is not None:
            return MapFile(land_cover, self._renderer, self._tiles)
        match = _PATH.fullmatch(path)
        if match is None or match[2] not in spectra.RESOLUTION_M:
            raise FileNotFoundError(path)
        try:
            scene = scene_from_product_name(match[1])
        except ValueError as error:
            raise FileNotFoundError(f"{path}: {error}") from error
        return self._files.get(path, lambda: CogFile(scene, match[2], self._renderer, self._tiles))


class CogFile:
    """One virtual file."""

    def __init__(self, scene: Scene, band: str, renderer: Renderer, tiles: BoundedCache[bytes]) -> None:
        self.layout = cog_layout(scene, band)
        self._scene = scene
        self._band = band
        self._renderer = renderer
        self._tiles = tiles

    def render_tile(self, level: Level, row: int, col: int) -> bytes:
        """Bytes of one tile of one level."""

        def compute() -> bytes:
            resolution = self.layout.resolution_m * level.factor
            return self._renderer.render(self._scene, self._band, row, col, resolution).tobytes()

        return self._tiles.get((self._scene, self._band, level.factor, row, col), compute)


class MapFile:
    """The virtual file of one land-cover map."""

    def __init__(self, land_cover: LandCoverMap, renderer: Renderer, tiles: BoundedCache[bytes]) -> None:
        self.layout = land_cover.layout
        self._tile = land_cover.tile
        self._renderer = renderer
        self._tiles = tiles

    def render_tile(self, level: Level, row: int, col: int) -> bytes:
        """Bytes of one tile of one level; those of all years are the same."""

        def compute() -> bytes:
            resolution = self.layout.resolution_m * level.factor
            return self._renderer.land_cover(self._tile, row, col, resolution).tobytes()

        return self._tiles.get((self._tile, "land-cover", level.factor, row, col), compute)
