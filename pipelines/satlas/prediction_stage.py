"""Predictions of images or windows into a workspace, tile by tile; what is there is not computed again."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from pipelines.errors import ArtefactError, SatclipError
from pipelines.progress import Progress
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.images import RADIOMETRY, TileImage, read_tile_images
from pipelines.satlas.inference import predict_tile
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.pending import clear_pending, mark_pending
from pipelines.satlas.predictions import (
    RECORD_FILE,
    TASK_KINDS,
    THRESHOLDS_NAME,
    TileGrid,
    prediction_folder,
    read_record,
    write_predictions,
)
from pipelines.satlas.windows import list_windows, read_windows, read_windows_record, windows_sha256
from satclip_model.errors import CheckpointError
from satclip_model.satlas import EXPLORER_CONFIGS, SatlasModel, build_satlas, load_satlas_weights
from satclip_model.satlas.config import SatlasConfig

logger = logging.getLogger(__name__)

WEIGHTS_NAME: Final = "weights.pth"
CONFIG_NAME: Final = "config.json"
TRAINING_RECORD_NAME: Final = "record.json"
_HEAD_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "polygons": ("binary_segmentation", "segmentation"),
    "points": ("detection",),
    "values": ("regression",),
}
_TOLD: Final = (SatclipError, ValueError, OSError)
ARCHIVE_WEIGHTS_NAME: Final = "best.pth"
"""Below ``models/TASK/`` of the published archive. Source: allenai/satlas, README.md and configs (SavePath)."""


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


@dataclass(frozen=True)
class _Content:
    """The images of a tile."""

    grid: TileGrid
    images: list[TileImage]
    margin_px: int = 0
    periods: tuple[str, ...] = ()
    missing_periods: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """Where a tile's images come from: what identifies them, without reading pixels, and how to read them."""

    identity: Callable[[], dict[str, Any]]
    read: Callable[[], _Content]


def find_satlas_weights(task: str, path: Path) -> tuple[Path, SatlasConfig]:
    """The weights that a path stands for, and the configuration that belongs to them.

    Args:
        task: A name of `TASK_KINDS`.
        path: A file of published weights; a folder that a training left, with ``weights.pth`` and ``config.json``; or
            the unpacked published archive, with ``base_models``, ``labels``, ``models`` and ``splits``.

    Raises:
        ArtefactError: There is no such task, the folder is neither, or its configuration is of another task.
    """
    if task not in EXPLORER_CONFIGS:
        raise ArtefactError(f"task {task!r}: expected one of {', '.join(EXPLORER_CONFIGS)}")
    if not path.is_dir():
        return path, EXPLORER_CONFIGS[task]
    if (path / WEIGHTS_NAME).is_file():
        return path / WEIGHTS_NAME, _own_config(task, path / CONFIG_NAME)
    if (path / "models").is_dir():
        return _archived(task, path / "models"), EXPLORER_CONFIGS[task]
    raise ArtefactError(
        f"{path}: neither {WEIGHTS_NAME} and {CONFIG_NAME} of a training nor models/ of the published archive is in it"
    )


def _own_config(task: str, path: Path) -> SatlasConfig:
    try:
        config = SatlasConfig.model_validate(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise ArtefactError(f"{path}: no configuration of a Satlas model ({error}); train it again") from error
    kinds = _HEAD_KINDS[TASK_KINDS[task]]
    found = [head.kind for head in config.heads]
    if len(found) != 1 or found[0] not in kinds:
        raise ArtefactError(
            f"{path}: heads are {', '.join(found)}, but {task} needs one of {' or '.join(kinds)}; name the task "
            "that the model was trained for"
        )
    return config


def read_score_thresholds(path: Path) -> dict[str, float]:
    """Scores from which a training would publish points, by category; none of weights that were not trained here.

    Args:
        path: As `find_satlas_weights` takes it.

    Raises:
        ArtefactError: The training's record cannot be read.
    """
    record = path / TRAINING_RECORD_NAME
    if not path.is_dir() or not (path / WEIGHTS_NAME).is_file() or not record.is_file():
        return {}
    try:
        found = json.loads(record.read_text()).get(THRESHOLDS_NAME, {})
        return {str(name): float(value) for name, value in found.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ArtefactError(f"{record}: no record of a Satlas training ({error}); train it again") from error


def _archived(task: str, models: Path) -> Path:
    """``models/TASK/best.pth``, as the archive has it, or the only other file there."""
    best = models / task / ARCHIVE_WEIGHTS_NAME
    if best.is_file():
        return best
    there = sorted(models.rglob("*.pth"))
    own = [path for path in there if path.parent.name == task]
    if len(own) == 1:
        return own[0]
    if own:
        raise ArtefactError(f"{models}: {len(own)} files for {task}: {_listed(models, own)}; name one of them")
    raise ArtefactError(f"{models}: no weights of {task}; there are {_listed(models, there) or 'no .pth files'}")


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in paths[:20])


def open_satlas_model(task: str, weights: Path, device: torch.device) -> SatlasModel:
    """The model of a task over weights, ready for inference.

    Args:
        task: A name of `TASK_KINDS`.
        weights: See `find_satlas_weights`.
        device: Where it runs.

    Raises:
        ArtefactError: There is no such task, or the weights cannot be read or are of another task.
    """
    path, config = find_satlas_weights(task, weights)
    model = build_satlas(config)
    try:
        load_satlas_weights(model, path)
    except CheckpointError as error:
        raise ArtefactError(str(error)) from error
    return model.to(device).for_inference()


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
    score_thresholds: Mapping[str, float] | None = None,
) -> PredictionRun:
    """Predicts tiles of named images one after the other; one that fails is noted, the others go on.

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
        score_thresholds: Recorded for products, see `read_score_thresholds`.
    """

    def source(paths: Sequence[Path]) -> _Source:
        def identity() -> dict[str, Any]:
            hashes = content_hash([_content(path) for path in paths])
            return {"images_sha256": hashes, "boa_add_offset": boa_add_offset}

        return _Source(identity, lambda: _Content(*read_tile_images(list(paths), boa_add_offset)))

    sources = {tile: source(paths) for tile, paths in tiles.items()}
    made_by = _made_by(weights_sha256, score_thresholds)
    return _predict(root, model, task, month, sources, made_by, config or InferenceConfig())


