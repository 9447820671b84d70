"""A Sentinel-2-like scene whose pixels carry their own coordinates.

A digital number is ``1 + (row * a + col + c) mod 65521`` with a (about 256) and c of each band's own: a shift, a flip,
swapped axes, a swapped band or another scene give other numbers, and never 0, which stays free for nodata. Within one
band no shift of fewer than 230 pixels keeps the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin
from shapely import box, transform
from shapely.geometry import MultiPolygon, Polygon, mapping

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
NATIVE_RESOLUTION_M = dict.fromkeys(BANDS, 20) | {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10, "B09": 60, "SCL": 20,
}  # fmt: skip
SIZE_10M_PX = 1098
MODULUS = 65521
VEGETATION = 4
NO_DATA = 0


def expected_dn(band: str, rows: ArrayLike, cols: ArrayLike, scene_number: int = 0) -> NDArray[np.uint16]:
    """Digital numbers at pixels of the band's own grid (10, 20 or 60 m); ``rows`` and ``cols`` broadcast."""
    index = BANDS.index(band)
    rows, cols = np.asarray(rows, dtype=np.int64), np.asarray(cols, dtype=np.int64)
    number = rows * (251 + 2 * index) + cols + 4099 * index + 9973 * scene_number
    return np.asarray(number % MODULUS + 1, dtype=np.uint16)


class SclBlock(NamedTuple):
    """A rectangle of one scene class, in pixels of the SCL grid (20 m)."""

    row: int
    col: int
    height: int
    width: int
    scl_class: int


