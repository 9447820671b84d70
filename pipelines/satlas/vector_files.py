"""Objects as GeoJSON, GeoParquet, KML and shapefile: equal objects give equal bytes."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipelines.atomic import replacing
from pipelines.errors import ArtefactError
from pipelines.satlas.geometry import COORDINATE_DIGITS, split_at_antimeridian

if TYPE_CHECKING:
    import geopandas

REQUIRED: Final = ("object_id", "category", "score", "first_month", "last_month")
SHAPEFILE_NAMES: Final = MappingProxyType(
    {"first_month": "first_mon", "last_month": "last_mon", "start_known": "start_kn", "end_known": "end_kn"}
)
"""Names of columns that are longer than a shapefile's 10 characters and have a natural shorter one."""
ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
WGS84_WKT: Final = (
    'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563,'
    'LENGTHUNIT["metre",1]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",0.0174532925199433]],CS[ellipsoidal,2],'
    'AXIS["geodetic latitude (Lat)",north,ORDER[1],ANGLEUNIT["degree",0.0174532925199433]],'
    'AXIS["geodetic longitude (Lon)",east,ORDER[2],ANGLEUNIT["degree",0.0174532925199433]],ID["EPSG",4326]]'
)
"""EPSG:4326 in full: what its code stands for depends on which library's database a process opened first."""
DBF_DATE: Final = "1980-01-01"
"""Fixed, so that bytes depend on content only; the index says when a file was made."""


def publishable(objects: "geopandas.GeoDataFrame") -> "geopandas.GeoDataFrame":
    """Objects with coordinates of seven digits, cut at the antimeridian; rings as RFC 7946 wants them."""
    import shapely

    cut = [split_at_antimeridian(each) for each in objects.geometry]
    rounded = [shapely.set_precision(each, 10.0**-COORDINATE_DIGITS) for each in cut]
    oriented = shapely.orient_polygons(np.array(rounded, dtype=object)) if rounded else []
    return objects.set_geometry(np.asarray(oriented, dtype=object), crs="EPSG:4326")


def validate_product(objects: "geopandas.GeoDataFrame", categories: Sequence[str], told: str) -> None:
    """Checks objects against the schema of products.

    Args:
        objects: What is to be written.
        categories: Those that may occur.
        told: Name of the product, for messages.

    Raises:
        ArtefactError: A column is missing, a category unknown, a score not in [0, 1], a geometry missing, empty,
            invalid or beyond the globe, a month not in order, or an object there twice.
    """
    missing = [name for name in REQUIRED if name not in objects.columns]
    if missing:
        raise ArtefactError(f"{told}: columns {', '.join(missing)} missing; expected {', '.join(REQUIRED)}")
    bounds = objects.geometry.bounds.to_numpy()
    geometry = objects.geometry
    faults = {
        f"category not one of {', '.join(categories)}": ~objects["category"].isin(list(categories)),
        "score missing or outside 0 to 1": ~objects["score"].between(0, 1),
        "geometry missing or empty": geometry.isna() | geometry.is_empty,
        "geometry invalid": ~(geometry.is_valid | geometry.isna()),
        "longitude beyond 180 or latitude beyond 90 degrees": (np.abs(bounds) > [180, 90, 180, 90]).any(axis=1),
        "last month before the first": objects["last_month"] < objects["first_month"],
        "the same object and first month twice": objects.duplicated(["object_id", "first_month"]),
    }
    told_faults = [
        f"{fault} ({int(np.sum(rows))} objects, such as {objects['object_id'][np.asarray(rows)].iloc[0]})"
        for fault, rows in faults.items()
        if np.any(rows)
    ]
    if told_faults:
        raise ArtefactError(f"{told}: {'; '.join(told_faults)}; nothing was published")


def write_objects(folder: Path, name: str, objects: "geopandas.GeoDataFrame") -> None:
    """Writes ``NAME.geojson``, ``NAME.parquet``, ``NAME.kml`` and ``NAME.shp.zip`` into a folder.

    Args:
        folder: Made if absent.
        name: Of the files and of the layer in them.
        objects: As of `publishable`.
    """
    writers: Mapping[str, Callable[[Path, str, geopandas.GeoDataFrame], None]] = {
        ".geojson": _write_geojson,
        ".parquet": _write_parquet,
        ".kml": _write_kml,
        ".shp.zip": _write_shapefile,
    }
    for suffix, write in writers.items():
        with replacing(folder / f"{name}{suffix}") as partial:
            write(partial, name, objects)


def geojson_text(name: str, objects: "geopandas.GeoDataFrame") -> str:
    """Objects as GeoJSON, a feature a line; scores have four digits.

    Source: RFC 7946.
    """
    import shapely

    columns = [column for column in objects.columns if column != objects.geometry.name]
    lines = []
    for row, geometry in zip(objects[columns].to_dict("records"), objects.geometry, strict=True):
        properties = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        mapping = _rounded(shapely.geometry.mapping(geometry))
        lines.append(json.dumps({"type": "Feature", "geometry": mapping, "properties": properties}, allow_nan=False))
    body = ",\n".join(lines)
    return f'{{"type": "FeatureCollection", "name": {json.dumps(name)}, "features": [\n{body}\n]}}\n'


def _write_geojson(path: Path, name: str, objects: "geopandas.GeoDataFrame") -> None:
    path.write_text(geojson_text(name, objects), encoding="utf-8")


def _rounded(mapping: dict[str, Any]) -> dict[str, Any]:
    def digits(value: Any) -> Any:  # noqa: ANN401
        return round(value, COORDINATE_DIGITS) if isinstance(value, float) else [digits(each) for each in value]

    return {"type": mapping["type"], "coordinates": digits(mapping["coordinates"])}


def _write_parquet(path: Path, _name: str, objects: "geopandas.GeoDataFrame") -> None:
    from pyproj import CRS

    placed = objects.set_crs(CRS.from_wkt(WGS84_WKT), allow_override=True)
    placed.to_parquet(path, index=False, write_covering_bbox=True, compression="zstd")


def _write_kml(path: Path, name: str, objects: "geopandas.GeoDataFrame") -> None:
    import pyogrio

    named = objects.rename(columns={"object_id": "Name"})
    pyogrio.write_dataframe(
        named, path, layer=name, driver="KML", geometry_type=None if len(named) else "Point", use_arrow=False
    )


def _write_shapefile(path: Path, name: str, objects: "geopandas.GeoDataFrame") -> None:
    import pyogrio

    named = objects.rename(columns=dict(SHAPEFILE_NAMES))
    named = named.astype({column: "int16" for column in named.columns if named[column].dtype == bool})
    kinds = set(objects.geometry.geom_type) or {"Point"}
    kind = next(iter(kinds)) if len(kinds) == 1 else "Polygon"
    with TemporaryDirectory(dir=path.parent) as folder:
        pyogrio.write_dataframe(
            named,
            Path(folder) / f"{name}.shp",
            driver="ESRI Shapefile",
            geometry_type=kind.removeprefix("Multi"),
            promote_to_multi=False,
            layer_options={"DBF_DATE_LAST_UPDATE": DBF_DATE, "ENCODING": "UTF-8"},
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in sorted(Path(folder).iterdir()):
                archive.writestr(zipfile.ZipInfo(part.name, ZIP_TIME), part.read_bytes(), zipfile.ZIP_DEFLATED)
