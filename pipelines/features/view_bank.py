"""The view bank: image features of views of every patch, computed once and read back only with their parents."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.bank_file import (
    COMPLETE,
    RECORD,
    bank_array,
    create_bank,
    open_bank,
    patch_digests,
    read_record,
)
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import ViewEncoder, choose_device
from pipelines.patches.dataset import LATEST
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from satclip_model.image_encoder import ImageBackbone

logger = logging.getLogger(__name__)

_FORMAT: Final = 2
_FINGERPRINT_DIGITS: Final = 16
_LARGEST: Final = float(np.finfo(np.float16).max)


class PatchSource(Protocol):
    """What is needed of a patch dataset; see `pipelines.patches.dataset.PatchDataset`."""

    @property
    def version(self) -> str:
        """Id of the dataset."""

    @property
    def places(self) -> pd.DataFrame:
        """One row per place in store order, with columns place_id, valid, boa_add_offset and sha256."""

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

    What an interrupted call finished stays; of a finished bank only the patches that changed are encoded again. Offsets
    of the processing baseline are removed before encoding.

    Args:
        dataset: The patches.
        backbone: The frozen encoder; it stays on its device.
        path: The Zarr group to write or to go on with.
        views: The views; by default the plain patch alone.
        settings: How the backbone was opened, kept in the record; None where it was built by hand.
        batch_size: Patches encoded at a time; 0 chooses by their size and the device, so that memory is bounded.
        device: ``auto`` takes a CUDA device where there is one; or ``cuda``, ``cpu``.

    Returns:
        The record, also kept in the group's attributes, plus ``num_valid``, ``num_computed_shards`` and
        ``num_computed_patches``.

    Raises:
        ArtefactError: ``path`` holds features of another dataset, encoder or views.
        ConfigurationError: The device is not there, or a batch does not fit into its memory.
        DatasetError: No place has a patch, or a patch gives features that float16 cannot hold.
    """
    views = views or ViewsConfig()
    valid = dataset.places["valid"].to_numpy(dtype=bool)
    if not valid.any():
        raise DatasetError(f"dataset {dataset.version}: none of its {len(valid)} places has a patch; nothing to encode")
    encoder = ViewEncoder(backbone, views, choose_device(device), batch_size)
    record = _make_record(dataset, backbone, views, settings)
    group = create_bank(path, record)
    digests, wanted = bank_array(group, "patch_digest"), patch_digests(dataset.places)
    stale = (np.asarray(digests[:]) != wanted).any(axis=1)
    todo = [rows for rows in _shards(dataset) if stale[rows].any()]
    counts = {
        "num_valid": int(valid.sum()),
        "num_computed_shards": len(todo),
        "num_computed_patches": int((stale & valid).sum()),
    }
    logger.info(
        "image features %s: %d of %d shards already there",
        path.name,
        dataset.num_shards - len(todo),
        dataset.num_shards,
    )
    if not todo and group.attrs.get(COMPLETE, False):
        return {**read_record(group), **counts}
    group.attrs.update({RECORD: record, COMPLETE: False})
    progress = Progress(logger, f"image features {path.name}", counts["num_computed_patches"], "patches")
    array = bank_array(group, "features")
    for rows, dn in _read_ahead(dataset, todo, stale & valid):
        digests[rows] = np.where(stale[rows, None], 0, wanted[rows])
        features = np.asarray(array[rows])
        features[stale[rows]] = np.nan
        for chosen, computed in _encode_shard(dataset, encoder, rows, dn, stale & valid):
            features[chosen] = computed
            progress.advance(len(chosen))
        array[rows] = features
        digests[rows] = wanted[rows]
    bank_array(group, "valid")[:] = valid
    group.attrs[COMPLETE] = True
    logger.info(
        "image features %s: %d patches, %d views, %d features each",
        path.name, counts["num_valid"], views.num_views, backbone.feature_dim,
    )  # fmt: skip
    return {**record, **counts}


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


def _shards(dataset: PatchSource) -> list[slice]:
    size, num_places = dataset.shard_size, dataset.num_places
    return [slice(shard * size, min((shard + 1) * size, num_places)) for shard in range(dataset.num_shards)]


def _read_ahead(
    dataset: PatchSource, shards: list[slice], wanted: NDArray[np.bool_]
) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Digital numbers of the wanted rows of each shard; the next shard is read while this one is used."""

    def read(rows: slice) -> NDArray[np.uint16]:
        chosen = np.flatnonzero(wanted[rows])
        if not chosen.size:
            return np.empty((0, 0, 0, 0), dtype=np.uint16)
        return dataset.read_shard_dn(rows.start // dataset.shard_size)[chosen]

    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming: Future[NDArray[np.uint16]] | None = pool.submit(read, shards[0]) if shards else None
        for rows, following in zip(shards, [*shards[1:], None], strict=True):
            assert upcoming is not None
            dn = upcoming.result()
            upcoming = None if following is None else pool.submit(read, following)
            yield rows, dn


def _encode_shard(
    dataset: PatchSource, encoder: ViewEncoder, rows: slice, dn: NDArray[np.uint16], wanted: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Batches of a shard: rows within it, and features of their views."""
    chosen = np.flatnonzero(wanted[rows])
    if not chosen.size:
        return
    places = dataset.places.iloc[rows].iloc[chosen]
    offsets, place_ids = (places[name].to_numpy(dtype=np.int64) for name in ("boa_add_offset", "place_id"))
    size = encoder.batch_size(dn.shape[1:])
    for start in range(0, len(chosen), size):
        part = slice(start, start + size)
        features = encoder.encode(dn[part], offsets[part], place_ids[part])
        _require_representable(dataset.version, features, rows.start + chosen[part], place_ids[part])
        yield chosen[part], features.astype(np.float16)


def _require_representable(
    version: str, features: NDArray[np.float32], rows: NDArray[np.int64], place_ids: NDArray[np.int64]
) -> None:
    beyond = ~(np.abs(features) <= _LARGEST)
    if beyond.any():
        patch, view, feature = np.argwhere(beyond)[0]
        raise DatasetError(
            f"dataset {version}: the patch in row {rows[patch]} (place {place_ids[patch]}) has the value "
            f"{features[patch, view, feature]:g} in feature {feature} of view {view}; expected at most {_LARGEST:g}, "
            "the largest of float16: check the patch's pixels and the encoder's weights"
        )
