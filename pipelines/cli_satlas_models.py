"""``satclip satlas windows | predictions | train``: images of an area, what models see in them, and the models."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli_dataset import add_root
from pipelines.satlas.predictions import TASK_KINDS
from pipelines.workspace import stac_url, workspace_root

if TYPE_CHECKING:
    from pipelines.satlas.training.config import SatlasTrainingConfig
    from pipelines.satlas.training.examples import ExampleSource

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_model_actions(actions: "Commands") -> None:
    """Adds the actions on windows and models to those of ``satclip satlas``."""
    windows = actions.add_parser("windows", help="the clearest images of an area's tiles for a month")
    windows.add_argument("--month", required=True, metavar="YYYY-MM", nargs="+", help="one or more months")
    windows.add_argument(
        "--box", type=float, nargs=4, action="append", default=[], metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="degrees; west above east crosses the antimeridian",
    )  # fmt: skip
    windows.add_argument("--area", default="", help="GeoJSON of polygons")
    windows.add_argument("--tile", type=int, default=2048, help="side of a tile in pixels of 10 m, a multiple of 32")
    windows.add_argument("--margin", type=int, default=64, help="pixels that models see around a tile")
    windows.add_argument("--shift", type=int, default=0, help="moves the grid of tiles, in pixels")
    windows.add_argument("--periods", type=int, default=4, help="periods of 30 days that a month looks back on")
    windows.add_argument("--stac-url", default="", help="landing page; default: $SATCLIP_STAC_URL, Planetary Computer")
    windows.add_argument("--collection", default="sentinel-2-l2a", help="of the catalog")
    windows.set_defaults(run=_windows)
    predictions = actions.add_parser("predictions", help="what a model sees in all windows of a month")
    predictions.add_argument("--task", required=True, choices=list(TASK_KINDS))
    predictions.add_argument("--month", required=True, metavar="YYYY-MM", nargs="+", help="one or more months")
    predictions.add_argument("--weights", type=Path, required=True, help="file, folder of a training, or archive")
    predictions.add_argument("--window", type=int, default=512, help="side of a window in pixels, a multiple of 32")
    predictions.add_argument("--overlap", type=int, default=128, help="pixels that neighbouring windows share")
    predictions.add_argument("--batch-size", type=int, default=None, help="windows at a time; default: by device")
    predictions.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the model runs")
    predictions.set_defaults(run=_predictions)
    train = actions.add_parser("train", help="train a model on windows of the workspace, or on a published dataset")
    train.add_argument("config", help="YAML file, or the name of one that comes with the package")
    train.add_argument("folder", type=Path, help="takes weights, history, curves and record")
    train.add_argument(
        "--labels", type=Path, default=None, help="known objects (GeoJSON, GeoParquet), or raster folder"
    )
    train.add_argument(
        "--month", metavar="YYYY-MM", nargs="+", default=[], help="months whose windows are learned from"
    )
    train.add_argument("--dataset", type=Path, default=None, help="published folder layout: labels/ and splits/")
    train.add_argument("--task", default=None, help="folder below labels/ of --dataset")
    train.add_argument("--skip-broken", action="store_true", help="leave broken examples of --dataset out, and say so")
    train.add_argument("--validation-share", type=float, default=0.25, help="share of the tiles kept for validation")
    train.add_argument("--weights", type=Path, default=None, help="weights of the same model to begin with")
    train.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, in YAML")
    train.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where it is trained")
    train.set_defaults(run=_train)
    for each in (windows, predictions, train):
        add_root(each)


def _windows(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from pipelines.errors import ConfigurationError
    from pipelines.sampling.catalog import open_catalog
    from pipelines.satlas.window_stage import build_windows
    from pipelines.satlas.windows_config import WindowsConfig

    try:
        config = WindowsConfig(
            boxes=tuple(tuple(box) for box in options.box),
            area=options.area,
            tile_px=options.tile,
            margin_px=options.margin,
            grid_shift_px=options.shift,
            num_periods=options.periods,
        )
    except ValidationError as error:
        raise ConfigurationError(f"satlas windows: {error}") from error
    catalog = open_catalog(stac_url(options.stac_url), options.collection)
    failed = False
    for month in options.month:
        run = build_windows(workspace_root(options.root), month, config, catalog)
        print(
            f"{month}: {len(run.made)} tiles made, {len(run.kept)} there already, "
            f"{len(run.without_image)} without an image"
        )
        for tile, cause in run.failures.items():
            print(f"failed {tile}: {cause}")
        failed = failed or bool(run.failures)
    return 1 if failed else 0


def _predictions(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from pipelines.errors import ConfigurationError
    from pipelines.features.encoding import choose_device
    from pipelines.provenance import file_sha256
    from pipelines.satlas.inference_config import InferenceConfig
    from pipelines.satlas.prediction_stage import predict_windows
    from pipelines.satlas.task_weights import find_satlas_weights, open_satlas_model, read_score_thresholds

    try:
        config = InferenceConfig(window_px=options.window, overlap_px=options.overlap, batch_size=options.batch_size)
    except ValidationError as error:
        raise ConfigurationError(f"satlas predictions: {error}") from error
    model = open_satlas_model(options.task, options.weights, choose_device(options.device))
    sha256 = file_sha256(find_satlas_weights(options.task, options.weights)[0])
    failed = False
    for month in options.month:
        run = predict_windows(
            workspace_root(options.root),
            model,
            options.task,
            month,
            weights_sha256=sha256,
            config=config,
            score_thresholds=read_score_thresholds(options.weights),
        )
        print(f"{options.task} {month}: {len(run.made)} tiles predicted, {len(run.kept)} there already")
        for tile, cause in run.failures.items():
            print(f"failed {tile}: {cause}")
        failed = failed or bool(run.failures)
    return 1 if failed else 0


def _train(options: argparse.Namespace) -> int:
    from pipelines.errors import ArtefactError
    from pipelines.features.encoding import choose_device
    from pipelines.provenance import file_sha256
    from pipelines.satlas.training.loop import train_satlas
    from pipelines.satlas.training.named_configs import read_satlas_config
    from satclip_model.errors import CheckpointError
    from satclip_model.satlas import build_satlas, load_satlas_weights

    config = read_satlas_config(options.config, options.set)
    training, validation, parents = _examples(options, config)
    model = None
    if options.weights is not None:
        model = build_satlas(config.model, config.seed)
        try:
            load_satlas_weights(model, options.weights)
        except CheckpointError as error:
            raise ArtefactError(str(error)) from error
        parents["weights_sha256"] = file_sha256(options.weights)
    run = train_satlas(
        training, validation, config, options.folder, device=choose_device(options.device), model=model, parents=parents
    )
    print(f"best validation {run.metric:.3f} after epoch {run.record['best_epoch']}: {run.weights}")
    return 0


def _examples(
    options: argparse.Namespace, config: "SatlasTrainingConfig"
) -> "tuple[ExampleSource, ExampleSource, dict[str, object]]":
    """What to train and to validate on, and what it is made of: windows of the workspace, or a published folder."""
    from pipelines.errors import ConfigurationError
    from pipelines.satlas.training.dataset_spec import DatasetSpecFolder
    from pipelines.satlas.training.window_examples import open_window_examples

    head = config.model.heads[0]
    if options.dataset is not None and options.task is not None and not options.month:
        training, validation = (
            DatasetSpecFolder(
                options.dataset,
                options.task,
                split,
                head,
                config.model.num_channels,
                config.model.num_images,
                options.skip_broken,
            )
            for split in ("train", "val")
        )
        return training, validation, {each.split: each.content_sha256 for each in (training, validation)}
    if options.labels is None or not options.month or options.dataset is not None:
        raise ConfigurationError(
            "satlas train: expected --labels FILE and --month YYYY-MM [YYYY-MM ...], or --dataset FOLDER and --task"
        )
    return open_window_examples(
        workspace_root(options.root), options.month, options.labels, head, options.validation_share, config.seed
    )
