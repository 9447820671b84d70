"""Which checkpoint of a workspace is meant."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError

LATEST = "latest"


@dataclass(frozen=True)
class TrainedModel:
    """A finished training run in a workspace.

    Attributes:
        name: Name of the run's folder.
        checkpoint_path: The two towers.
        history_path: Losses by epoch, CSV.
        record: What made it: dataset_version, config, split, metrics, checkpoint_sha256 and so on.
    """

    name: str
    checkpoint_path: Path
    history_path: Path
    record: dict[str, Any]


def run_folder(root: Path, name: str) -> Path:
    """Where a training run lives."""
    return root / "checkpoints" / name


def publish_run(root: Path, name: str) -> None:
    """Makes a finished run the latest."""
    write_json(root / "checkpoints" / "latest.json", {"run": name})


def open_run(root: Path, name: str = LATEST) -> TrainedModel:
    """Finds a finished run.

    Raises:
        ArtefactError: it does not exist or is not finished.
    """
    if name == LATEST:
        pointer = root / "checkpoints" / "latest.json"
        if not pointer.is_file():
            raise ArtefactError(f"{root}: no trained model yet; materialize satclip_checkpoint")
        name = str(json.loads(pointer.read_text())["run"])
    folder = run_folder(root, name)
    paths = [folder / file for file in ("satclip.ckpt", "training_log.csv", "record.json")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ArtefactError(f"{folder}: {', '.join(missing)} missing; materialize satclip_checkpoint")
    return TrainedModel(name, paths[0], paths[1], json.loads(paths[2].read_text()))
