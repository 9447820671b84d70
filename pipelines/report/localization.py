"""Images that training never saw, looked for among places on land."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.evaluation.localization import Localization, LocationGallery, build_gallery, localize
from pipelines.patches.dataset import PatchDataset
from pipelines.sampling.land import is_land
from pipelines.training.checkpoints import TrainedModel
from pipelines.training.config import TrainingConfig
from pipelines.training.splits import is_held_out
from satclip_model.checkpoint.native import read_checkpoint

MAX_IMAGES: Final = 256
_GALLERY_PLACES: Final = 50_000
_IMAGES_AT_ONCE: Final = 16


@dataclass(frozen=True)
class LocalizedImages:
    """Images of validation places and where they were found.

    Attributes:
        indices: Rows of the dataset, shape (q,).
        embeddings: Of the images, unit length, shape (q, e).
        gallery: Places on land.
        localization: The result.
    """

    indices: NDArray[np.intp]
    embeddings: NDArray[np.float32]
    gallery: LocationGallery
    localization: Localization

    @property
    def typical(self) -> int:
        """The image, by position, whose error is the median."""
        error = self.localization.error_km
        return int(np.argsort(error, kind="stable")[(len(error) - 1) // 2])


def localize_validation_images(dataset: PatchDataset, run: TrainedModel) -> LocalizedImages | None:
    """Up to 256 images of the run's validation places, drawn by its seed, among places on land; None without any.

    Raises:
        DatasetError: A patch cannot be read.
    """
    config = TrainingConfig(**run.record["config"])
    places = dataset.places
    lonlat_deg = places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    held_out = is_held_out(places["place_id"].to_numpy(dtype=np.int64), lonlat_deg, config)
    candidates = np.flatnonzero(held_out & places["valid"].to_numpy(dtype=bool))
    if not len(candidates):
        return None
    rng = np.random.default_rng(config.seed)
    indices = np.sort(rng.choice(candidates, min(MAX_IMAGES, len(candidates)), replace=False))
    model, _ = read_checkpoint(run.checkpoint_path)
    model.eval()
    parts = []
    with torch.inference_mode():
        for some in np.array_split(indices, -(-len(indices) // _IMAGES_AT_ONCE)):
            images = np.stack([dataset.read(int(index)) for index in some])
            parts.append(model.encode_image(torch.from_numpy(images)).numpy())
    embeddings = np.concatenate(parts)
    gallery = build_gallery(model.location_encoder.encode, _GALLERY_PLACES, is_land)
    return LocalizedImages(indices, embeddings, gallery, localize(embeddings, lonlat_deg[indices], gallery))
