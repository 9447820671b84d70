"""Windows: the images of a tile for a month, one per period, and what is known of each.

A window is a folder ``satlas/windows/YYYY-MM/TILE`` of the workspace: ``period_K.tif`` for each period that has an
image, 0 the newest, nine channels and where they are present, of the tile and a margin around it that models see; and
``record.json``, written last: a folder without it is no window.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash, file_sha256, package_versions
from pipelines.satlas.folder_records import read_folder_record
from pipelines.satlas.images import RADIOMETRY, TileImage
from pipelines.satlas.months import validate_month
from pipelines.satlas.mosaics import ImagePeriod
from pipelines.satlas.predictions import TileGrid

RECORD_FILE: Final = "record.json"
WINDOWS_FORMAT: Final = 2
"""2: images reach beyond the tile."""
_PRESENT: Final = 255


@dataclass(frozen=True)
class PeriodImages:
    """What became of a period.

    Attributes:
        period: Its days.
        image: The mosaic; None where it is missing.
        items: The images it is made of, the uppermost first: ``id``, ``datetime``, ``clear`` (share of the tile),
            ``used`` (share of the mosaic), ``boa_add_offset``, ``baseline``.
        missing: Why there is no image; empty where there is one.
    """

    period: ImagePeriod
    image: TileImage | None
    items: Sequence[Mapping[str, Any]]
    missing: str = ""


@dataclass(frozen=True)
class Windows:
    """The images of a tile for a month.

    Attributes:
        tile: Name of the tile.
        month: ``YYYY-MM``.
        grid: Pixels of the images: the tile's and ``margin_px`` more on every side.
        margin_px: Pixels around the tile.
        images: Mosaics, the newest first; missing periods are left out.
        shown: The periods of these images.
        periods: First day of every period, the newest first, ``YYYY-MM-DD``.
        missing_periods: Those without an image.
        sha256: Of what the record says of the images.
        record: All that is known.
    """

    tile: str
    month: str
    grid: TileGrid
    margin_px: int
    images: list[TileImage]
    shown: list[ImagePeriod]
    periods: tuple[str, ...]
    missing_periods: tuple[str, ...]
    sha256: str
    record: dict[str, Any]

    def without_margin(self) -> Self:
        """The tile alone."""
        if not self.margin_px:
            return self
        kept = slice(self.margin_px, -self.margin_px)
        images = [TileImage(each.channels[:, kept, kept], each.present[kept, kept]) for each in self.images]
        return replace(self, grid=self.grid.padded(-self.margin_px), margin_px=0, images=images)


def windows_folder(root: Path, month: str, tile: str) -> Path:
    """Where a window lives in a workspace."""
    return root / "satlas" / "windows" / validate_month(month) / tile


def list_windows(root: Path, month: str) -> list[Path]:
    """Folders of a month's finished windows, by name of the tile."""
    found = (root / "satlas" / "windows" / validate_month(month)).glob(f"*/{RECORD_FILE}")
    return sorted(path.parent for path in found)


def image_shares(root: Path) -> dict[str, float]:
    """Share of the tiles with at least one image, by month that has windows, in order."""
    shares = {}
    for folder in sorted((root / "satlas" / "windows").glob("????-??")):
        found = [read_windows_record(each) for each in list_windows(root, folder.name)]
        if found:
            seen = sum(any("file" in entry for entry in record["periods"]) for record in found)
            shares[folder.name] = seen / len(found)
    return shares


