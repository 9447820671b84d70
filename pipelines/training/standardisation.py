"""Mean and deviation of image features over training places, in one pass over batches."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.training.data import Batch
from satclip_model.image_encoder import ImageProjection
from satclip_model.image_tower import ImageTower


class RunningMoments:
    """Mean and standard deviation of rows that come in batches, in float64.

    Source: Chan, Golub and LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances,
        equation 2.1.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Counts rows, shape (n, columns)."""
        variance, mean = torch.var_mean(rows.double(), dim=0, correction=0)
        before, added = self._count, len(rows)
        self._count += added
        shift = mean - self._mean.to(mean.device)
        self._mean = self._mean.to(mean.device) + shift * (added / self._count)
        self._squares = self._squares.to(mean.device) + variance * added + shift**2 * (before * added / self._count)

    @property
    def mean(self) -> Tensor:
        """Per column."""
        return self._mean

    @property
    def deviation(self) -> Tensor:
        """Per column, of the population."""
        return (self._squares / max(self._count, 1)).sqrt()


@torch.no_grad()
def fit_standardisation(towers: ImageTower, batches: Iterable[Batch]) -> None:
    """Takes mean and deviation of the features of training places into the image head, where that standardises.

    A backbone whose batch normalisation is trained sees the images as in a step of training, batch by batch under the
    statistics of each batch, without a last, smaller one; its own statistics stay as they were. Any other backbone sees
    all images, each by itself.

    Args:
        towers: Changed in place; the image backbone is left in its own mode.
        batches: Features of view 0, or reflectance, and lonlat_deg.
    """
    if not isinstance(towers.image_projection, ImageProjection):
        return
    backbone = towers.image_backbone
    kept = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    mode, is_batch_normalised = backbone.training, towers.trains_backbone and _has_batch_norm(backbone)
    backbone.train(is_batch_normalised)
    moments = RunningMoments()
    size = 0
    for images, _ in batches:
        size = size or len(images)
        if is_batch_normalised and len(images) < size:
            break
        moments.add(images if images.ndim == 2 else towers.image_features(images))
    backbone.load_state_dict(kept, strict=False)
    backbone.train(mode)
    towers.image_projection.standardise_by(moments.mean, moments.deviation)


def _has_batch_norm(backbone: nn.Module) -> bool:
    return any(isinstance(each, _BatchNorm) for each in backbone.modules())
