"""Image features of a dataset: computed once, shard by shard, and read back only with their parents."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
import torch
import zarr
import zarr.errors
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, DatasetError
from pipelines.patches.radiometry import reflectance
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from satclip_model.image_encoder import RandomConvolutionalFeatures

logger = logging.getLogger(__name__)

FEATURE_DTYPE: Final = "float32"
_RECORD = "image_features"


class PatchSource(Protocol):
    """What is needed of a patch dataset; see `pipelines.patches.dataset.PatchDataset`."""

    @property
    def version(self) -> str:
        """Id of the dataset."""

    @property
    def places(self) -> pd.DataFrame:
        """One row per place in store order, with columns valid, boa_add_offset and sha256."""

    @property
    def num_places(self) -> int:
        """Rows of the store."""

    @property
    def shard_size(self) -> int:
        """Rows of a shard."""

    @property
    def num_shards(self) -> int:
        """Shards of the store."""

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard, shape (n, 12, size, size)."""


@dataclass(frozen=True)
class ImageFeatures:
    """Features of all places of a dataset, in store order.

    Attributes:
        features: Shape (num_places, feature_dim), float32; NaN where a place has no patch.
        valid: Shape (num_places,), whether the place has features.
        record: What made them: dataset_version, fingerprint, encoder (its settings), feature_dim, packages.
    """

    features: NDArray[np.float32]
    valid: NDArray[np.bool_]
    record: dict[str, Any]


def dataset_content(dataset: PatchSource) -> str:
    """SHA-256 over the hashes of a dataset's patches; it changes with any pixel, the version only with the plan."""
    return content_hash(list(dataset.places["sha256"]))


def image_features_path(root: Path, dataset_version: str, fingerprint: str) -> Path:
    """Where the features of a dataset under an encoder live in the workspace ``root``."""
    return root / "features" / f"{dataset_version}-{fingerprint}.zarr"


def build_image_features(
    dataset: PatchSource, backbone: RandomConvolutionalFeatures, path: Path, *, batch_size: int = 16
) -> dict[str, Any]:
    """Computes the features of every valid patch and writes them as a Zarr v3 group, one chunk per shard.

    Shards finished by an earlier, interrupted call are skipped. Offsets of the processing baseline are removed before
    encoding.

    Args:
        dataset: The patches.
        backbone: The frozen encoder.
        path: The Zarr group to write or to go on with.
        batch_size: Patches encoded at a time.

    Returns:
        The record, also kept in the group's attributes, plus ``num_valid`` and ``num_computed_shards``.

    Raises:
        ArtefactError: ``path`` holds features of another dataset or encoder.
        DatasetError: No place has a patch, or a patch gives features that are not finite.
    """
    valid = dataset.places["valid"].to_numpy(dtype=bool)
    if not valid.any():
        raise DatasetError(f"dataset {dataset.version}: none of its {len(valid)} places has a patch; nothing to encode")
    record = {
        "dataset_version": dataset.version,
        "content_sha256": dataset_content(dataset),
        "fingerprint": backbone.fingerprint,
        "encoder": backbone.config.model_dump(mode="json"),
        "feature_dim": backbone.feature_dim,
        "num_places": dataset.num_places,
        "shard_size": dataset.shard_size,
        "packages": package_versions(),
    }
    array = _open_for_writing(path, record)
    offsets = dataset.places["boa_add_offset"].to_numpy()
    done_folder = _done_folder(path)
    finished = {int(each.stem) for each in done_folder.glob("*.json")} if done_folder.is_dir() else set()
    if _is_complete(path):
        finished = set(range(dataset.num_shards))
    todo = [shard for shard in range(dataset.num_shards) if shard not in finished]
    logger.info("image features %s: %d of %d shards already there", path.name, len(finished), dataset.num_shards)
    num_todo = sum(_num_valid(dataset, shard, valid) for shard in todo)
    progress = Progress(logger, f"image features {path.name}", num_todo, "patches")
    device = next(backbone.buffers()).device
    for shard in todo:
        rows = slice(shard * dataset.shard_size, min((shard + 1) * dataset.shard_size, dataset.num_places))
        features = np.full((rows.stop - rows.start, backbone.feature_dim), np.nan, dtype=np.float32)
        wanted = np.flatnonzero(valid[rows])
        if wanted.size:
            dn = dataset.read_shard_dn(shard)
            for start in range(0, len(wanted), batch_size):
                chosen = wanted[start : start + batch_size]
                batch = torch.from_numpy(reflectance(dn[chosen], offsets[rows][chosen])).to(device)
                features[chosen] = backbone(batch).cpu().numpy()
                progress.advance(len(chosen))
            if not np.isfinite(features[wanted]).all():
                row = rows.start + int(wanted[~np.isfinite(features[wanted]).all(axis=1)][0])
                raise DatasetError(
                    f"dataset {dataset.version}: the patch in row {row} gives features that are not finite; check "
                    "its pixels"
                )
        array[rows] = features.astype(array.dtype)
        write_json(done_folder / f"{shard:05d}.json", {"shard": shard, "num_patches": len(wanted)})
    if not _is_complete(path):
        zarr.open_group(path, mode="r+").create_array("valid", data=valid, chunks=(max(len(valid), 1),), overwrite=True)
        zarr.open_group(path, mode="r+").attrs["complete"] = True
    shutil.rmtree(done_folder, ignore_errors=True)
    logger.info("image features %s: %d patches, %d features each", path.name, int(valid.sum()), backbone.feature_dim)
    return {**record, "num_valid": int(valid.sum()), "num_computed_shards": len(todo)}


