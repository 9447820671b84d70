"""Where a training stands, on disk: what the same call needs to go on as if it had never stopped."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed
from torch import Tensor

from pipelines.errors import ArtefactError
from pipelines.training.history import Row
from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.checkpoint.native import checkpoint_content, model_from_content
from satclip_model.errors import CheckpointError, DivergenceError
from satclip_model.satclip import SatCLIP

STATE_NAME: Final = "training_state.ckpt"
PARENTS: Final = ("dataset_version", "image_features", "config", "split", "num_ranks")
"""Entries of a run's record that must be the same for a training to go on."""

_ENTRY: Final = "training"


@dataclass(frozen=True)
class Progress:
    """The numbers of a training after a step.

    Attributes:
        step: Steps done.
        seconds: Wall-clock seconds that they took.
        epoch_loss: Sum of the losses of the steps of the epoch at hand.
        rows: Rows of the log.
        best: `BestEpoch.state`.
    """

    step: int
    seconds: float
    epoch_loss: float
    rows: list[Row]
    best: dict[str, Any]


@dataclass(frozen=True)
class TrainingState:
    """A training after a step, weights apart.

    Attributes:
        progress: Its numbers.
        optimizer: State of the optimiser.
        schedule: State of the learning rate's schedule.
        random: Per rank what `read_random_state` gave.
        best_weights: Weights of the best epoch, without those of a frozen image backbone; empty unless there is
            early stopping.
    """

    progress: Progress
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    random: list[dict[str, Tensor]]
    best_weights: dict[str, Tensor]


def write_state(path: Path, model: SatCLIP, record: Mapping[str, Any], state: TrainingState) -> None:
    """Writes a training and its model, as a checkpoint that `read_checkpoint` reads; the file appears whole or not.

    Raises:
        DivergenceError: A weight is not finite; the file before stays.
    """
    metrics = state.progress.rows[-1] if state.progress.rows else {}
    try:
        content = checkpoint_content(path, model, {**record, "step": state.progress.step, "metrics": metrics})
    except CheckpointError as error:
        raise DivergenceError("the weights are not finite") from error
    entry = {
        "progress": json.dumps(asdict(state.progress)),
        "optimizer": state.optimizer,
        "schedule": state.schedule,
        "random": state.random,
        "best_weights": state.best_weights,
    }
    write_whole(path, lambda handle: torch.save({**content, _ENTRY: entry}, handle))


def read_state(path: Path, model: SatCLIP, record: Mapping[str, Any]) -> TrainingState:
    """Reads what `write_state` wrote, its weights into ``model``.

    Raises:
        ArtefactError: The state is of other images, another configuration or number of ranks, or cannot be read.
    """
    try:
        content = read_archive(path)
        found, written = model_from_content(path, content)
        entry = content[_ENTRY]
        progress = Progress(**json.loads(entry["progress"]))
        parts = {name: entry[name] for name in ("optimizer", "schedule", "random", "best_weights")}
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{path}: not the state of a training ({error}); remove the file to train from the beginning"
        ) from error
    differences = sorted(
        named_differences({name: written.get(name) for name in PARENTS}, {n: record[n] for n in PARENTS})
    )
    if differences:
        raise ArtefactError(
            f"{path}: the state of a training with other parents: {'; '.join(differences)}. Give it what it began "
            f"with, or remove the file to train from the beginning; it is a usable checkpoint of step {progress.step}"
        )
    model.load_state_dict(found.state_dict())
    return TrainingState(progress, **parts)


def read_random_state(jitter: torch.Generator) -> dict[str, Tensor]:
    """States of the generators that a step draws from: PyTorch's own on CPU and GPU, and that of the jitter."""
    states = {"cpu": torch.get_rng_state(), "jitter": jitter.get_state()}
    if jitter.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(jitter.device)
    return states


def restore_random_state(states: Mapping[str, Tensor], jitter: torch.Generator) -> None:
    """Undoes what was drawn since `read_random_state`."""
    torch.set_rng_state(states["cpu"])
    jitter.set_state(states["jitter"])
    if jitter.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], jitter.device)


def gather_random_states(own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of all ranks, in order; called by every rank."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def named_differences(found: Any, expected: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401
    """Where two values of nested dictionaries differ, by the path of their keys."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in found.keys() | expected.keys():
            yield from named_differences(found.get(key), expected.get(key), f"{name}.{key}".lstrip("."))
    elif found != expected:
        yield f"{name} is {found!r}, expected {expected!r}"