@dataclass(frozen=True)
class CoordinateScene:
    """One scene: 12 bands and SCL as COGs, and its item in the Planetary Computer's form.

    Attributes:
        epsg: 326zz or 327zz.
        x_ul_m: Easting of the outer corner in the north-west.
        y_ul_m: Northing of that corner.
        coarsening: 10 gives grids of 100, 200 and 600 m (a whole tile of 109.8 km) with as many pixels.
        scene_number: Enters every digital number, so that two scenes differ everywhere.
        scl_blocks: Painted in order over ``background_class``. Where SCL is 0 every band is 0 too.
        projection_field: ``proj:epsg`` as in the older items of the Planetary Computer, or ``proj:code``.
        left_out: Assets that the item lacks.
    """

    epsg: int
    x_ul_m: float
    y_ul_m: float
    mgrs_tile: str
    acquired: datetime = datetime(2022, 6, 11, 10, 20, 31, 24000, tzinfo=UTC)
    processed: datetime = datetime(2022, 6, 12, 3, 4, 5, tzinfo=UTC)
    processing_baseline: str = "04.00"
    cloud_cover_percent: float = 3.25
    platform: Literal["Sentinel-2A", "Sentinel-2B", "Sentinel-2C"] = "Sentinel-2A"
    relative_orbit: int = 65
    coarsening: int = 1
    scene_number: int = 0
    scl_blocks: Sequence[SclBlock] = ()
    background_class: int = VEGETATION
    projection_field: Literal["proj:epsg", "proj:code"] = "proj:epsg"
    left_out: frozenset[str] = field(default_factory=frozenset)

    @property
    def item_id(self) -> str:
        """Name in the pattern of the Planetary Computer."""
        spacecraft = "S2" + self.platform[-1]
        return (
            f"{spacecraft}_MSIL2A_{self.acquired:%Y%m%dT%H%M%S}_R{self.relative_orbit:03d}_T{self.mgrs_tile}"
            f"_{self.processed:%Y%m%dT%H%M%S}"
        )

    def resolution_m(self, band: str) -> int:
        """Pixel size of a band or of SCL."""
        return NATIVE_RESOLUTION_M[band] * self.coarsening

    def size_px(self, band: str) -> int:
        """Rows, and columns, of a band or of SCL."""
        return SIZE_10M_PX * 10 // NATIVE_RESOLUTION_M[band]

    def transform(self, band: str) -> Affine:
        """Pixel (col, row) to metres."""
        return from_origin(self.x_ul_m, self.y_ul_m, self.resolution_m(band), self.resolution_m(band))

    def scl(self) -> NDArray[np.uint8]:
        """Scene classes on the 20 m grid, shape (549, 549)."""
        classes = np.full((self.size_px("SCL"),) * 2, self.background_class, dtype=np.uint8)
        for row, col, height, width, scl_class in self.scl_blocks:
            classes[row : row + height, col : col + width] = scl_class
        return classes

    def dn(self, band: str) -> NDArray[np.uint16]:
        """All pixels of a band on its own grid."""
        size_px = self.size_px(band)
        values = expected_dn(band, np.arange(size_px)[:, None], np.arange(size_px), self.scene_number)
        empty = self.scl() == NO_DATA
        if NATIVE_RESOLUTION_M[band] == 10:
            empty = empty.repeat(2, axis=0).repeat(2, axis=1)
        elif NATIVE_RESOLUTION_M[band] == 60:
            empty = empty.reshape(size_px, 3, size_px, 3).all(axis=(1, 3))
        return np.where(empty, np.uint16(0), values)

    def expected_patch(self, row: int, col: int, size_px: int = 256) -> NDArray[np.uint16]:
        """What a patch must hold: shape (12, size, size), bands in the order of ``BANDS``.

        Args:
            row: Row of the patch's first pixel on the 10 m grid; 20 and 60 m bands are replicated to that grid.
            col: Its column.
            size_px: Rows and columns.
        """
        rows, cols = np.arange(row, row + size_px), np.arange(col, col + size_px)
        ratios = {band: NATIVE_RESOLUTION_M[band] // 10 for band in BANDS}
        return np.stack([self.dn(band)[np.ix_(rows // ratios[band], cols // ratios[band])] for band in BANDS])

    def pixel_at(self, lon_deg: float, lat_deg: float, band: str = "B02") -> tuple[int, int]:
        """Row and column of the pixel of ``band`` in which a place lies."""
        x_m, y_m = Transformer.from_crs(4326, self.epsg, always_xy=True).transform(lon_deg, lat_deg)
        resolution_m = self.resolution_m(band)
        return int((self.y_ul_m - y_m) // resolution_m), int((x_m - self.x_ul_m) // resolution_m)

    def lonlat_at(self, row: float, col: float, band: str = "B02") -> tuple[float, float]:
        """Place of a pixel: ``(row + 0.5, col + 0.5)`` is the middle of pixel (row, col)."""
        x_m, y_m = self.transform(band) @ (col, row)
        lon_deg, lat_deg = Transformer.from_crs(self.epsg, 4326, always_xy=True).transform(x_m, y_m)
        return float(lon_deg), float(lat_deg)

    def file_name(self, band: str) -> str:
        """Path of a band's COG, relative to the served folder."""
        native_m = NATIVE_RESOLUTION_M[band]
        name = f"T{self.mgrs_tile}_{self.acquired:%Y%m%dT%H%M%S}_{band}_{native_m}m.tif"
        return f"{self.item_id}.SAFE/R{native_m}m/{name}"

    def write(self, folder: Path) -> None:
        """Writes the 13 COGs (512-pixel tiles, DEFLATE, overviews by nearest neighbour) below ``folder``."""
        pixels = CoordinateScene(
            self.epsg, self.x_ul_m, self.y_ul_m, "", coarsening=self.coarsening, scene_number=self.scene_number,
            scl_blocks=tuple(self.scl_blocks), background_class=self.background_class,
        )  # fmt: skip
        for band in (*BANDS, "SCL"):
            path = folder / self.file_name(band)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_cog(pixels, band))

    def geometry(self) -> Polygon | MultiPolygon:
        """Outline in longitude and latitude; split where it crosses the antimeridian."""
        side_m = SIZE_10M_PX * 10 * self.coarsening
        square = box(self.x_ul_m, self.y_ul_m - side_m, self.x_ul_m + side_m, self.y_ul_m).segmentize(side_m / 8)
        to_lonlat = Transformer.from_crs(self.epsg, 4326, always_xy=True).transform
        outline = transform(square, lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=1))
        if np.ptp(np.asarray(outline.exterior.coords)[:, 0]) < 180:
            return outline
        east_only = transform(outline, lambda lonlat: np.stack([lonlat[:, 0] % 360, lonlat[:, 1]], axis=1))
        western = east_only.intersection(box(0, -90, 180, 90))
        eastern = transform(east_only.intersection(box(180, -90, 360, 90)), lambda lonlat: lonlat - (360, 0))
        return MultiPolygon([western, eastern])

    def bbox(self) -> list[float]:
        """West, south, east, north; west is greater than east for a scene across the antimeridian (RFC 7946)."""
        geometry = self.geometry()
        if isinstance(geometry, Polygon):
            return list(geometry.bounds)
        (west, _, _, _), (_, _, east, _) = (part.bounds for part in geometry.geoms)
        return [west, geometry.bounds[1], east, geometry.bounds[3]]

    def item(self, href_prefix: str, collection_id: str = "sentinel-2-l2a") -> dict[str, Any]:
        """The STAC item; ``href_prefix`` comes before ``/`` and ``file_name`` (empty for relative hrefs)."""
        code = self.epsg if self.projection_field == "proj:epsg" else f"EPSG:{self.epsg}"
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [
                "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
                "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
                "https://stac-extensions.github.io/projection/v1.0.0/schema.json",
            ],
            "id": self.item_id,
            "collection": collection_id,
            "geometry": mapping(self.geometry()),
            "bbox": self.bbox(),
            "properties": {
                "datetime": f"{self.acquired:%Y-%m-%dT%H:%M:%S.%fZ}",
                "platform": self.platform,
                "constellation": "Sentinel 2",
                "instruments": ["msi"],
                "eo:cloud_cover": self.cloud_cover_percent,
                self.projection_field: code,
                "s2:mgrs_tile": self.mgrs_tile,
                "s2:processing_baseline": self.processing_baseline,
                "s2:generation_time": f"{self.processed:%Y-%m-%dT%H:%M:%S.000Z}",
                "s2:nodata_pixel_percentage": 100.0 * float((self.scl() == NO_DATA).mean()),
                "sat:orbit_state": "descending",
                "sat:relative_orbit": self.relative_orbit,
            },
            "links": [],
            "assets": {band: self._asset(band, href_prefix) for band in (*BANDS, "SCL") if band not in self.left_out},
        }

    def _asset(self, band: str, href_prefix: str) -> dict[str, Any]:
        affine = self.transform(band)
        side_m = SIZE_10M_PX * 10 * self.coarsening
        asset = {
            "href": f"{href_prefix}/{self.file_name(band)}" if href_prefix else self.file_name(band),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "gsd": float(NATIVE_RESOLUTION_M[band]),
            "proj:bbox": [self.x_ul_m, self.y_ul_m - side_m, self.x_ul_m + side_m, self.y_ul_m],
            "proj:shape": [self.size_px(band)] * 2,
            "proj:transform": [affine.a, affine.b, affine.c, affine.d, affine.e, affine.f],
        }
        return asset if band == "SCL" else asset | {"eo:bands": [{"name": band}]}


@lru_cache(maxsize=13 * 12)
def _cog(scene: CoordinateScene, band: str) -> bytes:
    """A band's file; many tests write the same scenes."""
    values = scene.scl() if band == "SCL" else scene.dn(band)
    options = {"blocksize": 512, "compress": "DEFLATE", "level": 1, "resampling": "NEAREST"}
    with MemoryFile() as memory:
        with memory.open(
            driver="COG", count=1, dtype=values.dtype.name, nodata=0, crs=f"EPSG:{scene.epsg}",
            height=len(values), width=len(values), transform=scene.transform(band), **options,
        ) as target:  # fmt: skip
            target.write(values, 1)
        return bytes(memory.read())


def collection(collection_id: str = "sentinel-2-l2a") -> dict[str, Any]:
    """The collection, with the fields by which the Planetary Computer says where its tokens come from."""
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": collection_id,
        "description": "Scenes whose pixels carry their own coordinates.",
        "license": "proprietary",
        "links": [],
        "extent": {
            "spatial": {"bbox": [[-180.0, -90.0, 180.0, 90.0]]},
            "temporal": {"interval": [["2015-06-27T10:25:31Z", None]]},
        },
        "msft:storage_account": "sentinel2l2a01",
        "msft:container": "sentinel2-l2",
    }
