"""Importing the published S2-100K layout (``index.csv`` and ``images/*.tif``) into the patch store."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import rioxarray
import xarray as xr
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from pipelines.errors import DatasetError
from pipelines.patches.dataset import DatasetRecord
from pipelines.patches.publication import publish_dataset
from pipelines.patches.shards import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from pipelines.sentinel2 import BANDS, NODATA_DN

logger = logging.getLogger(__name__)

INDEX_COLUMNS = ("fn", "lon", "lat")
OFFSET_UNKNOWN = "unknown"


def import_s2_100k(root: Path, source: Path, patch_size_px: int = 256) -> DatasetRecord:
    """Imports a folder of the S2-100K layout and publishes it as the latest dataset.

    The layout says nothing of dates, scenes or baselines: digital numbers stay as they are, ``boa_add_offset`` is 0 and
    ``offset_source`` is ``unknown``. A file that is missing or damaged becomes a row that is not valid. The version
    follows the index and the sizes of the files: a folder that was completed later is another version.

    Args:
        root: The workspace.
        source: Folder with ``index.csv`` (columns fn, lon, lat) and ``images/``.
        patch_size_px: Side that every file must have.

    Raises:
        DatasetError: no index, an index without the columns, or coordinates out of range.
    """
    index = _read_index(source)
    sizes = [_size_bytes(source / "images" / name) for name in index["fn"]]
    plan_id = content_hash({**index[list(INDEX_COLUMNS)].to_dict("list"), "size_bytes": sizes})[:12]
    version = f"s2-100k-{plan_id}"
    folder = dataset_folder(root, version)
    schema = StoreSchema(plan_id=plan_id, num_places=len(index), patch_size_px=patch_size_px)
    store = open_store(folder, schema)
    progress = Progress(logger, "importing patches", total=len(index), unit="patches")
    for shard in range(schema.num_shards):
        rows = schema.rows(shard)
        if store.is_done(shard):
            progress.advance(len(rows))
            continue
        dn = np.zeros((len(rows), len(BANDS), patch_size_px, patch_size_px), dtype=np.uint16)
        built = []
        for position, number in enumerate(rows):
            built.append(_import_patch(source, index.iloc[number], number, dn[position]))
            progress.advance()
        table = pd.DataFrame([asdict(row) for row in built], columns=list(PATCH_COLUMNS))
        store.write_shard(shard, dn, table, {"layout": "S2-100K", "packages": package_versions()})
    return publish_dataset(root, version, source="S2-100K layout")


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _read_index(source: Path) -> pd.DataFrame:
    path = source / "index.csv"
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file, expected the S2-100K layout (index.csv and images/); check the folder"
        )
    index = pd.read_csv(path)
    missing = [name for name in INDEX_COLUMNS if name not in index]
    if missing:
        raise DatasetError(f"{path}: columns {missing} missing, found {list(index.columns)}; expected {INDEX_COLUMNS}")
    wrong = ~(index["lon"].between(-180, 180) & index["lat"].between(-90, 90))
    if wrong.any():
        row = index[wrong].iloc[0]
        raise DatasetError(
            f"{path}: {row['fn']} lies at lon {row['lon']}, lat {row['lat']}, expected lon in [-180, 180] and lat in "
            "[-90, 90]; correct the row or remove it"
        )
    return index


def _import_patch(source: Path, entry: pd.Series, number: int, out: NDArray[np.uint16]) -> PatchRow:
    name, lon_deg, lat_deg = str(entry["fn"]), float(entry["lon"]), float(entry["lat"])
    row = PatchRow(
        place_id=number,
        place_lon_deg=lon_deg,
        place_lat_deg=lat_deg,
        lon_deg=lon_deg,
        lat_deg=lat_deg,
        valid=False,
        item_id=name,
        href_base="images/",
        hrefs=json.dumps({"image": name}),
        offset_source=OFFSET_UNKNOWN,
    )
    path = source / "images" / name
    if not path.is_file():
        return replace(row, reason="missing_file")
    try:
        raster = rioxarray.open_rasterio(path)
        assert isinstance(raster, xr.DataArray)
        if raster.shape != out.shape or raster.dtype != np.uint16:
            logger.warning("%s: %s of %s, expected %s of uint16; left out", name, raster.shape, raster.dtype, out.shape)
            return replace(row, reason="wrong_shape")
        out[:] = raster.to_numpy()
    except RasterioError as error:
        logger.warning("%s: cannot be decoded (%s); left out", name, error)
        out[:] = 0
        return replace(row, reason="unreadable")
    transform = raster.rio.transform()
    return replace(
        row,
        valid=True,
        epsg=int(raster.rio.crs.to_epsg()),
        x_ul_m=float(transform.c),
        y_ul_m=float(transform.f),
        resolution_m=float(transform.a),
        nodata_fraction=float((out == NODATA_DN).any(axis=0).mean()),
    )
