"""Ground cover from images: two towers, and how well they tell classes apart."""

from typing import Any, Literal, Self

import dagster as dg
from pydantic import Field, model_validator

from assets.features import BankViewsConfig, image_features
from assets.ground_cover import GROUP, ground_cover_labels
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource
from assets.training import PixelBackboneConfig
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training_config import GroundCoverPixels, GroundCoverTrainingConfig

_PIXEL_SETTINGS = ("backbone", "trainable_backbone", "views")


@preset_defaults("ground_cover_checkpoint")
class GroundCoverCheckpointConfig(GroundCoverTrainingConfig, dg.Config):
    """How image tower and class tower are trained, and on what."""

    source: Literal["bank", "pixels"] = Field(default="bank", description="Image features that are there, or pixels.")
    backbone: PixelBackboneConfig = Field(
        default=PixelBackboneConfig(), description="The image backbone, from pixels only; a bank names its own."
    )
    trainable_backbone: bool = Field(default=False, description="Whether its weights move; from pixels only.")
    views: BankViewsConfig = Field(default=BankViewsConfig(), description="Augmentations; from pixels only.")
    dataset_version: str = Field(default="latest", description="Which dataset.")
    labels: str = Field(default="latest", description="Fingerprint of the labels, or latest for those of the dataset.")
    features: str = Field(default="latest", description="Fingerprint of the bank, or latest; not read from pixels.")

    @model_validator(mode="after")
    def _a_bank_has_its_own_backbone(self) -> Self:
        default = GroundCoverPixels().model_dump()
        chosen = [name for name in _PIXEL_SETTINGS if self.model_dump()[name] != default[name]]
        if self.source == "bank" and chosen:
            raise ValueError(
                f"{' and '.join(chosen)} of ground_cover_checkpoint set, but source is 'bank', which has its own; set "
                "them at image_features, or source to 'pixels'"
            )
        return self

    @property
    def training(self) -> GroundCoverTrainingConfig:
        """The settings of the training alone."""
        return GroundCoverTrainingConfig(**self.model_dump(include=set(GroundCoverTrainingConfig.model_fields)))

    @property
    def pixels(self) -> GroundCoverPixels | None:
        """How pixels are read; None on a bank."""
        if self.source == "bank":
            return None
        return GroundCoverPixels(
            backbone=ImageBackboneSettings(**self.backbone.model_dump()),
            trainable_backbone=self.trainable_backbone,
            views=ViewsConfig(**self.views.model_dump()),
        )


@preset_defaults("ground_cover_scores")
class GroundCoverEvaluationConfig(GroundCoverScoresConfig, dg.Config):
    """How places are divided, and what is scored."""

    run: str = Field(default="latest", description="Which ground-cover training.")


