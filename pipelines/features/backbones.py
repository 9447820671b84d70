"""Image backbones by name, with the weights that a user chose."""

import logging

import torch

from pipelines.features.config import PUBLISHED, ImageBackboneSettings
from satclip_model.config import MoCoConfig, RandomFeaturesConfig
from satclip_model.image_encoder import MOCO_WEIGHTS, MoCoBackbone, RandomConvolutionalFeatures, load_moco_weights

logger = logging.getLogger(__name__)


def open_backbone(
    settings: ImageBackboneSettings, *, trainable: bool = False
) -> RandomConvolutionalFeatures | MoCoBackbone:
    """The backbone that the settings describe, on the CPU and, if frozen, in evaluation mode; see `ImageBackbone`.

    The same settings give the same weights, and the global random state is left as it was.

    Args:
        settings: Which backbone, and where its weights come from.
        trainable: Whether training is to move the weights.

    Raises:
        CheckpointError: The weights are missing, may not be fetched, or do not fit the network.
        ValueError: ``trainable`` random filters.
    """
    if settings.kind == "random_convolutional":
        if trainable:
            raise ValueError("trainable is true, but random_convolutional has no weights to train; choose a MoCo kind")
        return RandomConvolutionalFeatures(RandomFeaturesConfig(seed=settings.seed, num_filters=settings.num_filters))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone = MoCoBackbone(MoCoConfig(kind=settings.kind, trainable=trainable))
    if settings.weights is None:
        logger.warning(
            "image backbone %s: no weights chosen, they are random from seed %d; set weights to 'published' for those "
            "that were pre-trained", settings.kind, settings.seed,
        )  # fmt: skip
        return backbone
    source = MOCO_WEIGHTS[settings.kind] if settings.weights == PUBLISHED else settings.weights
    load_moco_weights(backbone, source, download=settings.download)
    return backbone
