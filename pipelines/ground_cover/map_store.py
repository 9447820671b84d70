"""The class of every pixel of a dataset's patches, as a Zarr array beside the labels."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from pipelines.errors import ArtefactError
from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.ground_cover.reading import ClassMap
from pipelines.patches.dataset import PatchDataset

STORE_NAME: Final = "maps.zarr"
ARRAY_NAME: Final = "land_cover"


def open_map_store(folder: Path, dataset: PatchDataset, classes: LandCoverClasses) -> None:
    """Creates the array of a dataset's maps where it is absent: (places, size, size), in the order of the labels.

    Codes are the map's own. Names and colors of the classes are attributes, as CF's flag_values and flag_meanings.
    """
    path = folder / STORE_NAME
    if (path / "zarr.json").is_file():
        return
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    group = zarr.open_group(partial, mode="w-", attributes={"dataset_version": dataset.version})
    dtype = np.dtype(np.uint8 if max(*classes.codes, classes.nodata_code) < 256 else np.uint16)
    size = dataset.patch_size
    group.create_array(
        ARRAY_NAME,
        shape=(dataset.num_places, size, size),
        chunks=(1, size, size),
        shards=(dataset.shard_size, size, size),
        dtype=dtype,
        fill_value=classes.nodata_code,
        compressors=[BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
        dimension_names=("place", "y", "x"),
        attributes={
            "long_name": f"land-cover class of {classes.name}",
            "flag_values": list(classes.codes),
            "flag_meanings": " ".join(each.replace(" ", "_") for each in classes.names),
            "flag_colors": " ".join("#{:02x}{:02x}{:02x}".format(*each.color) for each in classes.classes),
        },
    )
    try:
        os.rename(partial, path)  # noqa: PTH104
    except OSError:
        shutil.rmtree(partial)
        if not (path / "zarr.json").is_file():
            raise


def write_maps(folder: Path, start: int, maps: Sequence[ClassMap | None], classes: LandCoverClasses) -> None:
    """Writes the maps of whole shards of consecutive places; a place without one gets the nodata code.

    Args:
        folder: Of the labels.
        start: Position of the first place.
        maps: By place.
        classes: Of the maps.
    """
    numcodecs.blosc.use_threads = False  # several threads do not give the same bytes twice
    array = _array(folder, "r+")
    values = np.full((len(maps), *array.shape[1:]), classes.nodata_code, dtype=array.dtype)
    for value, each in zip(values, maps, strict=True):
        if each is not None:
            fits = each.codes <= np.iinfo(array.dtype).max
            value[fits] = each.codes[fits]
    array[start : start + len(maps)] = values


def read_maps(folder: Path, which: slice) -> NDArray[Any]:
    """Codes of the pixels of consecutive places, (n, size, size).

    Raises:
        ArtefactError: the maps were not kept.
    """
    return np.asarray(_array(folder, "r")[which])


def _array(folder: Path, mode: Any) -> zarr.Array[Any]:  # noqa: ANN401
    path = folder / STORE_NAME
    if not (path / "zarr.json").is_file():
        raise ArtefactError(f"{path}: no maps there, expected those of the labels; set keep_maps and label again")
    array = zarr.open_group(path, mode=mode)[ARRAY_NAME]
    assert isinstance(array, zarr.Array)
    return array