def predict_windows(
    root: Path,
    model: SatlasModel,
    task: str,
    month: str,
    *,
    weights_sha256: str,
    config: InferenceConfig | None = None,
    score_thresholds: Mapping[str, float] | None = None,
) -> PredictionRun:
    """Predicts every finished window of a month, as `predict_tiles` does; a tile without an image is nowhere observed.

    Args:
        root: The workspace.
        model: Over the weights.
        task: What it predicts.
        month: ``YYYY-MM``.
        weights_sha256: Of the model.
        config: Windows and thresholds.
        score_thresholds: Recorded for products, see `read_score_thresholds`.
    """

    def source(folder: Path) -> _Source:
        def read() -> _Content:
            windows = read_windows(folder)
            grid = windows.grid.padded(-windows.margin_px)
            return _Content(grid, windows.images, windows.margin_px, windows.periods, windows.missing_periods)

        return _Source(lambda: {"windows_sha256": windows_sha256(read_windows_record(folder))}, read)

    sources = {folder.name: source(folder) for folder in list_windows(root, month)}
    made_by = _made_by(weights_sha256, score_thresholds)
    return _predict(root, model, task, month, sources, made_by, config or InferenceConfig())


def _made_by(weights_sha256: str, score_thresholds: Mapping[str, float] | None) -> dict[str, Any]:
    thresholds = {THRESHOLDS_NAME: dict(score_thresholds)} if score_thresholds else {}
    return {"weights_sha256": weights_sha256, **thresholds}


def _predict(
    root: Path,
    model: SatlasModel,
    task: str,
    month: str,
    sources: Mapping[str, _Source],
    made_by: Mapping[str, Any],
    config: InferenceConfig,
) -> PredictionRun:
    run = PredictionRun()
    begun = _begin(root, task, month, sources, made_by, config, run)
    mark_pending(root, task, month, begun)
    if run.kept:
        logger.info("%s %s: %d tiles are there from before", task, month, len(run.kept))
    progress = Progress(logger, f"{task} {month}", len(begun), "tiles")
    for tile, parents in begun.items():
        try:
            content = sources[tile].read()
            found = predict_tile(
                model, task, month, tile, content.grid, content.images, config, parents, content.margin_px
            )
            known = replace(found, periods=content.periods, missing_periods=content.missing_periods)
            run.made.append(write_predictions(root, known))
        except _TOLD as error:
            _tell(run, tile, error)
        clear_pending(root, task, month, tile)
        progress.advance()
    return run


def _begin(
    root: Path,
    task: str,
    month: str,
    sources: Mapping[str, _Source],
    made_by: Mapping[str, Any],
    config: InferenceConfig,
    run: PredictionRun,
) -> dict[str, dict[str, Any]]:
    """Parents of tiles that are to be predicted; notes those that are there, or cannot be."""
    given = {"radiometry": RADIOMETRY, "config": config.model_dump(mode="json")}
    begun = {}
    for tile, source in sources.items():
        try:
            parents = {**made_by, **source.identity()}
        except _TOLD as error:
            _tell(run, tile, error)
            clear_pending(root, task, month, tile)
            continue
        folder = prediction_folder(root, task, month, tile)
        if _is_there(folder, {**parents, **given}):
            run.kept.append(folder)
            clear_pending(root, task, month, tile)
        else:
            begun[tile] = parents
    return begun


def _tell(run: PredictionRun, tile: str, error: Exception) -> None:
    logger.warning("tile %s: not predicted: %s", tile, error)
    run.failures[tile] = str(error)


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
