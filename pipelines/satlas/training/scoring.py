"""A model on whole examples, as it will be used, and its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.inference import blend_windows, predict_points, run_windows
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.training.examples import BoxTarget, Example, ExampleSource, MaskTarget, ValueTarget
from pipelines.satlas.training.metrics import PrecisionRecall, curve_of_histograms, curve_of_matches, match_points
from satclip_model.satlas import SatlasModel
from satclip_model.satlas.config import DetectionConfig, RegressionConfig, SegmentationConfig

_BINS: Final = 200
_LOWEST_SCORE: Final = 0.05
_LABEL_RANGE: Final = 255.0
METRICS: Final[Mapping[str, str]] = {
    "segmentation": "f1", "binary_segmentation": "f1", "detection": "average_precision", "regression": "error",
}  # fmt: skip
"""What a kind of head is judged by; of ``error`` less is better."""


@dataclass(frozen=True)
class Scores:
    """How good a model is on examples.

    Attributes:
        metric: The number it is judged by: F1 of pixels at the threshold of inference, average precision of points,
            each the mean over categories, or the mean absolute error of values in 0 to 1.
        curves: Precision and recall by category; empty for values.
    """

    metric: float
    curves: Mapping[str, PrecisionRecall]


def score_examples(
    model: SatlasModel, examples: ExampleSource, config: InferenceConfig, match_distance_m: float
) -> Scores:
    """Scores of a model in evaluation mode on all of the examples; pixels that no image shows do not count."""
    head = model.config.heads[0]
    match head:
        case SegmentationConfig():
            curves = _pixel_curves(model, examples, config, head.categories)
            return Scores(_mean([curve.f1_at(config.threshold) for curve in curves.values()]), curves)
        case DetectionConfig():
            curves = _point_curves(model, examples, config, head, match_distance_m)
            return Scores(_mean([curve.average_precision for curve in curves.values()]), curves)
        case RegressionConfig():
            return Scores(_mean_error(model, examples, config), {})
    raise ValueError(f"no scores for a head of kind {head.kind}")


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _grid(example: Example) -> TileGrid:
    rows, columns = example.shape
    return TileGrid(32601, 0.0, rows * 10.0, 10.0, rows, columns)


def _pixel_curves(
    model: SatlasModel, examples: ExampleSource, config: InferenceConfig, categories: tuple[str, ...]
) -> dict[str, PrecisionRecall]:
    counts = np.zeros((2, len(categories), _BINS + 1), dtype=np.int64)
    for index in range(len(examples)):
        example = examples[index]
        if not isinstance(example.target, MaskTarget):
            raise TypeError(f"{example.name}: {type(example.target).__name__}, expected masks for a segmentation")
        grid = _grid(example)
        images = list(example.images)[: model.config.num_images]
        share = blend_windows(run_windows(model, grid, images, config), grid, images)
        for category in range(len(categories)):
            given = share[min(category, len(share) - 1)]
            known = example.target.valid & ~np.isnan(given)
            bins = np.clip((given[known] * _BINS).astype(np.int64), 0, _BINS)
            is_category = example.target.classes[category][known] > 0
            counts[0, category] += np.bincount(bins[is_category], minlength=_BINS + 1)
            counts[1, category] += np.bincount(bins[~is_category], minlength=_BINS + 1)
    edges = np.arange(_BINS + 1) / _BINS
    return {
        name: curve_of_histograms(counts[0, position], counts[1, position], edges)
        for position, name in enumerate(categories)
    }


def _point_curves(
    model: SatlasModel, examples: ExampleSource, config: InferenceConfig, head: DetectionConfig, distance_m: float
) -> dict[str, PrecisionRecall]:
    lenient = config.model_copy(update={"min_score": _LOWEST_SCORE})
    scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in head.categories}
    rights: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in head.categories}
    numbers = dict.fromkeys(head.categories, 0)
    for index in range(len(examples)):
        example = examples[index]
        target = example.target
        if not isinstance(target, BoxTarget):
            raise TypeError(f"{example.name}: {type(target).__name__}, expected boxes for a detection")
        images = list(example.images)[: model.config.num_images]
        places_px, category, score = predict_points(model, _grid(example), images, lenient)
        boxes = target.boxes.astype(np.float64)
        middles = np.column_stack([boxes[:, [0, 2]].mean(1), boxes[:, [1, 3]].mean(1)])
        seen = _looked_at(example, middles)
        for position, name in enumerate(head.categories):
            mine = (target.labels == position + 1) & seen
            chosen = category == position
            right, counts = match_points(
                places_px[chosen] * 10.0, score[chosen], middles[mine] * 10.0, distance_m, target.is_difficult[mine]
            )
            scores[name].append(score[chosen][counts])
            rights[name].append(right[counts])
            numbers[name] += int((mine & ~target.is_difficult).sum())
    return {
        name: curve_of_matches(np.concatenate(scores[name]), np.concatenate(rights[name]), numbers[name])
        for name in head.categories
    }


def _looked_at(example: Example, places_px: NDArray[np.float64]) -> NDArray[np.bool_]:
    rows, columns = example.shape
    column = np.clip(places_px[:, 0].astype(int), 0, columns - 1)
    row = np.clip(places_px[:, 1].astype(int), 0, rows - 1)
    return np.asarray(example.seen[row, column])


def _mean_error(model: SatlasModel, examples: ExampleSource, config: InferenceConfig) -> float:
    total, number = 0.0, 0
    for index in range(len(examples)):
        example = examples[index]
        if not isinstance(example.target, ValueTarget):
            raise TypeError(f"{example.name}: {type(example.target).__name__}, expected values for a regression")
        grid = _grid(example)
        images = list(example.images)[: model.config.num_images]
        given = blend_windows(run_windows(model, grid, images, config), grid, images)[0] / _LABEL_RANGE
        known = example.target.valid & ~np.isnan(given)
        errors = np.abs(np.clip(given[known], 0, 1) - example.target.values[known] / _LABEL_RANGE)
        total, number = total + float(errors.sum()), number + int(known.sum())
    return total / number if number else float("nan")
