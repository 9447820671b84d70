"""How much of what is known to be there a product has: by objects, and by pixels."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import TableError
from pipelines.evaluation.sphere import unit_vectors
from pipelines.satlas.geometry import WGS84, chord, frame_of
from pipelines.satlas.merging import pairs_within
from pipelines.satlas.tracking import pair_nearest

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

PIXEL_M: Final = 10.0
NUM_WITHOUT_PLACE: Final = "num_without_place"


def found_within(
    reference_lonlat_deg: NDArray[np.float64], product_lonlat_deg: NDArray[np.float64], distance_m: float
) -> NDArray[np.bool_]:
    """Which reference places have a product's point within a distance along a great circle, shape (n,).

    One point may serve several places: this tells whether a place is covered, not a matching of one to one.

    Args:
        reference_lonlat_deg: Shape (n, 2), longitude first.
        product_lonlat_deg: Shape (m, 2), longitude first.
        distance_m: Radius, its end included.
    """
    from scipy.spatial import cKDTree

    if not len(reference_lonlat_deg) or not len(product_lonlat_deg):
        return np.zeros(len(reference_lonlat_deg), dtype=bool)
    tree = cKDTree(unit_vectors(product_lonlat_deg))
    distance, _ = tree.query(unit_vectors(reference_lonlat_deg))
    found: NDArray[np.bool_] = distance <= chord(distance_m) * (1 + 1e-12)
    return found


def matched_within(
    reference_lonlat_deg: NDArray[np.float64], product_lonlat_deg: NDArray[np.float64], distance_m: float
) -> NDArray[np.bool_]:
    """Which reference places have a product's point of their own within a distance, shape (n,).

    Pairs are one to one, the nearest first, so that one detection does not count for two neighbors.

    Args:
        reference_lonlat_deg: Shape (n, 2), longitude first.
        product_lonlat_deg: Shape (m, 2), longitude first.
        distance_m: Furthest that a pair lies apart along a great circle.
    """
    pairs = pair_nearest(unit_vectors(reference_lonlat_deg), unit_vectors(product_lonlat_deg), distance_m)
    matched: NDArray[np.bool_] = pairs >= 0
    return matched


def pixels_found(
    reference: NDArray[Any], product: NDArray[Any], pixel_m: float = PIXEL_M
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels of each reference polygon that a product covers, and all pixels of it, shape (n,) each.

    A pixel is a square of ``pixel_m`` on a grid about the polygon, and belongs to a polygon that holds its center.
    A polygon without a pixel center has none.

    Args:
        reference: Polygons in WGS 84.
        product: Polygons in WGS 84.
        pixel_m: Side of a pixel.
    """
    import shapely

    pairs = pairs_within(np.concatenate([reference, product]), 0.0)
    pairs = pairs[(pairs[:, 0] < len(reference)) & (pairs[:, 1] >= len(reference))]
    hits, totals = np.zeros(len(reference)), np.zeros(len(reference))
    for number, polygon in enumerate(reference):
        frame = frame_of([polygon])
        outline = frame.to_meters(polygon)
        centers = _pixel_centers(outline, pixel_m)
        totals[number] = len(centers)
        near = product[pairs[pairs[:, 0] == number, 1] - len(reference)]
        if len(near) and len(centers):
            cover = shapely.union_all([frame.to_meters(each) for each in near])
            hits[number] = shapely.contains_xy(cover, centers).sum()
    return hits, totals


def _pixel_centers(outline: Any, pixel_m: float) -> NDArray[np.float64]:  # noqa: ANN401
    import shapely

    west, south, east, north = np.floor(np.array(shapely.bounds(outline)) / pixel_m).astype(int)
    x, y = np.meshgrid(np.arange(west, east + 1) + 0.5, np.arange(south, north + 1) + 0.5)
    centers = np.column_stack([x.ravel(), y.ravel()]) * pixel_m
    inside: NDArray[np.float64] = centers[shapely.contains_xy(outline, centers)]
    return inside


def read_reference(path: Path, lon_column: str = "lon", lat_column: str = "lat") -> "geopandas.GeoDataFrame":
    """Known objects, from a CSV of points or any file of geometries, in WGS 84.

    Rows without a place on the globe are left out; ``attrs`` of the result says how many.

    Raises:
        TableError: The file cannot be read, or a column is missing, or no row has a place.
    """
    import geopandas
    import pandas as pd

    try:
        if path.name.lower().endswith((".csv", ".csv.gz")):
            table = pd.read_csv(path, low_memory=False)
            missing = [name for name in (lon_column, lat_column) if name not in table.columns]
            if missing:
                found = ", ".join(map(str, table.columns[:20]))
                raise TableError(f"{path}: columns {', '.join(missing)} missing, found {found}; name those it has")
            points = geopandas.points_from_xy(table[lon_column], table[lat_column])
            frame = geopandas.GeoDataFrame(table, geometry=points, crs=WGS84)
        elif path.suffix == ".parquet":
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise TableError(
            f"{path}: cannot be read ({error}); expected CSV, GeoJSON, GeoParquet or a shapefile"
        ) from error
    frame = frame.to_crs(WGS84)
    bounds = frame.geometry.bounds.to_numpy()
    wrong = ~(np.abs(bounds) <= [180, 90, 180, 90]).all(axis=1)
    if wrong.all():
        raise TableError(
            f"{path}: none of {len(frame)} rows has a place on the globe; name the columns of its coordinates"
        )
    frame = frame[~wrong].reset_index(drop=True)
    frame.attrs[NUM_WITHOUT_PLACE] = int(wrong.sum())
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0]) + 1
        logger.warning(
            "%s: %d rows without a place on the globe are left out, the first row %d", path, wrong.sum(), first
        )
    return frame
