"""The commands ``satclip satlas ...``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli_dataset import add_root
from pipelines.cli_satlas_models import add_model_actions
from pipelines.cli_satlas_products import add_product_actions
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_satlas_commands(commands: "Commands") -> None:
    """Adds ``satlas`` and its actions to the parser of ``satclip``."""
    satlas = commands.add_parser("satlas", help="monthly products of turbines, solar farms, platforms and tree cover")
    actions = satlas.add_subparsers(required=True, metavar="ACTION")
    _add_predict_action(actions)
    add_model_actions(actions)
    add_product_actions(actions)


def _add_predict_action(actions: "Commands") -> None:
    predict = actions.add_parser("predict", help="objects or tree cover in images of one tile")
    predict.add_argument(
        "images", type=Path, nargs="+", help="one per date: GeoTIFF of 12 bands, or a folder with a file per band"
    )
    predict.add_argument(
        "--task", required=True, help="solar_farm, wind_turbine, marine_infrastructure (three channels) or tree_cover"
    )
    predict.add_argument("--weights", type=Path, required=True, help="published file, or folder of a training")
    predict.add_argument("--month", required=True, metavar="YYYY-MM", help="month that is predicted")
    predict.add_argument("--tile", default=None, help="name of the tile; default that of the first image")
    predict.add_argument(
        "--offset", type=int, choices=(0, -1000), default=0, help="added to digital numbers; -1000 from 04.00 on"
    )
    predict.add_argument("--window", type=int, default=512, help="side of a window in pixels, a multiple of 32")
    predict.add_argument("--overlap", type=int, default=128, help="pixels that neighbouring windows share")
    predict.add_argument("--batch-size", type=int, default=None, help="windows at a time; default: by device")
    predict.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the model runs")
    add_root(predict)
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from pipelines.errors import ArtefactError, ConfigurationError
    from pipelines.features.encoding import choose_device
    from pipelines.provenance import file_sha256
    from pipelines.satlas.inference_config import InferenceConfig
    from pipelines.satlas.months import validate_month
    from pipelines.satlas.prediction_stage import predict_tiles
    from pipelines.satlas.predictions import read_predictions
    from pipelines.satlas.task_weights import find_satlas_weights, open_satlas_model, read_score_thresholds

    try:
        validate_month(options.month)
        config = InferenceConfig(window_px=options.window, overlap_px=options.overlap, batch_size=options.batch_size)
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(f"satlas predict: {error}") from error
    model = open_satlas_model(options.task, options.weights, choose_device(options.device))
    tile = options.tile or options.images[0].stem
    run = predict_tiles(
        workspace_root(options.root),
        model,
        options.task,
        options.month,
        {tile: options.images},
        weights_sha256=file_sha256(find_satlas_weights(options.task, options.weights)[0]),
        boa_add_offset=options.offset,
        config=config,
        score_thresholds=read_score_thresholds(options.weights),
    )
    if run.failures:
        raise ArtefactError(run.failures[tile])
    (folder,) = [*run.made, *run.kept]
    found = read_predictions(folder)
    told = "values" if found.objects is None else f"{len(found.objects)} objects"
    print(f"{'predicted' if run.made else 'there already'}  {told}, {found.observed.max()} images: {folder}")
    return 0
