"""The sandbox's land-cover map: a class for every pixel, from the fields that also make its reflectance."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.fields import LAND_COVERS
from pipelines.sandbox.geotiff import GeoTiffLayout
from pipelines.sandbox.tiling import TILE_SIZE_M, Tile, footprint, tile_from_id

LAND_COVER_COLLECTION: Final = "land-cover"
LAND_COVER_CONTAINER: Final = "land-cover"
MAP_YEARS: Final = (2021, 2022)
"""Years with a map; nothing changes between them."""
MAP_RESOLUTION_M: Final = 10
MAP_ASSET: Final = "map"
_COG_TYPE: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
WARM_FROM_C: Final = 9.0
"""Mean temperature from which the climate is warm: the boundary between boreal and temperate biomes."""
CLIMATES: Final = ("cold", "warm")
COVER_CODES: Final = {"bare": 60, "shrub": 20, "grass": 30, "crop": 40, "forest": 10, "wetland": 90}
"""Tens of the codes, as ESA's WorldCover counts them; cold adds 1 and warm 2."""
ICE_CODE: Final = 70
WATER_CODE: Final = 80
CODES: Final = np.array(
    [[COVER_CODES[cover] + climate + 1 for cover in LAND_COVERS] for climate in range(len(CLIMATES))], dtype=np.uint8
)
"""Codes by climate and land cover, (2, 6)."""
_PATH: Final = re.compile(r"land-cover/(\d{4})/(\d\d[A-Z]{3})\.tif")
_CODE_NAMES: Final = {ICE_CODE: "snow and ice", WATER_CODE: "water"} | {
    int(CODES[c, k]): f"{climate} {cover}" for c, climate in enumerate(CLIMATES) for k, cover in enumerate(LAND_COVERS)
}


@dataclass(frozen=True)
class LandCoverMap:
    """The map of one tile and year.

    Attributes:
        tile: Of Sentinel-2's tiling, with its grid.
        year: One of ``MAP_YEARS``.
    """

    tile: Tile
    year: int

    @property
    def path(self) -> str:
        """Of the file below the server's /cog."""
        return f"land-cover/{self.year}/{self.tile.tile_id}.tif"

    @property
    def layout(self) -> GeoTiffLayout:
        """Structure of the file."""
        return GeoTiffLayout(
            width=TILE_SIZE_M // MAP_RESOLUTION_M,
            resolution_m=float(MAP_RESOLUTION_M),
            dtype="uint8",
            num_samples=1,
            epsg=self.tile.epsg,
            x_ul_m=float(self.tile.x_ul_m),
            y_ul_m=float(self.tile.y_ul_m),
        )


def map_from_path(path: str) -> LandCoverMap | None:
    """The map whose file has a path, None where none has."""
    match = _PATH.fullmatch(path)
    if match is None or int(match[1]) not in MAP_YEARS:
        return None
    try:
        return LandCoverMap(tile_from_id(match[2]), int(match[1]))
    except ValueError:
        return None


def codes_of_fields(fields: dict[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Codes of points on land, by their biome, temperature and land cover as `Planet.fields` gives them, (n,)."""
    climate = (fields["temperature"] >= np.float32(WARM_FROM_C)).astype(np.intp)
    codes = CODES[climate, fields["land_cover"].astype(np.intp)]
    return np.where(fields["biome"] == 0, np.uint8(ICE_CODE), codes)


def land_cover_collection(storage_account: str) -> dict[str, Any]:
    """The STAC collection, in the fields of the Planetary Computer's land-cover collections."""
    return {
        "type": "Collection",
        "id": LAND_COVER_COLLECTION,
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/item-assets/v1.0.0/schema.json"],
        "title": "Land cover of a synthetic planet",
        "description": "Classes of the fields that the scenes are rendered from. Nothing was measured on Earth.",
        "license": "proprietary",
        "keywords": ["Land cover", "synthetic"],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [[f"{MAP_YEARS[0]}-01-01T00:00:00Z", f"{MAP_YEARS[-1]}-12-31T23:59:59Z"]]},
        },
        "item_assets": {
            MAP_ASSET: {
                "type": _COG_TYPE,
                "roles": ["data"],
                "classification:classes": [
                    {"value": code, "description": name} for code, name in sorted(_CODE_NAMES.items())
                ],
            }
        },
        "msft:storage_account": storage_account,
        "msft:container": LAND_COVER_CONTAINER,
        "links": [],
    }


def land_cover_item(land_cover: LandCoverMap, origin: str) -> dict[str, Any]:
    """The STAC item of one map.

    Args:
        land_cover: Tile and year.
        origin: Scheme, host and port that its address begins with.
    """
    tile, year = land_cover.tile, land_cover.year
    geometry, bbox = footprint(tile.boundary_lonlat_deg)
    first, last = datetime(year, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.0.0/schema.json"],
        "id": f"land-cover-{year}-{tile.tile_id}",
        "collection": LAND_COVER_COLLECTION,
        "geometry": geometry,
        "bbox": bbox,
        "links": [],
        "properties": {
            "datetime": f"{first:%Y-%m-%dT%H:%M:%SZ}",
            "start_datetime": f"{first:%Y-%m-%dT%H:%M:%SZ}",
            "end_datetime": f"{last:%Y-%m-%dT%H:%M:%SZ}",
            "proj:epsg": tile.epsg,
        },
        "assets": {
            MAP_ASSET: {
                "href": f"{origin}/cog/{land_cover.path}",
                "type": _COG_TYPE,
                "roles": ["data"],
                "proj:shape": [TILE_SIZE_M // MAP_RESOLUTION_M] * 2,
                "proj:transform": [MAP_RESOLUTION_M, 0, tile.x_ul_m, 0, -MAP_RESOLUTION_M, tile.y_ul_m],
            }
        },
    }
