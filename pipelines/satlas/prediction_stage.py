"""Predictions of named images into a workspace, tile by tile; what is there is not computed again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import ArtefactError, SatclipError
from pipelines.progress import Progress
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.images import RADIOMETRY, read_tile_images
from pipelines.satlas.inference import predict_tile
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.predictions import RECORD_FILE, prediction_folder, read_record, write_predictions
from satclip_model.errors import CheckpointError
from satclip_model.satlas import EXPLORER_CONFIGS, SatlasModel, build_satlas, load_satlas_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRun:
    """What became of tiles.

    Attributes:
        made: Folders of predictions made now.
        kept: Folders of predictions that were there, of the same images, weights and settings.
        failures: Tiles that could not be predicted, and why.
    """

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def open_satlas_model(task: str, weights: Path, device: torch.device) -> SatlasModel:
    """The model of a task over published weights, in evaluation mode.

    Raises:
        ArtefactError: There is no such task, or the weights cannot be read or are of another task.
    """
    if task not in EXPLORER_CONFIGS:
        raise ArtefactError(f"task {task!r}: expected one of {', '.join(EXPLORER_CONFIGS)}")
    model = build_satlas(EXPLORER_CONFIGS[task])
    try:
        load_satlas_weights(model, weights)
    except CheckpointError as error:
        raise ArtefactError(str(error)) from error
    return model.to(device).eval()


def predict_tiles(
    root: Path,
    model: SatlasModel,
    task: str,
    month: str,
    tiles: Mapping[str, Sequence[Path]],
    *,
    weights_sha256: str,
    boa_add_offset: int = 0,
    config: InferenceConfig | None = None,
) -> PredictionRun:
    """Predicts tiles one after the other; one that fails is noted, the others go on.

    A prediction is written when it is known, and the same call takes it from there: a run that was killed loses one
    tile at most.

    Args:
        root: The workspace.
        model: Over the weights.
        task: What it predicts.
        month: ``YYYY-MM``.
        tiles: Images of different dates by name of the tile, in the order of their use.
        weights_sha256: Of the model.
        boa_add_offset: Added to digital numbers, 0 or -1000.
        config: Windows and thresholds.
    """
    config = config or InferenceConfig()
    run = PredictionRun()
    progress = Progress(logger, f"{task} {month}", len(tiles), "tiles")
    for tile, paths in tiles.items():
        try:
            parents = {
                "weights_sha256": weights_sha256,
                "images_sha256": content_hash([_content(path) for path in paths]),
                "boa_add_offset": boa_add_offset,
            }
            folder = prediction_folder(root, task, month, tile)
            if _is_there(folder, {**parents, "radiometry": RADIOMETRY, "config": config.model_dump(mode="json")}):
                run.kept.append(folder)
            else:
                grid, images = read_tile_images(list(paths), boa_add_offset)
                found = predict_tile(model, task, month, tile, grid, images, config, parents)
                run.made.append(write_predictions(root, found))
        except (SatclipError, ValueError) as error:
            logger.warning("tile %s: not predicted: %s", tile, error)
            run.failures[tile] = str(error)
        progress.advance()
    return run


def _is_there(folder: Path, parents: Mapping[str, Any]) -> bool:
    if not (folder / RECORD_FILE).is_file():
        return False
    try:
        return bool(read_record(folder)["parents"] == parents)
    except ArtefactError:
        return False


def _content(path: Path) -> list[str]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file_sha256(each) for each in files if each.is_file()]
