"""Labelled patches with known spectra, small enough to train on in a second."""

from dataclasses import dataclass

import numpy as np
import rasterio
import torch
from affine import Affine

from pipelines.ground_cover.classes import LandCoverClass
from pipelines.ground_cover.examples import BankImages, Examples
from pipelines.ground_cover.fitting import build_towers, fit
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig
from satclip_model.config import RandomFeaturesConfig
from satclip_model.ground_cover.checkpoint import write_ground_cover
from satclip_model.image_encoder import RandomConvolutionalFeatures

CLASSES = (
    LandCoverClass(10, "Cold forest", "Tall trees in a cold climate.", (0, 90, 60)),
    LandCoverClass(11, "Warm forest", "Tall trees in a warm climate.", (0, 140, 40)),
    LandCoverClass(20, "Cold desert", "Bare sand in a cold climate.", (140, 140, 140)),
    LandCoverClass(21, "Warm desert", "Bare sand in a warm climate.", (220, 200, 160)),
)
SIZE = 48


def spectra():
    """Reflectance of each class, (4, 12): the first six bands tell forest from desert, the others cold from warm."""
    cover = np.repeat([[0.05] * 6, [0.35] * 6], 2, axis=0)
    climate = np.tile([[0.10] * 6, [0.30] * 6], (2, 1))
    return np.concatenate([cover, climate], axis=1)


def backbone():
    return RandomConvolutionalFeatures(RandomFeaturesConfig(num_filters=2))


@dataclass(frozen=True)
class World:
    examples: Examples
    reflectance: np.ndarray
    backbone: RandomConvolutionalFeatures


def world(counts=(40, 30, 30, 20), seed=0, noise=0.02):
    """Patches of one class each with a tenth of another, in blocks of the globe that hold all classes."""
    rng = np.random.default_rng(seed)
    dominant = rng.permutation(np.repeat(np.arange(4), counts))
    num = len(dominant)
    fractions = np.full((num, 4), 0.0)
    fractions[np.arange(num), dominant] = 0.95
    fractions[np.arange(num), rng.integers(0, 4, num)] += 0.05
    mean = fractions @ spectra()
    reflectance = mean[:, :, None, None] + rng.normal(0, noise, (num, 12, SIZE, SIZE))
    reflectance = np.clip(reflectance, 0.001, 1).astype(np.float32)
    encoder = backbone()
    features = encoder(torch.from_numpy(reflectance)).numpy()[:, None].astype(np.float16)
    place_ids = np.arange(num, dtype=np.int64)
    lonlat_deg = np.column_stack([rng.uniform(-180, 180, num), rng.uniform(-60, 70, num)])
    examples = Examples(
        BankImages(features, place_ids), place_ids, fractions.astype(np.float32), lonlat_deg, place_ids, CLASSES
    )
    return World(examples, reflectance, encoder)


TRANSFORM = Affine(10, 0, 399_960, 0, -10, 5_100_000)
SHAPE = (90, 120)
EDGE = 54


def write_raster(path, array, transform=TRANSFORM, descriptions=None):
    """A GeoTIFF of digital numbers, shape (bands, rows, columns)."""
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile, transform=transform, crs="EPSG:32629") as dataset:
        dataset.write(array)
        for number, text in enumerate(descriptions or [], 1):
            dataset.set_band_description(number, text)
    return path


def write_scene(path):
    """Cold forest to the left, warm desert to the right of column ``EDGE``; a corner without data."""
    dn = np.empty((12, *SHAPE))
    dn[:, :, :EDGE] = (1e4 * spectra()[0])[:, None, None]
    dn[:, :, EDGE:] = (1e4 * spectra()[3])[:, None, None]
    dn = np.clip(dn + np.random.default_rng(0).normal(0, 200, dn.shape), 1, None).astype(np.uint16)
    dn[:, :6, :9] = 0
    return write_raster(path, dn)


def write_model(path):
    """The checkpoint of a model of the four classes."""
    small = world()
    config = GroundCoverTrainingConfig(
        embedding_dim=16, image_hidden_dim=32, epochs=10, batch_size=16, learning_rate=3e-3, accelerator="cpu"
    )
    model = build_towers(small.examples, config, small.backbone)
    fit(model, small.examples, config)
    write_ground_cover(path, model, {})
    return path
