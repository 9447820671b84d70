"""The report: one HTML page that needs nothing but itself."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipelines.atomic import replacing
from pipelines.evaluation.intervals import LEADING_METRICS
from pipelines.evaluation.summaries import plain, split_label, summarize, table_notes, with_interpolation
from pipelines.pages import jpeg_uri, png_uri, render_page
from pipelines.report.figures import METRIC_LABELS, MODEL_LABELS

logger = logging.getLogger(__name__)

TEMPLATE = "report_template.html"


@dataclass(frozen=True)
class LineageStep:
    """One artefact on the way from pixel to score.

    Attributes:
        asset: Name of the asset.
        what: What it holds, in a few words with counts.
        identity: Version or hash that later artefacts name.
    """

    asset: str
    what: str
    identity: str


@dataclass(frozen=True)
class ReportContent:
    """Everything the page shows. A picture or table that is None or empty leaves its section out.

    Attributes:
        title: Heading of the page.
        synthetic: True if the pixels come from a synthetic planet; the page then says what its scores cannot tell.
        facts: Name and value of what made the page: dataset version, checkpoint, commit and the like.
        package_versions: Version by package.
        num_valid: Places with a valid patch.
        rejected: Number of places without, by reason.
        scores: Rows as of :func:`pipelines.evaluation.scores.evaluate`.
        model_name: The model in question among the scores.
        retrieval: Rows of name, value and explanation on how well places and patches find each other.
        lineage: Artefacts in the order in which they were made.
        sample_map: Map of the places.
        gallery: Patches in true color.
        loss_curves: Loss by epoch.
        embedding_map: Map of the embeddings.
        resolution_chart: What the encoder tells apart.
        localization_map: Where images are believed to be from.
        similarity_map: One image and its similarity with all places.
        failures: Tasks that were asked for and not evaluated, and why.
        localization: Rows of distance, share of images found within it, and share by chance.
        scores_chart: Chart of the scores.
    """

    title: str
    synthetic: bool
    facts: Mapping[str, str]
    package_versions: Mapping[str, str]
    num_valid: int
    rejected: Mapping[str, int]
    scores: pd.DataFrame
    model_name: str
    retrieval: Sequence[tuple[str, str, str]] = ()
    lineage: Sequence[LineageStep] = field(default_factory=tuple)
    failures: Mapping[str, str] = field(default_factory=dict)
    sample_map: Figure | None = None
    gallery: Figure | None = None
    loss_curves: Figure | None = None
    embedding_map: Figure | None = None
    resolution_chart: Figure | None = None
    localization_map: Figure | None = None
    similarity_map: Figure | None = None
    localization: Sequence[tuple[float, float, float]] = ()
    scores_chart: Figure | None = None


def render_report(content: ReportContent) -> str:
    """The page as HTML: styles and pictures inside, no script, no request to anywhere. Equal content, equal page."""
    num_places = content.num_valid + sum(content.rejected.values())
    return render_page(
        "pipelines.report",
        TEMPLATE,
        content.title,
        content=content,
        num_places=num_places,
        valid_share=content.num_valid / num_places if num_places else 0.0,
        rejected=sorted(content.rejected.items(), key=lambda item: (-item[1], item[0])),
        table=_score_rows(content.scores, content.model_name),
        gaps=[*_gaps(content.scores), *content.failures.items()],
        notes=table_notes(content.scores),
        models=[(MODEL_LABELS.get(name, name), name == content.model_name) for name in _models(content.scores)],
        seeds=sorted(int(seed) for seed in content.scores["seed"].unique()),
        images={
            "sample_map": png_uri(content.sample_map),
            "gallery": jpeg_uri(content.gallery),
            "loss_curves": png_uri(content.loss_curves),
            "embedding_map": png_uri(content.embedding_map),
            "resolution_chart": png_uri(content.resolution_chart),
            "localization_map": png_uri(content.localization_map),
            "similarity_map": png_uri(content.similarity_map),
            "scores_chart": png_uri(content.scores_chart),
        },
    )


def write_report(path: Path, content: ReportContent) -> None:
    """Writes the page, whole or not at all."""
    page = render_report(content)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    logger.info("%s: wrote the report, %.1f MB", path, len(page.encode()) / 1e6)


def _models(scores: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(scores["model_name"]))


def _gaps(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """What has no value, and why."""
    if "note" not in scores:
        return []
    rows = scores[scores["metric_value"].isna()]
    told = rows["model_name"] + ", " + rows["task"] + ", " + rows["split"]
    return list(dict.fromkeys(zip(told, rows["note"], strict=True)))


def _score_rows(scores: pd.DataFrame, model_name: str) -> list[dict[str, Any]]:
    means = with_interpolation(summarize(scores))
    means = means[means["metric_name"].isin(LEADING_METRICS)]
    models, rows = _models(scores), []
    keys = ["task", "split", "cell_deg", "fold_name", "method", "metric_name"]
    for (task, split, cell_deg, fold_name, probe, metric), group in means.groupby(keys, sort=False, dropna=False):
        by_model = {record["model_name"]: record for record in group.to_dict("records")}
        values = {name: float(record["metric_value"]) for name, record in by_model.items()}
        known = {name: value for name, value in values.items() if not np.isnan(value)}
        others = [value for name, value in known.items() if name != model_name]
        margin = known[model_name] - max(others) if model_name in known and others else None
        best = max(known.values(), default=np.nan)
        rows.append(
            {
                "task": task,
                "split": split_label(str(split), float(cell_deg), str(fold_name)),
                "probe": probe,
                "metric": METRIC_LABELS[str(metric)],
                "num_places": int(group["n_samples"].iloc[0]),
                "cells": [_cell(by_model.get(name), best, name == model_name) for name in models],
                "margin": None if margin is None else float(margin),
            }
        )
    return rows


def _cell(record: Mapping[str, Any] | None, best: float, is_model: bool) -> dict[str, Any]:
    if record is None or np.isnan(record["metric_value"]):
        return {"value": "" if record is None else "-", "interval": "", "is_best": False, "is_model": is_model}
    return {
        "value": plain(record["metric_value"], 3),
        "interval": _interval(record["ci_lower"], record["ci_upper"]),
        "is_best": bool(record["metric_value"] == best),
        "is_model": is_model,
    }


def _interval(lower: float, upper: float) -> str:
    return "" if np.isnan(lower) or np.isnan(upper) else f"{plain(lower, 2)} to {plain(upper, 2)}"
