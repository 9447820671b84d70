"""The Zarr group of a view bank: features, which places have them, and a digest of what each was made from.

A shard's features are written before its digests. A digest of zeros says that the features of a place are not there.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import zarr
import zarr.errors
from numpy.typing import NDArray

from pipelines.errors import ArtefactError

FEATURE_DTYPE: Final = "float16"
RECORD: Final = "image_features"
COMPLETE: Final = "complete"
_DIGEST_BYTES: Final = 32
PARENTS: Final = ("dataset_version", "fingerprint")
"""Entries of a record that never change in a bank."""
_SIZES: Final = ("num_places", "shard_size", "feature_dim")


def patch_digests(places: pd.DataFrame) -> NDArray[np.uint8]:
    """SHA-256 per place over its id, its pixels' hash and its offset, shape (n, 32)."""
    columns = (places[name].tolist() for name in ("place_id", "valid", "boa_add_offset", "sha256"))
    digests = [
        hashlib.sha256(f"{place_id}:{int(valid)}:{offset if valid else 0}:{sha256}".encode()).digest()
        for place_id, valid, offset, sha256 in zip(*columns, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)


def open_bank(path: Path, expected: dict[str, Any]) -> zarr.Group | None:
    """The group of a bank, None where there is nothing.

    Args:
        path: The group.
        expected: What its record must say.

    Raises:
        ArtefactError: The record says something else, or the group is no bank.
    """
    try:
        group = zarr.open_group(path, mode="r+", zarr_format=3)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return None
    if RECORD not in group.attrs:
        raise ArtefactError(f"{path}: a Zarr group without a record of image features; remove it and build them again")
    require_parents(path, read_record(group), expected)
    return group


def create_bank(path: Path, record: dict[str, Any]) -> zarr.Group:
    """A new group, or the rest of one whose making was interrupted."""
    group = open_bank(path, {name: record[name] for name in (*PARENTS, *_SIZES)})
    if group is None:
        group = zarr.create_group(path, zarr_format=3, attributes={RECORD: record, COMPLETE: False})
    num_places, shard_size = int(record["num_places"]), int(record["shard_size"])
    inner = (int(record["num_views"]), int(record["feature_dim"]))
    if "features" not in group:
        group.create_array(
            "features",
            shape=(num_places, *inner),
            chunks=(shard_size, *inner),
            dtype=FEATURE_DTYPE,
            fill_value=float("nan"),
            dimension_names=("place", "view", "feature"),
        )
    if "valid" not in group:
        group.create_array("valid", shape=(num_places,), chunks=(max(num_places, 1),), dtype="bool")
    if "patch_digest" not in group:
        group.create_array(
            "patch_digest", shape=(num_places, _DIGEST_BYTES), chunks=(shard_size, _DIGEST_BYTES), dtype="uint8"
        )
    return group


def read_record(group: zarr.Group) -> dict[str, Any]:
    """What made the features."""
    record: Any = group.attrs[RECORD]
    return dict(record)


def bank_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of the group."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def require_parents(path: Path, record: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuses features with other parents.

    Raises:
        ArtefactError: The record differs from what is expected.
    """
    differences = [
        f"{name} is {record.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if record.get(name) != value
    ]
    if differences:
        encoder = record.get("encoder", {}).get("kind")
        raise ArtefactError(
            f"{path}: image features with other parents: {'; '.join(differences)}; these are {record.get('num_views')} "
            f"views under {encoder}. Materialize image_features for this dataset, encoder and views"
        )
