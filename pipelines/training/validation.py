"""Loss and retrieval on places that training never saw, without augmentation."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipelines.training.retrieval import RECALL_RANKS, rank_galleries
from satclip_model.loss import contrastive_loss
from satclip_model.satclip import SatCLIP

MEASURES: Final = ("val_loss", *(f"val_recall_at_{rank}" for rank in RECALL_RANKS), "val_median_error_km")
VALIDATION_STREAM: Final = 1
"""Second number of the seed of the galleries, so that training places have others."""


@torch.no_grad()
def validate(model: SatCLIP, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> dict[str, float]:
    """The ``MEASURES`` of a model, which is put in evaluation mode and back.

    The galleries are those of `retrieval.score_retrieval` under the same generator, hence the same at every call.

    Args:
        model: The two towers.
        batches: Features of view 0, or reflectance, and lonlat_deg; at least two places in all.
        seed: Of the galleries.
    """
    training = model.training
    model.eval()
    images, locations, places, losses = [], [], [], []
    for given, lonlat_deg in batches:
        image, location = model.encode_image_batch(given), model.encode_location(lonlat_deg)
        loss = contrastive_loss(image, location, model.clamped_logit_scale)
        losses.append((float(loss), len(given)))
        images.append(image.cpu())
        locations.append(location.cpu())
        places.append(lonlat_deg.cpu())
    model.train(training)
    image_embeddings, location_embeddings, lonlat = (torch.cat(each).numpy() for each in (images, locations, places))
    rng = np.random.default_rng([seed, VALIDATION_STREAM])
    galleries = rank_galleries(image_embeddings, location_embeddings, lonlat, rng)
    recalls = {f"val_recall_at_{rank}": galleries.recall(rank) for rank in RECALL_RANKS}
    mean_loss = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    return {"val_loss": mean_loss, **recalls, "val_median_error_km": galleries.median_error_km}
