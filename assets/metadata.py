"""What the pages of the assets show: pictures of at most 100 kB, tables and plain numbers."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipelines.patches.dataset import DatasetRecord
    from pipelines.patches.shards import ShardReport

Metadata = dict[str, Any]


def picture(figure: "Figure") -> dg.MarkdownMetadataValue:
    """A figure as an inline picture."""
    from pipelines.drawing import to_preview_bytes

    encoded = base64.b64encode(to_preview_bytes(figure)).decode("ascii")
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{encoded})")


def plain_metrics(metrics: Mapping[str, float]) -> Metadata:
    """Numbers of four digits that Dagster can plot over time; those that are not finite are told as text."""
    return {name: float(f"{value:.4g}") if math.isfinite(value) else str(value) for name, value in metrics.items()}


def listed(texts: Sequence[str]) -> dg.TextMetadataValue:
    """Texts as one line each, or ``none``."""
    return dg.MetadataValue.text("\n".join(texts) or "none")


def sample_map(places: "pd.DataFrame") -> dg.MarkdownMetadataValue:
    """Where the places are."""
    from pipelines.drawing import sample_map as draw
    from pipelines.sampling.land import is_land

    return picture(draw(places, is_land))


def partition_metadata(reports: "list[ShardReport]") -> Metadata:
    """Counts of the shards of one partition."""
    verdicts: dict[str, int] = {}
    for report in reports:
        for verdict, count in report.rejections.items():
            verdicts[verdict] = verdicts.get(verdict, 0) + count
    return {
        "dagster/row_count": sum(report.num_places for report in reports),
        "shards": dg.MetadataValue.text(", ".join(str(report.shard) for report in reports) or "none"),
        "patches": sum(report.num_valid for report in reports),
        "shards_skipped": sum(report.skipped for report in reports),
        "rejected_scenes": dg.MetadataValue.json(verdicts),
        "retries": sum(report.num_retries for report in reports),
    }


def dataset_metadata(root: Path, record: "DatasetRecord") -> Metadata:
    """What verification found, the map of places and a gallery of patches in true colour."""
    from pipelines.patches.store import dataset_folder

    folder = dataset_folder(root, record.version)
    return {
        "dagster/row_count": record.num_valid,
        "path": dg.MetadataValue.path(folder / "patches.zarr"),
        "version": record.version,
        "problems": listed(record.problems),
        **(_dataset_pictures(root, record.version) if record.passed else {}),
        "places": record.num_places,
        "valid_share": record.num_valid / record.num_places,
        "places_without_patch": dg.MetadataValue.json(record.reasons),
        "rejected_scenes": dg.MetadataValue.json(record.rejections),
        "baselines": dg.MetadataValue.json(record.baselines),
        "reflectance": _statistics_table(record),
        "content_sha256": record.content_sha256,
    }


def label_metadata(folder: Path) -> Metadata:
    """Places by status, the share of each class, and where each dominates."""
    from collections import Counter

    from pipelines.ground_cover.figures import class_shares, label_map
    from pipelines.ground_cover.labels import read_labels, read_labels_record

    labels, record = read_labels(folder), read_labels_record(folder)
    valid = labels.valid
    area = labels.fractions[valid].mean(axis=0).tolist() if valid.any() else [0.0] * len(labels.classes)
    years = Counter(labels.label_year[valid].tolist())
    return {
        "dagster/row_count": int(valid.sum()),
        "path": dg.MetadataValue.path(folder),
        "map": picture(label_map(labels)),
        "shares": picture(class_shares(labels)),
        "classes": dg.MetadataValue.json(
            {name: round(share, 4) for name, share in zip(labels.classes.names, area, strict=True)}
        ),
        "statuses": dg.MetadataValue.json(labels.counts()),
        "label_years": dg.MetadataValue.json({str(year): years[year] for year in sorted(years)}),
        "labeled_share": float(valid.mean()),
        "unknown_codes": dg.MetadataValue.json(record["unknown_codes"]),
        "failures": dg.MetadataValue.json(record["failures"]),
        "dataset_version": record["dataset_version"],
        "collection": record["collection"],
        "fingerprint": record["fingerprint"],
    }


def loss_curves(history_path: Path) -> dg.MarkdownMetadataValue:
    """Training and validation loss by epoch."""
    import pandas as pd

    from pipelines.report.figures import loss_curves as draw

    return picture(draw(pd.read_csv(history_path)))


def retrieval_curves(history_path: Path) -> dg.MarkdownMetadataValue:
    """Recall and median error on validation places by epoch."""
    import pandas as pd

    from pipelines.training.curves import retrieval_curves as draw

    return picture(draw(pd.read_csv(history_path)))


def embedding_map(path: Path, resolution_deg: float, lat_bounds_deg: tuple[float, float]) -> dg.MarkdownMetadataValue:
    """Three principal components of the grid's embeddings as red, green and blue."""
    from pipelines.embeddings.export import read_embeddings
    from pipelines.embeddings.grid import GlobalGrid
    from pipelines.report.figures import embedding_map as draw

    grid = read_embeddings(path)
    return picture(draw(grid.lonlat_deg, grid.embeddings, GlobalGrid(resolution_deg, lat_bounds_deg)))


def score_chart(scores: "pd.DataFrame") -> dg.MarkdownMetadataValue:
    """Leading metric of every task and method."""
    from pipelines.evaluation.stage import MODEL_NAME
    from pipelines.report.figures import scores_chart as draw

    return picture(draw(scores, MODEL_NAME))


def score_metrics(scores: "pd.DataFrame") -> Metadata:
    """The model's leading metrics under spatial blocks, one number per task."""
    from pipelines.evaluation.intervals import LEADING_METRICS
    from pipelines.evaluation.stage import MODEL_NAME
    from pipelines.evaluation.summaries import summarize

    means = summarize(scores)
    own = means[(means["model_name"] == MODEL_NAME) & (means["split"] != "random")]
    own = own[own["metric_name"].isin(LEADING_METRICS)]
    return plain_metrics({f"{row.task}_{row.metric_name}_blocks": row.metric_value for row in own.itertuples()})


def _dataset_pictures(root: Path, version: str) -> Metadata:
    import numpy as np

    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.report.figures import choose_gallery, patch_gallery, place_captions, read_true_color

    dataset = open_patch_dataset(root, version)
    chosen = choose_gallery(dataset.places, 12, np.random.default_rng(0))
    gallery = patch_gallery(read_true_color(dataset, chosen), place_captions(dataset.places, chosen))
    return {"map": sample_map(dataset.places), "gallery": picture(gallery)}


def _statistics_table(record: "DatasetRecord") -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "band": each.band,
                    "mean": round(each.mean, 4),
                    "std": round(each.std, 4),
                    "max": round(each.maximum, 4),
                }
            )
            for each in record.statistics
        ]
    )
