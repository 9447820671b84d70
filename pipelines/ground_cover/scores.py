"""How well images are told apart by ground cover: out-of-fold scores beside baselines, and classes never seen."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import MissingTableError
from pipelines.evaluation.intervals import bootstrap_intervals
from pipelines.evaluation.methods.baselines import SinCosCoordinates
from pipelines.evaluation.probes import RidgeProbe
from pipelines.evaluation.splits import MIN_PLACES_PER_CONTINENT, Folds, SplitConfig
from pipelines.evaluation.tasks.continents import NO_CONTINENT, continent_of
from pipelines.ground_cover.examples import Examples
from pipelines.ground_cover.fitting import build_towers, class_scores, fit, image_embeddings
from pipelines.ground_cover.metrics import (
    Interval,
    average_precision,
    classification_metrics,
    confusion_matrix,
)
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig
from pipelines.ground_cover.unseen_classes import score_unseen_classes
from pipelines.progress import Progress
from satclip_model.ground_cover.text_encoder import TextEncoder
from satclip_model.image_encoder import ImageBackbone

logger = logging.getLogger(__name__)

LEARNED: Final = "class_embeddings"
TEXT: Final = "text_prompts"
PROBE: Final = "linear_probe"
MAJORITY: Final = "majority"
COORDINATES: Final = "coordinates"
BANDS: Final = "band_statistics"
BACKBONE: Final = "backbone_features"
SATCLIP: Final = "satclip_image"
COLUMNS: Final = ("method", "seed", "region", "metric_name", "metric_value", "ci_lower", "ci_upper", "num_patches")
EVERYWHERE: Final = "all"


@dataclass(frozen=True)
class GroundCoverScores:
    """What was measured.

    Attributes:
        table: Columns ``COLUMNS``; region ``all`` or a continent.
        confusion: Patches by true and predicted class, by class embeddings, seed after seed, shape (classes, classes).
        classes: Per class its name, patches, f1, average precision and precision of the first ten, by text.
        unseen: Per class left out of training its lift of average precision over chance with bounds, and ``mean``.
        retrieved: Per class numbers of the examples most alike its text, most alike first; the first seed.
        notes: What could not be scored, and why.
    """

    table: pd.DataFrame
    confusion: NDArray[np.int64]
    classes: pd.DataFrame
    unseen: pd.DataFrame
    retrieved: dict[str, list[int]]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OutOfFoldScores:
    """Predictions for every example by models trained without its fold.

    Attributes:
        learned: Probabilities by class embeddings, shape (n, classes).
        described: The same by the texts of the classes.
        probed: Classes by a ridge on the image embeddings, shape (n,).
    """

    learned: NDArray[np.float32]
    described: NDArray[np.float32]
    probed: NDArray[np.int64]


def score_ground_cover(
    examples: Examples,
    training: GroundCoverTrainingConfig,
    backbone: ImageBackbone,
    config: GroundCoverScoresConfig,
    baselines: Mapping[str, NDArray[Any]],
    text_encoder: TextEncoder | None = None,
    notes: Mapping[str, str] | None = None,
) -> GroundCoverScores:
    """Scores under spatial blocks: towers are trained once per fold and seed.

    Args:
        examples: Labelled patches.
        training: Settings of the trainings; the seed is that of the folds.
        backbone: The image backbone.
        config: Folds and seeds.
        baselines: Features of the examples by method, each for a ridge.
        text_encoder: Reads the classes' texts; None opens that of the settings.
        notes: What is known not to be scored.

    Raises:
        TableError: Fewer blocks than folds.
        DatasetError: A fold's training places hold fewer than two classes.
    """
    told = dict(notes or {})
    truth = examples.dominant
    regions = _regions(examples, told)
    progress = Progress(logger, "ground-cover scores", config.num_folds * len(config.seeds), "trainings")
    rows: list[dict[str, Any]] = []
    confusion = np.zeros((len(examples.classes),) * 2, dtype=np.int64)
    first: OutOfFoldScores | None = None
    for seed in config.seeds:
        split = SplitConfig(kind="blocks", cell_deg=config.cell_deg, num_folds=config.num_folds)
        folds = split.assign(examples.lonlat_deg, seed)
        own = out_of_fold(examples, folds, training.model_copy(update={"seed": seed}), backbone, text_encoder, progress)
        first = first or own
        confusion += confusion_matrix(truth, own.learned.argmax(axis=1), len(examples.classes))
        predictions = {PROBE: own.probed, MAJORITY: _majority(truth, folds)} | {
            name: _ridge(features, truth, folds) for name, features in baselines.items()
        }
        for name, probabilities in ((LEARNED, own.learned), (TEXT, own.described)):
            predictions[name] = probabilities.argmax(axis=1).astype(np.int64)
            rows += _probability_rows(name, seed, probabilities, examples, config.multi_label_threshold)
        for name, predicted in predictions.items():
            rows += _class_rows(name, seed, predicted, truth, folds, regions)
    assert first is not None
    return GroundCoverScores(
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
        confusion=confusion,
        classes=_class_table(first, examples, config.multi_label_threshold),
        unseen=score_unseen_classes(examples, training, backbone, config, text_encoder),
        retrieved=_retrieved(first.described, examples),
        notes=told,
    )


def out_of_fold(
    examples: Examples,
    folds: Folds,
    training: GroundCoverTrainingConfig,
    backbone: ImageBackbone,
    text_encoder: TextEncoder | None = None,
    progress: Progress | None = None,
) -> OutOfFoldScores:
    """Predictions of each fold by towers trained on the others."""
    shape = examples.fractions.shape
    learned, described = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    probed = np.zeros(len(examples), dtype=np.int64)
    for train, test in folds.train_test():
        part = examples.select(train)
        model = build_towers(part, training, backbone, text_encoder)
        fit(model, part, training)
        tested = examples.select(test)
        learned[test], described[test] = class_scores(model, tested), class_scores(model, tested, "text")
        embedded = image_embeddings(model, examples)
        probed[test] = _ridge(embedded, examples.dominant, folds)[test]
        if progress is not None:
            progress.advance()
    return OutOfFoldScores(learned, described, probed)


def _ridge(features: NDArray[Any], truth: NDArray[np.int64], folds: Folds) -> NDArray[np.int64]:
    return RidgeProbe().out_of_fold(features, truth, folds, "classification", 0).prediction.astype(np.int64)


def coordinate_features(examples: Examples) -> NDArray[np.float64]:
    """Sine and cosine of longitude and latitude of the examples, shape (n, 4)."""
    return SinCosCoordinates().features(examples.lonlat_deg)


def _majority(truth: NDArray[np.int64], folds: Folds) -> NDArray[np.int64]:
    predicted = np.zeros_like(truth)
    for train, test in folds.train_test():
        predicted[test] = np.bincount(truth[train]).argmax()
    return predicted


def _class_rows(
    method: str,
    seed: int,
    predicted: NDArray[np.int64],
    truth: NDArray[np.int64],
    folds: Folds,
    regions: Mapping[str, NDArray[np.bool_]],
) -> Iterator[dict[str, Any]]:
    """Accuracy and macro F1 with bounds, everywhere and per region."""
    for region, inside in regions.items():
        block = np.unique(folds.block[inside], return_inverse=True)[1].astype(np.int64)
        found, given = truth[inside], predicted[inside]
        one_hot = np.eye(int(max(truth.max(), predicted.max())) + 1, dtype=np.float32)[given]
        values = classification_metrics(one_hot, found)
        bounds = bootstrap_intervals(found, given, block, "classification", np.random.default_rng(seed))
        for name in ("accuracy", "macro_f1"):
            yield _row(method, seed, region, name, Interval(values[name], *bounds[name]), int(inside.sum()))


def _probability_rows(
    method: str, seed: int, probabilities: NDArray[np.float32], examples: Examples, threshold: float
) -> Iterator[dict[str, Any]]:
    """Measures that need probabilities: average precision, by several labels, and calibration."""
    values = classification_metrics(probabilities, examples.dominant)
    relevant = examples.fractions >= threshold
    several = [average_precision(relevant[:, c], probabilities[:, c]) for c in np.flatnonzero(relevant.any(axis=0))]
    values["multi_label_average_precision"] = float(np.mean(several))
    nothing = float("nan")
    for name in ("mean_average_precision", "multi_label_average_precision", "calibration_error"):
        yield _row(method, seed, EVERYWHERE, name, Interval(values[name], nothing, nothing), len(examples))


def _row(method: str, seed: int, region: str, metric: str, interval: Interval, num: int) -> dict[str, Any]:
    values = (method, seed, region, metric, interval.value, interval.lower, interval.upper, num)
    return dict(zip(COLUMNS, values, strict=True))


def _regions(examples: Examples, notes: dict[str, str]) -> dict[str, NDArray[np.bool_]]:
    """Everywhere, and the continents with enough patches."""
    regions = {EVERYWHERE: np.ones(len(examples), dtype=bool)}
    try:
        continents = continent_of(examples.lonlat_deg)
    except MissingTableError as error:
        notes["continents"] = str(error)
        return regions
    for name in np.unique(continents).tolist():
        inside = continents == name
        if name != NO_CONTINENT and inside.sum() >= MIN_PLACES_PER_CONTINENT:
            regions[name] = inside
    return regions


def _class_table(scores: OutOfFoldScores, examples: Examples, threshold: float) -> pd.DataFrame:
    truth, predicted = examples.dominant, scores.learned.argmax(axis=1)
    rows = []
    for index, each in enumerate(examples.classes):
        own, given = truth == index, predicted == index
        top = np.argsort(-scores.described[:, index], kind="stable")[:10]
        total = int(own.sum() + given.sum())
        rows.append(
            {
                "class": each.name,
                "num_patches": int(own.sum()),
                "f1": 2 * int((own & given).sum()) / total if total else float("nan"),
                "average_precision": average_precision(own, scores.described[:, index]),
                "precision_at_10": float((examples.fractions[top, index] >= threshold).mean()),
            }
        )
    return pd.DataFrame(rows)


def _retrieved(described: NDArray[np.float32], examples: Examples, num: int = 6) -> dict[str, list[int]]:
    return {
        each.name: np.argsort(-described[:, index], kind="stable")[:num].tolist()
        for index, each in enumerate(examples.classes)
    }


def mean_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by method, region and metric, the best macro F1 first."""
    means = table.groupby(["method", "region", "metric_name"], sort=False)["metric_value"].mean().unstack()
    return means.sort_values("macro_f1", ascending=False).reset_index()