def open_image_features(path: Path, dataset_version: str, fingerprint: str) -> ImageFeatures:
    """Reads the features of a dataset under an encoder.

    Raises:
        ArtefactError: They are missing, unfinished, or were made from another dataset or by another encoder.
    """
    group = _open_group(path)
    if group is None:
        raise ArtefactError(f"{path}: no image features there; materialize image_features")
    record = _read_record(group)
    _require_parents(path, record, {"dataset_version": dataset_version, "fingerprint": fingerprint})
    if not group.attrs.get("complete", False):
        raise ArtefactError(f"{path}: the image features are unfinished; materialize image_features again to go on")
    features = np.asarray(_array(group, "features")[:], dtype=np.float32)
    return ImageFeatures(features=features, valid=np.asarray(_array(group, "valid")[:], dtype=bool), record=record)


def _num_valid(dataset: PatchSource, shard: int, valid: NDArray[np.bool_]) -> int:
    return int(valid[shard * dataset.shard_size : (shard + 1) * dataset.shard_size].sum())


def _done_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.done")


def _open_group(path: Path) -> zarr.Group | None:
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return None
    if _RECORD not in group.attrs:
        raise ArtefactError(f"{path}: a Zarr group without a record of image features; remove it and build them again")
    return group


def _read_record(group: zarr.Group) -> dict[str, Any]:
    record: Any = group.attrs[_RECORD]
    return dict(record)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _is_complete(path: Path) -> bool:
    group = _open_group(path)
    return group is not None and bool(group.attrs.get("complete", False))


def _open_for_writing(path: Path, record: dict[str, Any]) -> zarr.Array[Any]:
    found = _open_group(path)
    if found is not None:
        known = _read_record(found)
        _require_parents(path, known, {name: record[name] for name in ("dataset_version", "fingerprint")})
        if known.get("content_sha256") != record["content_sha256"]:
            logger.info("image features %s: the dataset's patches changed, all are computed again", path.name)
            shutil.rmtree(path)
            found = None
    if found is None:
        shutil.rmtree(_done_folder(path), ignore_errors=True)
        group = zarr.create_group(path, zarr_format=3, attributes={_RECORD: record, "complete": False})
    else:
        parents = ("num_places", "shard_size")
        _require_parents(path, _read_record(found), {name: record[name] for name in parents})
        group = zarr.open_group(path, mode="r+")
        if "features" in group:
            return _array(group, "features")
    return group.create_array(
        "features",
        shape=(record["num_places"], record["feature_dim"]),
        chunks=(record["shard_size"], record["feature_dim"]),
        dtype=FEATURE_DTYPE,
        fill_value=float("nan"),
        dimension_names=("place", "feature"),
    )


def _require_parents(path: Path, record: dict[str, Any], expected: dict[str, Any]) -> None:
    differences = [
        f"{name} is {record.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if record.get(name) != value
    ]
    if differences:
        raise ArtefactError(
            f"{path}: image features with other parents: {'; '.join(differences)}; materialize image_features for this "
            "dataset and encoder"
        )
