"""Predictions of images or windows into a workspace, tile by tile; what is there is not computed again."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pipelines.errors import ArtefactError, SatclipError
from pipelines.progress import Progress
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.images import RADIOMETRY, TileImage, read_tile_images
from pipelines.satlas.inference import predict_tile
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.pending import clear_pending, mark_pending
from pipelines.satlas.predictions import (
    RECORD_FILE,
    THRESHOLDS_NAME,
    TileGrid,
    prediction_folder,
    read_record,
    write_predictions,
)
from pipelines.satlas.windows import list_windows, read_windows, read_windows_record, windows_sha256
from satclip_model.satlas import SatlasModel

logger = logging.getLogger(__name__)

_TOLD: Final = (SatclipError, ValueError, OSError)


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
