"""Classes that training never saw, asked for by their texts."""

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import DatasetError
from pipelines.evaluation.splits import Folds, SplitConfig
from pipelines.ground_cover.examples import Examples
from pipelines.ground_cover.fitting import build_towers, fit, image_embeddings
from pipelines.ground_cover.metrics import lift_intervals
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig, model_classes
from pipelines.progress import Progress
from satclip_model.ground_cover.text_encoder import TextEncoder
from satclip_model.image_encoder import ImageBackbone

logger = logging.getLogger(__name__)


def unseen_class_scores(
    examples: Examples,
    index: int,
    folds: Folds,
    training: GroundCoverTrainingConfig,
    backbone: ImageBackbone,
    threshold: float,
    text_encoder: TextEncoder | None = None,
) -> NDArray[np.float32]:
    """Similarity of every example to the text of a class, by towers whose training had nothing of it.

    Training leaves out the tested fold, every patch with ``threshold`` or more of the class, and the class.

    Raises:
        DatasetError: Nothing is left to train on.
    """
    scores = np.zeros(len(examples), dtype=np.float32)
    for train, test in folds.train_test():
        part = examples.select(train).without_class(index, threshold)
        if len(np.unique(part.dominant)) < 2:
            raise DatasetError(
                f"class {examples.classes[index].name}: without it {len(part)} patches of "
                f"{len(np.unique(part.dominant))} classes are left to train on; leave_one_class_out needs two classes"
            )
        model = build_towers(part, training, backbone, text_encoder)
        fit(model, part, training)
        asked = model.encode_classes(model_classes([examples.classes[index]])).cpu().numpy()
        scores[test] = image_embeddings(model, examples.select(test)) @ asked[0]
    return scores


def score_unseen_classes(
    examples: Examples,
    training: GroundCoverTrainingConfig,
    backbone: ImageBackbone,
    config: GroundCoverScoresConfig,
    text_encoder: TextEncoder | None = None,
) -> pd.DataFrame:
    """Lift of average precision over chance of each class, left out of training and asked for by its text.

    Returns:
        Columns class, num_patches, lift, ci_lower, ci_upper; the last row is the mean over classes. Without rows where
        the settings leave this out, or fewer than three classes dominate a patch.
    """
    columns = ["class", "num_patches", "lift", "ci_lower", "ci_upper"]
    present = np.unique(examples.dominant)
    if not config.leave_one_class_out or len(present) < 3:
        return pd.DataFrame(columns=columns)
    seed = config.seeds[0]
    split = SplitConfig(kind="blocks", cell_deg=config.cell_deg, num_folds=config.leave_one_out_folds)
    folds = split.assign(examples.lonlat_deg, seed)
    own = training.model_copy(update={"seed": seed})
    progress = Progress(logger, "classes left out", len(present), "classes")
    scores = np.zeros((len(examples), len(present)), dtype=np.float32)
    for column, index in enumerate(present.tolist()):
        scores[:, column] = unseen_class_scores(
            examples, index, folds, own, backbone, config.multi_label_threshold, text_encoder
        )
        progress.advance()
    relevant = examples.dominant[:, None] == present
    per_class, mean = lift_intervals(relevant, scores, folds.block, np.random.default_rng(seed))
    names = [examples.classes[index].name for index in present.tolist()]
    counts = relevant.sum(axis=0).tolist()
    entries = [*zip(names, counts, per_class, strict=True), ("mean", int(sum(counts)), mean)]
    return pd.DataFrame([(n, count, x.value, x.lower, x.upper) for n, count, x in entries], columns=columns)
