"""Pixels of any block of any band, tile and date, from nothing but the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox import kernels, spectra
from pipelines.sandbox.bounded_cache import BoundedCache
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.land_cover import CODES, ICE_CODE, WARM_FROM_C, WATER_CODE
from pipelines.sandbox.scenes import HALF_SWATH, Scene
from pipelines.sandbox.tiling import TILE_SIZE_M, Tile
from pipelines.sandbox.utm import central_meridian_deg

BLOCK_SIZE: Final = 256
FINE_WAVELENGTH_M: Final = 45.0
VISUAL_BANDS: Final = ("B04", "B03", "B02")
VISUAL_WHITE: Final = 0.35
"""Reflectance shown as 255 in the true-colour image."""
CLOUD_WAVELENGTHS_M: Final = (900_000.0, 300_000.0, 80_000.0, 20_000.0, 5_000.0, 1_500.0)
CLOUD_WEIGHTS: Final = (0.64, 0.56, 0.40, 0.28, 0.18, 0.10)
STATISTICS_SIZE: Final = 24
"""Points per side at which a scene's percentages are measured."""


@dataclass(frozen=True)
class BlockView:
    """Where a block of pixels lies: what a layer needs to know.

    Attributes:
        band: ``B01`` to ``B12``, ``B8A`` or ``SCL``.
        x_ul_m: Easting of the block's upper left corner in the tile's EPSG code.
        y_ul_m: Northing of the same.
        resolution_m: Size of a pixel.
    """

    scene: Scene
    band: str
    x_ul_m: float
    y_ul_m: float
    resolution_m: float


class Layer(Protocol):
    """Something that changes the ground with time: a building site, a felled forest, a ship."""

    def apply(self, view: BlockView, plane: NDArray[np.float32] | NDArray[np.uint8]) -> None:
        """Changes ``plane`` in place: reflectance before clouds (float32), or classes (uint8) if the band is SCL."""


@dataclass(frozen=True)
class _Ground:
    """What a block of a tile has in common for all bands and dates."""

    lonlat_rad: NDArray[np.float64]
    fields: NDArray[np.float32]
    fine: NDArray[np.float32]


def _lattice_step(resolution_m: float) -> int:
    """Pixels per lattice cell: as wide as the finest field of a lattice (500 m) allows."""
    if resolution_m <= 20:
        return 8
    if resolution_m <= 60:
        return 4
    return 2 if resolution_m <= 80 else 1


