"""Frozen image features of random filters."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import NUM_BANDS, RandomFeaturesConfig
from satclip_model.image_encoder.fingerprint import fingerprint_weights

_TYPICAL_REFLECTANCE = (0.05, 0.06, 0.08, 0.09, 0.13, 0.20, 0.23, 0.24, 0.25, 0.26, 0.22, 0.15)
"""Order of magnitude of land reflectance per band; filters respond to the deviation from it."""
_MAX_THRESHOLD = 0.25


class RandomConvolutionalFeatures(nn.Module):
    """Frozen features of random filters, at several scales, with per-band statistics.

    Per scale: average pooling, random filters over all bands applied to the deviation from a typical land spectrum, a
    threshold, the positive and the negative part, the mean over the patch. Then mean and standard deviation per band.
    The filters follow from the seed alone.

    Source: Rolf et al. (2021), A generalizable and accessible approach to machine learning with global satellite
        imagery, Nature Communications 12, methods (random convolutional features); here with Gaussian filters.
    """

    filters: Tensor
    centers: Tensor
    thresholds: Tensor

    def __init__(self, config: RandomFeaturesConfig) -> None:
        super().__init__()
        self.config = config
        num_scales, size = len(config.pool_factors), config.kernel_size
        rng = np.random.default_rng(config.seed)
        filters = rng.standard_normal((num_scales, config.num_filters, NUM_BANDS, size, size))
        filters /= np.sqrt((filters**2).sum(axis=(2, 3, 4), keepdims=True))
        centers = filters.sum(axis=(2, 3, 4))
        filters /= np.array(_TYPICAL_REFLECTANCE)[:, None, None]
        thresholds = rng.uniform(0.0, _MAX_THRESHOLD, (num_scales, config.num_filters))
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32))
        self.register_buffer("centers", torch.tensor(centers, dtype=torch.float32))
        self.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float32))

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.config.feature_dim

    @property
    def fingerprint(self) -> str:
        """Hex digest of kind, settings and weights; equal fingerprints give equal features."""
        return fingerprint_weights(self.config, self)

    @torch.no_grad()
    def forward(self, reflectance: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """Features of patches.

        Args:
            reflectance: 12 bands in S2-100K's order, nominally 0 to 1; sides divisible by every pool factor.

        Raises:
            ValueError: Another number of bands, or a side that the pool factors do not divide.
        """
        _, num_bands, height, width = reflectance.shape
        if num_bands != NUM_BANDS:
            raise ValueError(f"reflectance has {num_bands} bands; expected {NUM_BANDS}")
        coarsest = math.lcm(*self.config.pool_factors)
        if height % coarsest or width % coarsest or min(height, width) < coarsest * self.config.kernel_size:
            raise ValueError(
                f"patches of {height} x {width} pixels do not fit pool_factors {self.config.pool_factors} and filters "
                f"of {self.config.kernel_size} cells"
            )
        parts = []
        for pool_factor, filters, centers, thresholds in zip(
            self.config.pool_factors, self.filters, self.centers, self.thresholds, strict=True
        ):
            stride = self.config.full_resolution_stride if pool_factor == 1 else 1
            cells = functional.avg_pool2d(reflectance, pool_factor) if pool_factor > 1 else reflectance
            response = functional.conv2d(cells, filters, bias=-centers, stride=stride)
            threshold = thresholds[:, None, None]
            parts.append(functional.relu(response - threshold).mean(dim=(2, 3)))
            parts.append(functional.relu(-response - threshold).mean(dim=(2, 3)))
        deviation, mean = torch.std_mean(reflectance, dim=(2, 3), correction=0)
        return torch.cat([*parts, mean, deviation], dim=1)
