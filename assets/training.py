"""Training the two towers."""

from typing import TYPE_CHECKING, Any, Literal, Self

import dagster as dg
from pydantic import Field, model_validator

from assets.features import GROUP, BankViewsConfig, image_features
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.named_configs import TrainingPlan

if TYPE_CHECKING:
    from pipelines.training.checkpoints import TrainedModel


class PixelBackboneConfig(ImageBackboneSettings, dg.Config):
    """The image backbone of a training from pixels, and where its weights come from."""


class LoaderConfig(PixelLoaderConfig, dg.Config):
    """How patches come from the store when training reads pixels."""


@preset_defaults("satclip_checkpoint")
class SatclipCheckpointConfig(TrainingPlan, dg.Config):
    """How the two towers are trained, and on what."""

    backbone: PixelBackboneConfig = Field(
        default=PixelBackboneConfig(), description="The image backbone, from pixels only; a bank names its own."
    )
    views: BankViewsConfig = Field(
        default=BankViewsConfig(),
        description="Augmentations, from pixels only: with num_views above 1 every epoch has its own view of a patch.",
    )
    loader: LoaderConfig = Field(
        default=LoaderConfig(), description="How patches come from the store; from pixels only."
    )

    dataset_version: str = Field(default="latest", description="Which dataset.")
    features: str = Field(
        default="latest",
        description="Fingerprint of the image features, or latest for those of this dataset; not read from pixels.",
    )
    run_in: Literal["step", "subprocess"] = Field(
        default="step", description="Where PyTorch runs: in the step's own process, or in processes that it starts."
    )
    num_processes: int = Field(
        default=1, ge=1, le=1024, description="Ranks that share each batch, one per GPU; more than 1 in a subprocess."
    )

    @model_validator(mode="after")
    def _ranks_have_processes(self) -> Self:
        if self.num_processes > 1 and self.run_in == "step":
            raise ValueError(
                f"num_processes is {self.num_processes}, but run_in is 'step', which is one process; set run_in to "
                "'subprocess' or num_processes to 1"
            )
        return self

    @model_validator(mode="after")
    def _a_bank_has_its_own_backbone(self) -> Self:
        chosen = [
            name
            for name, default in (("backbone", ImageBackboneSettings()), ("views", ViewsConfig()))
            if getattr(self, name).model_dump() != default.model_dump()
        ]
        if self.source == "bank" and chosen:
            raise ValueError(
                f"{' and '.join(chosen)} of satclip_checkpoint set, but source is 'bank', which has its own; set them "
                "at image_features, or source to 'pixels'"
            )
        return self

    @property
    def plan(self) -> TrainingPlan:
        """The settings of the training, without those of where it runs."""
        return TrainingPlan.model_validate(self.model_dump(include=set(TrainingPlan.model_fields)))


@dg.asset(group_name=GROUP, kinds={"pytorch", "lightning"}, deps=[image_features], pool="gpu")
def satclip_checkpoint(
    context: dg.AssetExecutionContext,
    config: SatclipCheckpointConfig,
    workspace: WorkspaceResource,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    """Location and image towers trained on a dataset that passed its checks, split by place.

    On the image features of the dataset, or from its pixels, for which no image features need be there.
    """
    if config.run_in == "subprocess":
        return _train_in_subprocess(context, config, workspace, pipes)
    from pipelines.training.stage import train_in_workspace

    run, result = train_in_workspace(
        workspace.path, config.plan.training, config.dataset_version, config.features, config.plan.pixels
    )
    return dg.MaterializeResult(
        metadata=_describe(run, result.seconds), data_version=dg.DataVersion(run.record["checkpoint_sha256"])
    )


def _train_in_subprocess(
    context: dg.AssetExecutionContext,
    config: SatclipCheckpointConfig,
    workspace: WorkspaceResource,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    from assets.train_process import command
    from pipelines.training.checkpoints import open_run

    extras = {
        "root": str(workspace.path),
        "plan": config.plan.model_dump(mode="json"),
        "dataset_version": config.dataset_version,
        "features": config.features,
    }
    done = pipes.run(context=context, command=command(config.num_processes), extras=extras)
    (told,) = done.get_custom_messages()
    metadata = _describe(open_run(workspace.path, told["run"]), told["seconds"])
    return done.get_materialize_result()._replace(metadata=metadata)


def _describe(run: "TrainedModel", seconds: float) -> dict[str, Any]:
    from assets.metadata import loss_curves, plain_metrics, retrieval_curves

    record, split = run.record, run.record["split"]
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(run.checkpoint_path),
        "loss_curves": loss_curves(run.history_path),
        "training_places": split["num_training_places"],
        "validation_places": split["num_validation_places"],
        **plain_metrics({**record["metrics"], "epoch": record["epoch"], "seconds": seconds}),
        "source": record["image_features"]["source"],
        "trained_backbone": bool(record["image_features"]["encoder"].get("trainable", False)),
        "dataset_version": record["dataset_version"],
        "checkpoint_sha256": record["checkpoint_sha256"],
    }
    if split["num_validation_places"] > 1:
        metadata["retrieval_curves"] = retrieval_curves(run.history_path)
    return metadata
