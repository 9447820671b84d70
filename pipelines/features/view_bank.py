"""The view bank: image features of views of every patch, computed once and read back only with their parents."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.bank_file import (
    COMPLETE,
    PARENTS,
    RECORD,
    bank_array,
    create_bank,
    open_bank,
    patch_digests,
    read_record,
)
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import ViewEncoder, choose_device
from pipelines.features.patch_source import PatchSource
from pipelines.features.reuse import copy_known_features
from pipelines.features.shard_encoding import encode_shard, list_shards, read_ahead
from pipelines.patches.dataset import LATEST
from pipelines.patches.shard_lock import exclusive_writer
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from satclip_model.image_encoder import ImageBackbone

logger = logging.getLogger(__name__)

_FORMAT: Final = 2
_FINGERPRINT_DIGITS: Final = 16
_NOTHING_DONE: Final = {"num_copied_patches": 0, "num_computed_shards": 0, "num_computed_patches": 0}


@dataclass(frozen=True)
class ImageFeatures:
    """Features of all views of all places of a dataset, in store order.

    Attributes:
        features: Shape (num_places, num_views, feature_dim), float16; NaN where a place has no patch.
        valid: Shape (num_places,), whether the place has features.
        record: What made them: dataset_version, content_sha256, fingerprint (of the bank), backbone_fingerprint,
            encoder (its configuration), backbone (`ImageBackboneSettings` that open it again, or None), views
            (`ViewsConfig`), feature_dim, packages.
    """

    features: NDArray[np.float16]
    valid: NDArray[np.bool_]
    record: dict[str, Any]

    @property
    def plain(self) -> NDArray[np.float16]:
        """Features of the patches themselves, view 0, shape (num_places, feature_dim)."""
        return self.features[:, 0]

    @property
    def num_views(self) -> int:
        """Views per place."""
        return int(self.features.shape[1])


def dataset_content(dataset: PatchSource) -> str:
    """SHA-256 over the hashes of a dataset's patches; it changes with any pixel, the version only with the plan."""
    return content_hash(list(dataset.places["sha256"]))


def bank_fingerprint(backbone: ImageBackbone, views: ViewsConfig) -> str:
    """Hex digest of an encoder and of the views; with one view, the plain one, the augmentations do not matter."""
    seen = views.model_dump(mode="json") if views.num_views > 1 else {"num_views": 1}
    return content_hash({"format": _FORMAT, "backbone": backbone.fingerprint, "views": seen})[:_FINGERPRINT_DIGITS]


def image_features_path(root: Path, dataset_version: str, fingerprint: str) -> Path:
    """Where the bank of a dataset with a fingerprint lives in the workspace ``root``."""
    return root / "features" / f"{dataset_version}-{fingerprint}.zarr"


def publish_image_features(root: Path, dataset_version: str, fingerprint: str) -> None:
    """Makes a bank the latest of its dataset."""
    write_json(_pointer(root, dataset_version), {"fingerprint": fingerprint})


def resolve_fingerprint(root: Path, dataset_version: str, fingerprint: str = LATEST) -> str:
    """The fingerprint behind ``latest``, any other as it is.

    Raises:
        ArtefactError: The dataset has no bank yet.
    """
    if fingerprint != LATEST:
        return fingerprint
    pointer = _pointer(root, dataset_version)
    if not pointer.is_file():
        raise ArtefactError(f"{root}: no image features of dataset {dataset_version} yet; materialize image_features")
    return str(json.loads(pointer.read_text())["fingerprint"])