@dg.asset(group_name=GROUP, kinds={"pytorch"}, deps=[ground_cover_labels, image_features], pool="gpu")
def ground_cover_checkpoint(config: GroundCoverCheckpointConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Image tower and class tower trained on the labels of a dataset: class embeddings, and texts of classes.

    On the image features of the dataset, or from its pixels. A training that was stopped goes on.
    """
    from assets.metadata import loss_curves, plain_metrics
    from pipelines.ground_cover.training import open_inputs, train_ground_cover

    inputs = open_inputs(
        workspace.path, config.seed, config.dataset_version, config.labels, config.features, config.pixels
    )
    run = train_ground_cover(workspace.path, config.training, inputs)
    record = run.record
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(run.checkpoint_path),
            "loss_curves": loss_curves(run.history_path),
            "training_places": record["split"]["num_training_places"],
            "validation_places": record["split"]["num_validation_places"],
            "statuses": dg.MetadataValue.json(record["labels"]["statuses"]),
            **plain_metrics({**record["metrics"], "seconds": record["seconds"]}),
            "source": record["image_features"]["source"],
            "text_encoder": record["config"]["text_encoder"],
            "dataset_version": record["dataset_version"],
            "checkpoint_sha256": record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(record["checkpoint_sha256"]),
    )


@dg.asset(group_name=GROUP, kinds={"scikitlearn", "csv"}, deps=[ground_cover_checkpoint])
def ground_cover_scores(config: GroundCoverEvaluationConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Scores of classes by their embeddings and texts under spatial blocks, beside baselines; classes left out.

    The settings of the training are scored by cross-validation: towers are trained per fold and seed. Scores that are
    there for the same checkpoint and settings are kept.
    """
    from pipelines.ground_cover.score_stage import score_run
    from pipelines.ground_cover.training import open_ground_cover_run
    from pipelines.provenance import file_sha256

    run = open_ground_cover_run(workspace.path, config.run)
    settings = GroundCoverScoresConfig(**config.model_dump(include=set(GroundCoverScoresConfig.model_fields)))
    scored = score_run(workspace.path, run, settings)
    return dg.MaterializeResult(
        metadata=_describe(scored), data_version=dg.DataVersion(file_sha256(scored.folder / "scores.csv"))
    )


def _describe(scored: Any) -> dict[str, Any]:  # noqa: ANN401
    from assets.metadata import picture, plain_metrics
    from pipelines.ground_cover.gallery import class_gallery
    from pipelines.ground_cover.score_figures import confusion_chart, methods_chart, unseen_chart
    from pipelines.ground_cover.scores import LEARNED, mean_scores

    scores = scored.scores
    means = mean_scores(scores.table)
    own = means[(means["method"] == LEARNED) & (means["region"] == "all")].iloc[0].drop(["method", "region"])
    metadata: dict[str, Any] = {
        "dagster/row_count": len(scores.table),
        "path": dg.MetadataValue.path(scored.folder),
        "methods": picture(methods_chart(scores.table)),
        "confusion": picture(confusion_chart(scores.confusion, list(scores.classes["class"]))),
        "gallery": picture(class_gallery(scored.inputs, scores.retrieved)),
        **plain_metrics({str(name): float(value) for name, value in own.items()}),
        "classes": dg.MetadataValue.md(_markdown(scores.classes)),
        "scores": dg.MetadataValue.md(_markdown(means)),
        "not_scored": dg.MetadataValue.json(scores.notes),
        "taken_from_before": scored.is_reused,
        "run": scored.record["run"],
    }
    if len(scores.unseen):
        metadata["unseen_classes"] = picture(unseen_chart(scores.unseen))
        metadata["unseen_lift"] = float(scores.unseen.iloc[-1]["lift"])
        metadata["unseen"] = dg.MetadataValue.md(_markdown(scores.unseen))
    return metadata


def _markdown(table: Any) -> str:  # noqa: ANN401
    """A table of Markdown, numbers of three decimals."""
    columns = [str(each) for each in table.columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in table.itertuples(index=False):
        cells = [f"{each:.3f}" if isinstance(each, float) else str(each) for each in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dg.asset_check(asset=ground_cover_checkpoint, blocking=True)
def ground_cover_is_learned(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """On validation places more are right than the commonest class would be; without validation places it passes."""
    import numpy as np

    from pipelines.ground_cover.training import is_held_out, open_ground_cover_run, open_inputs
    from pipelines.ground_cover.training_config import GroundCoverTrainingConfig

    record = open_ground_cover_run(workspace.path).record
    if "val_accuracy" not in record["metrics"]:
        return dg.AssetCheckResult(passed=True, metadata={"validation_places": 0})
    config = GroundCoverTrainingConfig.model_validate(record["config"])
    pixels = GroundCoverPixels() if record["image_features"]["source"] == "pixels" else None
    examples = open_inputs(
        workspace.path, config.seed, record["dataset_version"], record["labels"]["fingerprint"],
        record["image_features"].get("fingerprint", ""), pixels,
    ).examples  # fmt: skip
    dominant = examples.dominant[is_held_out(examples, config)]
    commonest = float(np.bincount(dominant).max() / len(dominant))
    found = float(record["metrics"]["val_accuracy"])
    return dg.AssetCheckResult(passed=found > commonest, metadata={"accuracy": found, "commonest_class": commonest})


@dg.asset_check(asset=ground_cover_scores)
def ground_cover_beats_baselines(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Under spatial blocks macro F1 exceeds coordinates and majority, and is not below band statistics; a warning."""
    from pipelines.ground_cover.score_stage import read_scores, scores_folder
    from pipelines.ground_cover.scores import BANDS, COORDINATES, LEARNED, MAJORITY, mean_scores
    from pipelines.ground_cover.training import open_ground_cover_run

    run = open_ground_cover_run(workspace.path)
    means = mean_scores(read_scores(scores_folder(workspace.path, run.name)).table)
    f1 = means[means["region"] == "all"].set_index("method")["macro_f1"]
    plain = float(max(f1[COORDINATES], f1[MAJORITY]))
    return dg.AssetCheckResult(
        passed=bool(f1[LEARNED] > plain and f1[LEARNED] >= f1[BANDS]),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "macro_f1": float(f1[LEARNED]),
            "coordinates_or_majority": plain,
            "band_statistics": float(f1[BANDS]),
        },
    )


GROUND_COVER_MODEL_ASSETS = [ground_cover_checkpoint, ground_cover_scores]
GROUND_COVER_MODEL_CHECKS = [ground_cover_is_learned, ground_cover_beats_baselines]
