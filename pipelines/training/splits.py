"""Which places are kept for validation: single ones, or whole blocks of the globe."""

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import ArtefactError, DatasetError
from pipelines.evaluation.sphere import block_cells
from pipelines.features.patch_source import PatchSource
from pipelines.features.view_bank import ImageFeatures, dataset_content
from pipelines.patches.dataset import PatchDataset
from pipelines.provenance import content_hash
from pipelines.training.config import TrainingConfig
from pipelines.training.data import Places
from pipelines.training.datamodule import PlaceTensors
from pipelines.training.pixels import PixelPlaces, pixel_places

MIN_PLACES: Final = 2
"""Fewest places that a contrastive loss means something for."""


def is_validation_place(place_ids: Iterable[int], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Which places are kept for validation, decided for each place by its id and the seed alone.

    Adding or removing places leaves the others where they are.

    Args:
        place_ids: Ids of places.
        seed: Another seed gives another split.
        fraction: Expected share of validation places, 0 to 1.
    """
    return _is_drawn((f"{seed}:{int(place_id)}" for place_id in place_ids), fraction)


def is_validation_block(
    lonlat_deg: NDArray[np.float64], blocks_deg: float, seed: int, fraction: float
) -> NDArray[np.bool_]:
    """Which places lie in blocks that are kept for validation, decided for each block by the seed alone.

    Args:
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2).
        blocks_deg: Side of a block in degrees; see `pipelines.evaluation.splits.block_cells`.
        seed: Another seed gives another split.
        fraction: Expected share of validation blocks, 0 to 1; the share of places scatters about it.
    """
    cells = block_cells(lonlat_deg, blocks_deg)
    return _is_drawn((f"{seed}:{int(column)}:{int(row)}" for column, row in cells), fraction)


def is_held_out(
    place_ids: NDArray[np.int64], lonlat_deg: NDArray[np.float64], config: TrainingConfig
) -> NDArray[np.bool_]:
    """Which places are kept for validation, by place or by block as the configuration says."""
    seed, fraction = config.seed, config.validation_fraction
    if config.validation_blocks_deg:
        return is_validation_block(lonlat_deg, config.validation_blocks_deg, seed, fraction)
    return is_validation_place(place_ids, seed, fraction)


def split_places(
    dataset: PatchSource, image_features: ImageFeatures, config: TrainingConfig
) -> tuple[PlaceTensors, PlaceTensors]:
    """Training and validation places of a dataset: its valid places, divided by place or by block.

    Raises:
        ArtefactError: The features do not belong to the dataset, or are not finite.
        DatasetError: Fewer than two training places.
    """
    _require_dataset(dataset, image_features)
    valid = image_features.valid
    places = dataset.places[valid]
    features = image_features.features[valid]
    if not np.isfinite(features).all():
        raise ArtefactError(
            f"image features of dataset {dataset.version} are not finite at valid places; materialize "
            "image_features again"
        )
    place_ids = places["place_id"].to_numpy(dtype=np.int64)
    lonlat_deg = places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    everything = PlaceTensors(torch.tensor(features), torch.tensor(lonlat_deg), place_ids)
    held_out = is_held_out(place_ids, lonlat_deg, config)
    training, validation = everything.rows(~held_out), everything.rows(held_out)
    _require_places(dataset.version, training, validation)
    return training, validation


def split_pixel_places(dataset: PatchDataset, config: TrainingConfig) -> tuple[PixelPlaces, PixelPlaces]:
    """As `split_places`, with where the patches of the places are instead of their features.

    Raises:
        DatasetError: Fewer than two training places.
    """
    places = pixel_places(dataset)
    held_out = is_held_out(places.place_ids, places.lonlat_deg, config)
    training, validation = places.chosen(~held_out), places.chosen(held_out)
    _require_places(dataset.version, training, validation)
    return training, validation


def describe_split(config: TrainingConfig, training: Places, validation: Places) -> dict[str, Any]:
    """The split as a checkpoint records it."""
    drawn = "column:row of block" if config.validation_blocks_deg else "place_id"
    return {
        "rule": f"blake2b(seed:{drawn}) / 2**64 < validation_fraction",
        "seed": config.seed,
        "validation_fraction": config.validation_fraction,
        "validation_blocks_deg": config.validation_blocks_deg,
        "num_training_places": len(training),
        "num_validation_places": len(validation),
        "validation_places_sha256": content_hash([int(each) for each in validation.place_ids]),
    }


def _require_places(version: str, training: Places, validation: Places) -> None:
    if len(training) < MIN_PLACES:
        raise DatasetError(
            f"dataset {version}: {len(training) + len(validation)} valid places, of which {len(training)} for "
            f"training; contrastive training needs at least {MIN_PLACES}. Sample more places or lower "
            "validation_fraction"
        )


def _is_drawn(keys: Iterable[str], fraction: float) -> NDArray[np.bool_]:
    digests = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    draws = [int.from_bytes(digest, "big") / 2.0**64 for digest in digests]
    return np.asarray(draws, dtype=np.float64) < fraction


def _require_dataset(dataset: PatchSource, image_features: ImageFeatures) -> None:
    version = image_features.record.get("dataset_version")
    if version != dataset.version or len(image_features.features) != len(dataset.places):
        raise ArtefactError(
            f"image features are of dataset {version!r} with {len(image_features.features)} places; expected "
            f"{dataset.version!r} with {len(dataset.places)}; materialize image_features"
        )
    if image_features.record.get("content_sha256") != dataset_content(dataset):
        raise ArtefactError(
            f"image features of dataset {dataset.version} were made from other patches than it holds now; materialize "
            "image_features"
        )