def build_image_features(
    dataset: PatchSource,
    backbone: ImageBackbone,
    path: Path,
    views: ViewsConfig | None = None,
    *,
    settings: ImageBackboneSettings | None = None,
    batch_size: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Computes the features of all views of every valid patch and writes them as a Zarr v3 group, a chunk per shard.

    What an interrupted call finished stays; of a finished bank only the patches that changed are encoded again. What
    banks of other versions of the dataset in the same folder hold of the same patches is copied. Offsets of the
    processing baseline are removed before encoding.

    Args:
        dataset: The patches.
        backbone: The frozen encoder; it stays on its device.
        path: The Zarr group to write or to go on with.
        views: The views; by default the plain patch alone.
        settings: How the backbone was opened, kept in the record; None where it was built by hand.
        batch_size: Patches encoded at a time; 0 chooses by their size and the device, so that memory is bounded.
        device: ``auto`` takes a CUDA device where there is one; or ``cuda``, ``cpu``.

    Returns:
        The record, also kept in the group's attributes, plus ``num_valid``, ``num_copied_patches``,
        ``num_computed_shards`` and ``num_computed_patches``.

    Raises:
        ArtefactError: ``path`` holds features of another dataset, encoder or views.
        ConfigurationError: The device is not there, or a batch does not fit into its memory.
        DatasetError: No place has a patch, or a patch gives features that float16 cannot hold.
        StoreError: Another process writes the bank.
    """
    views = views or ViewsConfig()
    valid = dataset.places["valid"].to_numpy(dtype=bool)
    if not valid.any():
        raise DatasetError(f"dataset {dataset.version}: none of its {len(valid)} places has a patch; nothing to encode")
    encoder = ViewEncoder(backbone, views, choose_device(device), batch_size)
    record = _make_record(dataset, backbone, views, settings)
    wanted = patch_digests(dataset.places)
    if (finished := _read_finished(path, record, wanted)) is not None:
        return {**finished, **_NOTHING_DONE, "num_valid": int(valid.sum())}
    with exclusive_writer(path.parent, path.name, f"the bank {path.name}"):
        counts = _write_bank(path, dataset, encoder, record, wanted)
    logger.info(
        "image features %s: %d patches, %d views, %d features each; %d encoded, %d copied from other versions",
        path.name, valid.sum(), views.num_views, backbone.feature_dim,
        counts["num_computed_patches"], counts["num_copied_patches"],
    )  # fmt: skip
    return {**record, **counts, "num_valid": int(valid.sum())}


def _read_finished(path: Path, record: dict[str, Any], wanted: NDArray[np.uint8]) -> dict[str, Any] | None:
    """The record of a bank in which nothing is left to do."""
    group = open_bank(path, {name: record[name] for name in PARENTS})
    if group is None or not group.attrs.get(COMPLETE, False):
        return None
    digests = bank_array(group, "patch_digest")
    is_finished = digests.shape == wanted.shape and np.array_equal(np.asarray(digests[:]), wanted)
    return read_record(group) if is_finished else None


def _write_bank(
    path: Path, dataset: PatchSource, encoder: ViewEncoder, record: dict[str, Any], wanted: NDArray[np.uint8]
) -> dict[str, int]:
    """Brings a bank up to the digests that are wanted; how many patches were copied and computed."""
    valid = dataset.places["valid"].to_numpy(dtype=bool)
    group = create_bank(path, record)
    digests, array = bank_array(group, "patch_digest"), bank_array(group, "features")
    group.attrs.update({RECORD: record, COMPLETE: False})
    num_copied = copy_known_features(group, path, record["fingerprint"], wanted, valid)
    stale = (np.asarray(digests[:]) != wanted).any(axis=1)
    shards = list_shards(dataset)
    todo = [rows for rows in shards if stale[rows].any()]
    num_computed = int((stale & valid).sum())
    logger.info("image features %s: %d of %d shards already there", path.name, len(shards) - len(todo), len(shards))
    progress = Progress(logger, f"image features {path.name}", num_computed, "patches")
    for rows, dn in read_ahead(dataset, todo, stale & valid):
        digests[rows] = np.where(stale[rows, None], 0, wanted[rows])
        features = np.asarray(array[rows])
        features[stale[rows]] = np.nan
        for chosen, computed in encode_shard(dataset, encoder, rows, dn, stale & valid):
            features[chosen] = computed
            progress.advance(len(chosen))
        array[rows] = features
        digests[rows] = wanted[rows]
    bank_array(group, "valid")[:] = valid
    group.attrs[COMPLETE] = True
    return {
        "num_copied_patches": num_copied,
        "num_computed_shards": sum(bool((stale & valid)[rows].any()) for rows in todo),
        "num_computed_patches": num_computed,
    }


def open_image_features(path: Path, dataset_version: str, fingerprint: str) -> ImageFeatures:
    """Reads the bank of a dataset with a fingerprint.

    Raises:
        ArtefactError: It is missing, unfinished, or was made from another dataset, by another encoder or of other
            views.
    """
    group = open_bank(path, {"dataset_version": dataset_version, "fingerprint": fingerprint})
    if group is None:
        raise ArtefactError(f"{path}: no image features there; materialize image_features")
    if not group.attrs.get(COMPLETE, False):
        raise ArtefactError(f"{path}: the image features are unfinished; materialize image_features again to go on")
    return ImageFeatures(
        features=np.asarray(bank_array(group, "features")[:]),
        valid=np.asarray(bank_array(group, "valid")[:], dtype=bool),
        record=read_record(group),
    )


def _pointer(root: Path, dataset_version: str) -> Path:
    return root / "features" / f"{dataset_version}-latest.json"


def _make_record(
    dataset: PatchSource, backbone: ImageBackbone, views: ViewsConfig, settings: ImageBackboneSettings | None
) -> dict[str, Any]:
    return {
        "dataset_version": dataset.version,
        "content_sha256": dataset_content(dataset),
        "fingerprint": bank_fingerprint(backbone, views),
        "backbone_fingerprint": backbone.fingerprint,
        "encoder": backbone.config.model_dump(mode="json"),
        "backbone": None if settings is None else settings.model_dump(mode="json"),
        "views": views.model_dump(mode="json"),
        "num_views": views.num_views,
        "feature_dim": backbone.feature_dim,
        "num_places": dataset.num_places,
        "shard_size": dataset.shard_size,
        "packages": package_versions(),
    }
