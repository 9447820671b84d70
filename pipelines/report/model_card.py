"""The model card: what a checkpoint is, as recorded by those who made it, in the form of the Hugging Face Hub.

Source of the form: https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from jinja2 import Environment, StrictUndefined

from pipelines.atomic import replacing
from pipelines.evaluation.effective_resolution import Resolution
from pipelines.evaluation.intervals import LEADING_METRICS
from pipelines.evaluation.summaries import markdown_table, plain, split_label, summarize, table_notes

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD_NAME: Final = "README.md"
EARTH_CIRCUMFERENCE_KM: Final = 40_030.0
_TEMPLATE: Final = Path(__file__).with_name("model_card_template.md")
_TASK_TYPES: Final = {"regression": "tabular-regression"}


@dataclass(frozen=True)
class CardContent:
    """Records that the card is written from.

    Attributes:
        run: The record of the training run.
        dataset: The record of its dataset.
        first_date: Day of the earliest image, ISO 8601; empty where times are not recorded.
        last_date: Day of the latest.
        scores: Rows as of `pipelines.evaluation.scores.evaluate`.
        model_name: The model among them.
        synthetic: Whether the pixels come from a synthetic planet.
        max_cloud_cover_percent: Of the scenes searched; None where that is not recorded.
        resolution: What the encoder tells apart; None leaves it out.
        failures: Tasks that were asked for and not evaluated, and why.
    """

    run: Mapping[str, Any]
    dataset: Mapping[str, Any]
    first_date: str
    last_date: str
    scores: pd.DataFrame
    model_name: str
    synthetic: bool
    max_cloud_cover_percent: float | None = None
    resolution: Resolution | None = None
    failures: Mapping[str, str] = field(default_factory=dict)


def write_model_card(path: Path, content: CardContent) -> None:
    """Writes the card, whole or not at all."""
    card = render_model_card(content)
    with replacing(path) as partial:
        partial.write_text(card, encoding="utf-8")


def render_model_card(content: CardContent) -> str:
    """The card as Markdown with a header in YAML; equal records give equal cards."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    run = content.run
    degrees = run["config"]["num_degrees"]
    body = template.render(
        run=run,
        config=run["config"],
        dataset=content.dataset,
        synthetic=content.synthetic,
        first_date=content.first_date,
        last_date=content.last_date,
        max_cloud_cover_percent=content.max_cloud_cover_percent,
        finest_km=f"{EARTH_CIRCUMFERENCE_KM / (2 * max(degrees - 1, 1)):,.0f}",
        retrieval=_retrieval(run["metrics"]),
        num_seeds=content.scores["seed"].nunique(),
        table=markdown_table(content.scores).strip(),
        gaps=[*_gaps(content.scores), *(f"{task}: {reason}" for task, reason in content.failures.items())],
        notes=table_notes(content.scores),
        provenance=_provenance(content),
        resolution=content.resolution,
    )
    return f"---\n{_front_matter(content)}\n---\n\n{body.strip()}\n"


def _front_matter(content: CardContent) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license="mit",
        library_name="satclip-pipeline",
        tags=["geospatial", "location-encoder", "sentinel-2", "satclip", *(["synthetic"] if content.synthetic else [])],
        model_name=f"SatCLIP {content.run['dataset_version']}",
        eval_results=_results(content),
    )
    return str(data.to_yaml()).strip()


def _results(content: CardContent) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    means = summarize(content.scores).dropna(subset=["metric_value"])
    own = means[(means["model_name"] == content.model_name) & means["metric_name"].isin(LEADING_METRICS)]
    return [
        EvalResult(
            task_type=_TASK_TYPES.get(str(row.task_type), "tabular-classification"),
            dataset_type=str(row.dataset),
            dataset_name=str(row.dataset),
            dataset_config=f"{row.task}, {split_label(str(row.split), float(row.cell_deg), str(row.fold_name))}",
            metric_type=str(row.metric_name),
            metric_value=round(float(row.metric_value), 4),
            metric_name=f"{row.metric_name} ({row.method}){_interval(row.ci_lower, row.ci_upper)}",
        )
        for row in own.itertuples()
    ]


def _interval(lower: float, upper: float) -> str:
    if pd.isna(lower) or pd.isna(upper):
        return ""
    return f", 95 % interval {plain(lower, 3)} to {plain(upper, 3)}"


def _retrieval(metrics: Mapping[str, float]) -> list[tuple[str, float, float]]:
    return [
        (name, metrics[f"{part}_recall_at_1"], metrics[f"{part}_chance_recall_at_1"])
        for part, name in (("train", "training"), ("val", "validation"))
        if f"{part}_recall_at_1" in metrics
    ]


def _gaps(scores: pd.DataFrame) -> list[str]:
    missing = scores[scores["metric_value"].isna()]
    return list(dict.fromkeys(f"{row.model_name}, {row.task}, {row.split}: {row.note}" for row in missing.itertuples()))


def _provenance(content: CardContent) -> list[tuple[str, str]]:
    run, dataset = content.run, content.dataset
    images = run["image_features"]
    return [
        ("dataset", dataset["version"]),
        ("content of the patches (SHA-256)", dataset["content_sha256"]),
        ("image features", images.get("fingerprint") or images.get("source", "")),
        ("training configuration (SHA-256)", run["config_sha256"]),
        ("checkpoint (SHA-256)", run["checkpoint_sha256"]),
        ("commit", run["commit"] or "not a checkout"),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(run["packages"].items()))),
    ]