class Renderer:
    """Renders blocks; safe to share between threads.

    Args:
        planet: The fields.
        layers: Changes of the ground by date, applied in order.
        capacity: Number of blocks whose fields are kept for the next band, 0.35 MB each.
    """

    def __init__(self, planet: Planet, layers: Sequence[Layer] = (), capacity: int = 160) -> None:
        self.planet = planet
        self._layers = tuple(layers)
        self._spectra = spectra.band_spectra(planet.seed)
        self._grounds: BoundedCache[_Ground] = BoundedCache(capacity)
        self._skies: BoundedCache[NDArray[np.float32]] = BoundedCache(capacity)
        self._statistics: BoundedCache[tuple[NDArray[np.float64], NDArray[np.float32]]] = BoundedCache(4)
        self._cloud_wavelengths = np.array(CLOUD_WAVELENGTHS_M, dtype=np.float32)
        self._cloud_weights = np.array(CLOUD_WEIGHTS, dtype=np.float32)

    def _ground(self, tile: Tile, resolution_m: float, row: int, col: int) -> _Ground:
        def compute() -> _Ground:
            step = _lattice_step(resolution_m)
            count = BLOCK_SIZE // step + 1
            extent = BLOCK_SIZE * resolution_m
            lonlat = kernels.position_lattice(
                float(tile.x_ul_m + col * extent),
                float(tile.signed_y_ul_m - row * extent),
                float(step * resolution_m),
                count,
                float(np.radians(central_meridian_deg(tile.zone))),
            )
            fields = kernels.fields_at(lonlat, *self.planet.field_arguments).reshape(-1, count, count)
            if resolution_m <= FINE_WAVELENGTH_M:
                fine = kernels.texture_plane(lonlat, count, step, BLOCK_SIZE, FINE_WAVELENGTH_M, self.planet.salts[6])
            else:
                fine = np.zeros((BLOCK_SIZE, BLOCK_SIZE), dtype=np.float32)
            return _Ground(lonlat, fields, fine)

        return self._grounds.get((tile, resolution_m, row, col), compute)

    def _sky(self, scene: Scene, resolution_m: float, row: int, col: int, ground: _Ground) -> NDArray[np.float32]:
        def compute() -> NDArray[np.float32]:
            count = BLOCK_SIZE // _lattice_step(resolution_m) + 1
            return self._sky_at(scene, ground.lonlat_rad).reshape(-1, count, count)

        return self._skies.get((scene.tile, scene.sensed, scene.relative_orbit, resolution_m, row, col), compute)

    def render(
        self, scene: Scene, band: str, row: int, col: int, resolution_m: float | None = None
    ) -> NDArray[np.generic]:
        """One block of 256 x 256 pixels, block row and column counted from the tile's upper left corner.

        Args:
            scene: Tile, time and baseline.
            band: One of the 12 bands (uint16), ``SCL`` (uint8) or ``visual`` (uint8, shape (256, 256, 3)).
            row: Block row.
            col: Block column.
            resolution_m: Pixel size; by default the band's own, more for an overview.

        Returns:
            The block; pixels beyond the tile's edge are 0.

        Raises:
            ValueError: There is no such band.
        """
        if band not in spectra.RESOLUTION_M:
            raise ValueError(f"no band {band!r}; there are {', '.join(spectra.RESOLUTION_M)}")
        resolution = float(resolution_m or spectra.RESOLUTION_M[band])
        if band == "visual":
            planes = [self._reflectance_dn(scene, name, row, col, resolution, offset_dn=0) for name in VISUAL_BANDS]
            shown = np.stack(planes, axis=-1).astype(np.float32) * (255.0 / (10_000.0 * VISUAL_WHITE))
            block: NDArray[np.generic] = np.where(
                planes[0][..., None] == 0, np.uint8(0), np.clip(shown, 1, 255).astype(np.uint8)
            )
        elif band == "SCL":
            block = self.classify(scene, row, col, resolution)
        else:
            block = self._reflectance_dn(scene, band, row, col, resolution, offset_dn=-scene.boa_add_offset)
        _clear_beyond_edge(block, row, col, resolution)
        return block

    def _reflectance_dn(
        self, scene: Scene, band: str, row: int, col: int, resolution_m: float, offset_dn: int
    ) -> NDArray[np.uint16]:
        ground = self._ground(scene.tile, resolution_m, row, col)
        sky = self._sky(scene, resolution_m, row, col, ground)
        spectrum = self._spectra[band]
        step = _lattice_step(resolution_m)
        lattice = kernels.reflectance_lattice(
            ground.fields,
            scene.season,
            spectrum.endmembers,
            spectrum.signatures,
            spectrum.biome_gain,
            spectrum.cover_gain,
            spectra.COVER_GREEN_ARRAY,
            spectra.ROUGHNESS_ARRAY,
        )
        surface = np.empty((BLOCK_SIZE, BLOCK_SIZE), dtype=np.float32)
        kernels.surface_plane(
            lattice,
            ground.fields[kernels.LANDNESS],
            ground.fields[kernels.TEXTURE],
            ground.fine,
            step,
            np.float32(min(1.0, 10.0 / resolution_m) ** 0.5),
            surface,
        )
        self.apply_layers(scene, band, row, col, resolution_m, surface)
        out = np.empty((BLOCK_SIZE, BLOCK_SIZE), dtype=np.uint16)
        cloud = np.float32(spectrum.cloud_reflectance)
        kernels.encode_plane(surface, sky, step, np.float32(HALF_SWATH), cloud, offset_dn, out)
        return out

    def classify(self, scene: Scene, row: int, col: int, resolution_m: float) -> NDArray[np.uint8]:
        """Scene classes of one block, uint8 (256, 256)."""
        ground = self._ground(scene.tile, resolution_m, row, col)
        sky = self._sky(scene, resolution_m, row, col, ground)
        out = np.empty((BLOCK_SIZE, BLOCK_SIZE), dtype=np.uint8)
        kernels.classify_plane(
            ground.fields,
            sky,
            _lattice_step(resolution_m),
            np.float32(HALF_SWATH),
            scene.season,
            spectra.COVER_GREEN_ARRAY,
            out,
        )
        self.apply_layers(scene, "SCL", row, col, resolution_m, out)
        return out

    def land_cover(self, tile: Tile, row: int, col: int, resolution_m: float) -> NDArray[np.uint8]:
        """Land-cover codes of one block of a tile, uint8 (256, 256); pixels beyond the tile's edge are 0."""
        ground = self._ground(tile, resolution_m, row, col)
        out = np.empty((BLOCK_SIZE, BLOCK_SIZE), dtype=np.uint8)
        kernels.land_cover_plane(
            ground.fields, _lattice_step(resolution_m), CODES, ICE_CODE, WATER_CODE, WARM_FROM_C, out
        )
        _clear_beyond_edge(out, row, col, resolution_m)
        return out

    def scene_classes(self, scene: Scene) -> NDArray[np.uint8]:
        """Classes at 24 x 24 points spread over the scene, from which its percentages are counted; without layers."""
        lonlat, fields = self._statistics.get(scene.tile, lambda: self._statistics_points(scene.tile))
        sky = self._sky_at(scene, lonlat)
        classes: NDArray[np.uint8] = kernels.classify_points(
            fields, sky, np.float32(HALF_SWATH), scene.season, spectra.COVER_GREEN_ARRAY
        )
        return classes.reshape(STATISTICS_SIZE, STATISTICS_SIZE)

    def _statistics_points(self, tile: Tile) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        spacing = TILE_SIZE_M / STATISTICS_SIZE
        lonlat = kernels.position_lattice(
            float(tile.x_ul_m + spacing / 2),
            float(tile.signed_y_ul_m - spacing / 2),
            float(spacing),
            STATISTICS_SIZE,
            float(np.radians(central_meridian_deg(tile.zone))),
        )
        return lonlat, kernels.fields_at(lonlat, *self.planet.field_arguments)

    def _sky_at(self, scene: Scene, lonlat_rad: NDArray[np.float64]) -> NDArray[np.float32]:
        sky: NDArray[np.float32] = kernels.sky_at(
            lonlat_rad,
            scene.days,
            scene.swath_normal,
            self._cloud_wavelengths,
            self._cloud_weights,
            self.planet.cloud_drift,
            self.planet.salts[7],
        )
        return sky

    def apply_layers(
        self,
        scene: Scene,
        band: str,
        row: int,
        col: int,
        resolution_m: float,
        plane: NDArray[np.float32] | NDArray[np.uint8],
    ) -> None:
        """Lets the layers change a block's ground, or its classes, in place; `render` does so before clouds."""
        if not self._layers:
            return
        extent = plane.shape[0] * resolution_m
        view = BlockView(scene, band, scene.tile.x_ul_m + col * extent, scene.tile.y_ul_m - row * extent, resolution_m)
        for layer in self._layers:
            layer.apply(view, plane)


def _clear_beyond_edge(block: NDArray[Any], row: int, col: int, resolution_m: float) -> None:
    limit = pixels_across(TILE_SIZE_M, resolution_m)
    block[max(0, limit - row * BLOCK_SIZE) :] = 0
    block[:, max(0, limit - col * BLOCK_SIZE) :] = 0


def pixels_across(extent_m: float, resolution_m: float) -> int:
    """Number of pixels that cover an extent; the last one may reach beyond it."""
    return int(-(-extent_m // resolution_m))
