"""Dense maps as cloud-optimized GeoTIFFs: classes with a color table, and their probabilities."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.ground_cover.dense_map import WindowScores
from pipelines.ground_cover.scene_raster import SceneRaster, is_valid
from satclip_model.ground_cover.config import GroundCoverClass

PROBABILITY_STEPS: Final = 250
"""A stored probability of 250 is 1; 255 is no data."""
NO_PROBABILITY: Final = 255
_ROWS_AT_ONCE: Final = 256


def probabilities_path(path: Path) -> Path:
    """Where the probabilities of a map of classes lie: beside it."""
    return path.with_name(f"{path.stem}_probabilities{path.suffix}")


def nodata_code(classes: Sequence[GroundCoverClass]) -> int:
    """A code that no class has: 0, or 255, or the next."""
    taken = {each.code for each in classes}
    candidates: tuple[int, ...] = (0, 255, *range(1, 65_536))
    return next(code for code in candidates if code not in taken)


def write_maps(
    path: Path,
    scores: WindowScores,
    scene: SceneRaster,
    classes: Sequence[GroundCoverClass],
    tags: Mapping[str, Any],
) -> dict[str, float]:
    """Writes the map of the most probable classes to ``path`` and their probabilities beside it.

    Pixels without data in a band, and those without a window that has enough of it, have no class.

    Args:
        path: GeoTIFF to write.
        scores: Probabilities of all windows.
        scene: The bands, for grid and nodata.
        classes: In the order of the probabilities.
        tags: What made the map; JSON values.

    Returns:
        Share of the pixels with a class by its name.
    """
    codes = np.array([each.code for each in classes])
    nodata = nodata_code(classes)
    dtype = "uint8" if max(int(codes.max()), nodata) <= 255 else "uint16"
    described = {
        "classes": json.dumps([each.model_dump(mode="json") for each in classes]),
        **{name: json.dumps(value, sort_keys=True) for name, value in tags.items()},
    }
    counts = np.zeros(len(classes), dtype=np.int64)

    def fill(maps: Any, probabilities: Any) -> None:  # noqa: ANN401
        for start in range(0, scene.height, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, scene.height))
            blended = scores.blend(rows)
            known = is_valid(scene.read_rows(rows)) & (blended.sum(axis=0) > 0)
            best = blended.argmax(axis=0)
            counts[:] += np.bincount(best[known], minlength=len(classes))
            window = rasterio.windows.Window(0, start, scene.width, len(rows))
            maps.write(np.where(known, codes[best], nodata).astype(dtype), 1, window=window)
            scaled = np.rint(blended * PROBABILITY_STEPS).astype(np.uint8)
            probabilities.write(np.where(known, scaled, np.uint8(NO_PROBABILITY)), window=window)

    _write_both(path, scene, classes, dtype, nodata, described, fill)
    total = max(int(counts.sum()), 1)
    return {each.name: int(count) / total for each, count in zip(classes, counts, strict=True)}


def read_probabilities(path: Path) -> NDArray[np.float32]:
    """Probabilities of a file of `write_maps`, shape (classes, rows, columns); NaN without data."""
    with rasterio.open(path) as dataset:
        stored = dataset.read()
    values = stored.astype(np.float32) / np.float32(PROBABILITY_STEPS)
    return np.where(stored == NO_PROBABILITY, np.float32(np.nan), values)


def _write_both(
    path: Path,
    scene: SceneRaster,
    classes: Sequence[GroundCoverClass],
    dtype: str,
    nodata: int,
    tags: Mapping[str, str],
    fill: Callable[[Any, Any], None],
) -> None:
    """Fills two plain files, then copies them into place as cloud-optimized ones."""
    grid = {"height": scene.height, "width": scene.width, "crs": scene.crs, "transform": scene.transform}
    plain = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "LZW", **grid}
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        files = [Path(folder) / name for name in ("classes.tif", "probabilities.tif")]
        with (
            rasterio.open(files[0], "w", count=1, dtype=dtype, nodata=nodata, **plain) as maps,
            rasterio.open(
                files[1], "w", count=len(classes), dtype="uint8", nodata=NO_PROBABILITY, interleave="band", **plain
            ) as probabilities,
        ):
            table = {nodata: (0, 0, 0, 0)} | {each.code: (*each.color, 255) for each in classes}
            maps.write_colormap(1, table)
            maps.update_tags(**tags)
            probabilities.update_tags(**tags)
            probabilities.scales = [1 / PROBABILITY_STEPS] * len(classes)
            for number, each in enumerate(classes, 1):
                probabilities.set_band_description(number, each.name)
            fill(maps, probabilities)
        for plain_file, target, resampling in zip(
            files, (path, probabilities_path(path)), ("MODE", "AVERAGE"), strict=True
        ):
            with replacing(target) as partial:
                rasterio.shutil.copy(
                    plain_file, partial, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=256, OVERVIEW_RESAMPLING=resampling
                )
