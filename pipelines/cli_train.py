"""The command ``satclip train``."""

import argparse
import sys
from typing import TYPE_CHECKING, Final

from pipelines.cli_dataset import add_root
from pipelines.errors import ArtefactError
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.training.named_configs import TrainingPlan

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_INTERRUPTED: Final = 130
_TOLD: Final = ("train_loss", "val_loss", "val_recall_at_1", "val_recall_at_10", "val_median_error_km")


def add_train_command(commands: "Commands") -> None:
    """Adds ``train`` to the parser of ``satclip``."""
    from pipelines.training.named_configs import config_names

    parser = commands.add_parser(
        "train",
        help="make the image features of a dataset and train on them, or train from pixels; a training that was "
        "stopped goes on",
        epilog="From pixels: --set source=pixels, with --set trainable_backbone=true to train the image backbone too. "
        "Several GPUs: torchrun --nproc-per-node N --no-python satclip train ...; image features must be there "
        "already, as one process or the asset image_features leaves them.",
    )
    parser.add_argument("--config", required=True, help=f"a file, or one of {', '.join(config_names())}")
    parser.add_argument("--dataset-version", default="latest", help="name of its folder under datasets/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="a setting instead of the file's, such as epochs=100 or views.num_views=8; may be given again",
    )  # fmt: skip
    parser.add_argument("--download", action="store_true", help="fetch the backbone's weights if they are not cached")
    add_root(parser)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from pipelines.training.named_configs import read_training_plan

    downloads = ["backbone.download=true"] if options.download else []
    plan = read_training_plan(options.config, [*options.overrides, *downloads])
    root = workspace_root(options.root)
    try:
        return _train_by_plan(root, plan, options.dataset_version)
    except KeyboardInterrupt:
        print("satclip: train was stopped; the same command goes on from there", file=sys.stderr)
        return _INTERRUPTED


def _train_by_plan(root: "Path", plan: "TrainingPlan", dataset_version: str) -> int:
    from pipelines.patches.dataset import LATEST, resolve_version
    from pipelines.training.ranks import current_ranks
    from pipelines.training.stage import train_in_workspace

    version = resolve_version(root, dataset_version)
    features = _make_bank(root, plan, version) if plan.pixels is None else LATEST
    run, result = train_in_workspace(root, plan.training, version, features, plan.pixels)
    if not current_ranks().is_first:
        return 0
    print(f"trained    {run.name}: {result.num_training_places} places, {result.seconds:.0f} s")
    print(f"checkpoint {run.checkpoint_path}")
    for name in _TOLD:
        if name in result.metrics:
            print(f"{name:20} {result.metrics[name]:.4g}")
    return 0


def _make_bank(root: "Path", plan: "TrainingPlan", dataset_version: str) -> str:
    """Fingerprint of the bank of a plan, which is there afterwards; several ranks find it or fail in training."""
    from pipelines.features.backbones import open_backbone
    from pipelines.features.view_bank import bank_fingerprint, build_image_features, image_features_path
    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.training.ranks import current_ranks
    from satclip_model.errors import CheckpointError

    dataset = open_patch_dataset(root, dataset_version)
    try:
        backbone = open_backbone(plan.backbone)
    except CheckpointError as error:
        raise ArtefactError(f"weights of the image backbone: {error}") from error
    fingerprint = bank_fingerprint(backbone, plan.views)
    path = image_features_path(root, dataset.version, fingerprint)
    if current_ranks().world_size == 1:
        build_image_features(dataset, backbone, path, plan.views, settings=plan.backbone)
    return fingerprint