def write_windows(
    root: Path,
    month: str,
    tile: str,
    grid: TileGrid,
    periods: Sequence[PeriodImages],
    parents: Mapping[str, Any],
    margin_px: int,
) -> Path:
    """Writes a window, its record last; one that was there is replaced. Returns the folder.

    Args:
        root: The workspace.
        month: ``YYYY-MM``.
        tile: Its name.
        grid: The tile's pixels.
        periods: The newest first; images have ``margin_px`` more pixels than the tile on every side.
        parents: What made it.
        margin_px: Pixels around the tile.
    """
    folder = windows_folder(root, month, tile)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = []
    for number, each in enumerate(periods):
        entry: dict[str, Any] = {
            "start": each.period.start.isoformat(),
            "end": each.period.end.isoformat(),
            "items": [dict(item) for item in each.items],
            "missing": each.missing,
        }
        if each.image is not None:
            path = folder / f"period_{number}.tif"
            write_tile_image(path, each.image, grid.padded(margin_px))
            entry |= {"file": path.name, "sha256": file_sha256(path), "clear": float(each.image.present.mean())}
        entries.append(entry)
    write_json(
        folder / RECORD_FILE,
        {
            "format": WINDOWS_FORMAT,
            "month": month,
            "tile": tile,
            "grid": asdict(grid),
            "margin_px": margin_px,
            "radiometry": RADIOMETRY,
            "periods": entries,
            "parents": dict(parents),
            "packages": package_versions(),
        },
    )
    return folder


def read_windows_record(folder: Path) -> dict[str, Any]:
    """The record of a window.

    Raises:
        ArtefactError: There is none, or it is of another format.
    """
    return read_folder_record(folder / RECORD_FILE, WINDOWS_FORMAT, "window", "satlas_windows")


def read_windows(folder: Path) -> Windows:
    """A window as it was written.

    Raises:
        ArtefactError: The folder is no finished window, or a file is missing or not the one recorded.
    """
    record = read_windows_record(folder)
    grid = TileGrid(**record["grid"]).padded(record["margin_px"])
    images, shown = [], []
    for entry in record["periods"]:
        if "file" in entry:
            path = folder / entry["file"]
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise ArtefactError(f"{path}: missing or changed since it was recorded; make tile {folder.name} again")
            images.append(read_tile_image_file(path, grid))
            shown.append(ImagePeriod(_day(entry["start"]), _day(entry["end"])))
    return Windows(
        tile=record["tile"],
        month=record["month"],
        grid=grid,
        margin_px=record["margin_px"],
        images=images,
        shown=shown,
        periods=tuple(entry["start"] for entry in record["periods"]),
        missing_periods=tuple(entry["start"] for entry in record["periods"] if "file" not in entry),
        sha256=windows_sha256(record),
        record=record,
    )


def windows_sha256(record: Mapping[str, Any]) -> str:
    """Hash of what a window shows: tile, grid and images, without times and versions."""
    periods = [{name: entry.get(name) for name in ("start", "end", "sha256")} for entry in record["periods"]]
    shown = {name: record[name] for name in ("tile", "grid", "margin_px")}
    return content_hash({**shown, "periods": periods})


def write_tile_image(path: Path, image: TileImage, grid: TileGrid) -> None:
    """Writes the channels of an image, and as its last band where they are present, as a GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    profile = {
        "driver": "GTiff", "count": len(image.channels) + 1, "height": grid.height_px, "width": grid.width_px,
        "dtype": "uint8", "crs": f"EPSG:{grid.epsg}", "compress": "deflate", "zlevel": 1, "tiled": True,
        "blockxsize": 256, "blockysize": 256, "interleave": "band",
        "transform": from_origin(grid.west_m, grid.north_m, grid.resolution_m, grid.resolution_m),
    }  # fmt: skip
    with replacing(path) as partial, rasterio.open(partial, "w", **profile) as target:
        target.write(np.concatenate([image.channels, (image.present * np.uint8(_PRESENT))[None]]))


def read_tile_image_file(path: Path, grid: TileGrid) -> TileImage:
    """An image of `write_tile_image`.

    Raises:
        ArtefactError: It cannot be read, or is of another size.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            values: NDArray[np.uint8] = source.read()
    except RasterioError as error:
        raise ArtefactError(
            f"{path}: no image that can be read ({error}); delete it and make the month again"
        ) from error
    if values.shape[1:] != (grid.height_px, grid.width_px) or values.dtype != np.uint8:
        raise ArtefactError(
            f"{path}: {values.dtype} of shape {values.shape}; expected uint8 of {grid.height_px} x {grid.width_px}"
        )
    return TileImage(values[:-1], values[-1] == _PRESENT)


def _day(text: str) -> date:
    return date.fromisoformat(text)
