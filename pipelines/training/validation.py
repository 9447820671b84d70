"""Loss and retrieval on places that training never saw, without augmentation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.training.retrieval import RECALL_RANKS, rank_galleries
from satclip_model.loss import contrastive_loss
from satclip_model.satclip import SatCLIP

MEASURES: Final = ("val_loss", *(f"val_recall_at_{rank}" for rank in RECALL_RANKS), "val_median_error_km")
VALIDATION_STREAM: Final = 1
"""Second number of the seed of the galleries, so that training places have others."""


@dataclass(frozen=True)
class EmbeddedPlaces:
    """Embeddings of places and of their images.

    Attributes:
        images: Unit length, shape (n, e), float32.
        locations: Unit length, shape (n, e), float32; row i belongs to image i.
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2), float64.
    """

    images: Tensor
    locations: Tensor
    lonlat_deg: Tensor

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """Images, locations and lonlat_deg on the CPU."""
        return self.images.cpu().numpy(), self.locations.cpu().numpy(), self.lonlat_deg.cpu().numpy()


@torch.no_grad()
def embed_places(model: SatCLIP, batches: Iterable[tuple[Tensor, Tensor]]) -> EmbeddedPlaces:
    """Embeddings under a model, which is put in evaluation mode and back; of images nothing else is kept.

    Args:
        model: The two towers.
        batches: Features of view 0, or reflectance, and lonlat_deg.
    """
    training = model.training
    model.eval()
    embedded = [
        (model.encode_image_batch(images), model.encode_location(lonlat_deg), lonlat_deg)
        for images, lonlat_deg in batches
    ]
    model.train(training)
    return EmbeddedPlaces(*map(torch.cat, zip(*embedded, strict=True)))


@torch.no_grad()
def validate(model: SatCLIP, batches: Iterable[tuple[Tensor, Tensor]], seed: int, batch_size: int) -> dict[str, float]:
    """The ``MEASURES`` of a model, which is put in evaluation mode and back.

    The galleries are those of `retrieval.score_retrieval` under the same generator, hence the same at every call.

    Args:
        model: The two towers.
        batches: Features of view 0, or reflectance, and lonlat_deg; at least two places in all.
        seed: Of the galleries.
        batch_size: Places that are each other's negatives in the loss, whatever the batches are.
    """
    embedded = embed_places(model, batches)
    images, locations = (torch.split(each, batch_size) for each in (embedded.images, embedded.locations))
    losses = [
        float(contrastive_loss(image, location, model.clamped_logit_scale)) * len(image)
        for image, location in zip(images, locations, strict=True)
    ]
    rng = np.random.default_rng([seed, VALIDATION_STREAM])
    galleries = rank_galleries(*embedded.arrays(), rng)
    recalls = {f"val_recall_at_{rank}": galleries.recall(rank) for rank in RECALL_RANKS}
    mean_loss = sum(losses) / len(embedded.images)
    return {"val_loss": mean_loss, **recalls, "val_median_error_km": galleries.median_error_km}
