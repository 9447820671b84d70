"""The training of a Satlas model, from its first crop to the weights that scored best."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.satlas.inference import autocast_for
from pipelines.satlas.predictions import THRESHOLDS_NAME
from pipelines.satlas.task_weights import CONFIG_NAME, TRAINING_RECORD_NAME, WEIGHTS_NAME
from pipelines.satlas.training.config import SatlasTrainingConfig
from pipelines.satlas.training.crops import Batch, collate, random_crop, vary
from pipelines.satlas.training.curve_files import write_curves
from pipelines.satlas.training.examples import Example, ExampleSource, objects_of
from pipelines.satlas.training.plateau import Plateau
from pipelines.satlas.training.scoring import METRICS, Scores, score_examples
from pipelines.training.history import Clock, History, Row
from pipelines.training.interruption import Interruption, deferred_interruption
from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.errors import CheckpointError
from satclip_model.satlas import SatlasModel, build_satlas

logger = logging.getLogger(__name__)

STATE_NAME: Final = "training_state.ckpt"
COLUMNS: Final = (
    "epoch", "step", "train_loss", "val_metric", "learning_rate", "samples_per_s", "elapsed_s", "left_s",
)  # fmt: skip
CROP_MULTIPLE_PX: Final = 32
_MAX_DRAWS: Final = 200


@dataclass(frozen=True)
class SatlasRun:
    """A finished training.

    Attributes:
        folder: Holds weights, configuration, history, curves and record.
        metric: The best validation, see `scoring.Scores`.
        record: What made it.
    """

    folder: Path
    metric: float
    record: dict[str, Any]

    @property
    def weights(self) -> Path:
        """Weights of the best epoch, under the names of published ones."""
        return self.folder / WEIGHTS_NAME


@dataclass
class _State:
    """Where a training stands; what `training_state.ckpt` holds beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    plateau: dict[str, Any] = field(default_factory=dict)
    best_metric: float | None = None
    best_epoch: int = 0
    score_thresholds: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def train_satlas(
    training: ExampleSource,
    validation: ExampleSource,
    config: SatlasTrainingConfig,
    folder: Path,
    *,
    device: torch.device | None = None,
    model: SatlasModel | None = None,
    parents: Mapping[str, Any] | None = None,
) -> SatlasRun:
    """Trains a model and writes the weights of its best epoch.

    A step depends on its number and the seed alone, so that on the CPU the same call gives the same weights, in one
    call or in several: one that was stopped or killed goes on from ``training_state.ckpt`` of its last epoch.

    Args:
        training: What crops are cut from.
        validation: Scored whole after each epoch.
        config: The model and how it is trained.
        folder: Takes the files.
        device: Where it is trained; the CPU if None.
        model: Weights to begin with, such as of `load_pretrained`; random ones of the seed if None.
        parents: What made the examples; a training that goes on must have the same.

    Raises:
        ArtefactError: The folder holds the state of a training with other parents or settings.
        ConfigurationError: There are no examples, no crop shows an image, or the loss diverged.
        KeyboardInterrupt: A signal stopped the training, and its own handler let it go on.
    """
    if not len(training) or not len(validation):
        raise ConfigurationError(
            f"{len(training)} examples to train on and {len(validation)} to validate on; expected some of each"
        )
    device = device or torch.device("cpu")
    network = (model or build_satlas(config.model, config.seed)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    record = _describe(config, parents or {}, training, validation, pretrained=model is not None)
    trainer = _Trainer(network, training, validation, config, folder, record)
    if not _is_finished(folder, record):
        with deferred_interruption() as interruption:
            trainer.run(interruption)
        interruption.deliver()
    return open_satlas_run(folder)


def open_satlas_run(folder: Path) -> SatlasRun:
    """A finished training.

    Raises:
        ArtefactError: It is not finished.
    """
    path = folder / TRAINING_RECORD_NAME
    if not path.is_file():
        raise ArtefactError(f"{folder}: no finished training of a Satlas model; run satclip satlas train")
    record = json.loads(path.read_text())
    return SatlasRun(folder, float(record["metrics"]["best"]), record)


class _Trainer:
    """One training in one process."""

    def __init__(
        self,
        model: SatlasModel,
        training: ExampleSource,
        validation: ExampleSource,
        config: SatlasTrainingConfig,
        folder: Path,
        record: dict[str, Any],
    ) -> None:
        self.model, self.training, self.validation = model, training, validation
        self.config, self.folder, self.record = config, folder, record
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        self.plateau = Plateau(config)
        self.state = _State()
        self.scores: Scores | None = None

    def run(self, interruption: Interruption) -> None:
        """Trains to the end, or until it is interrupted, after which the state is on disk."""
        path = self.folder / STATE_NAME
        if path.is_file():
            self._read_state(path)
        config, state = self.config, self.state
        clock = Clock(config.num_steps, config.batch_size, state.step, state.seconds)
        num_epochs = -(-config.num_steps // config.steps_per_epoch)
        history = History(self.folder, state.rows, num_epochs, columns=COLUMNS)
        logger.info(
            "satlas training on %d examples from step %d of %d", len(self.training), state.step, config.num_steps
        )
        while state.step < config.num_steps and not self._is_out_of_time(clock):
            state.epoch_loss += self._step(state.step)
            state.step += 1
            if state.step % config.steps_per_epoch == 0 or state.step == config.num_steps:
                self._end_epoch(clock, history)
                state.seconds = clock.elapsed_s
                self._write_state(path)
            elif interruption.is_requested:
                state.seconds = clock.elapsed_s
                self._write_state(path)
            if interruption.is_requested:
                logger.info("training stopped after step %d; the same call goes on from there", state.step)
                return
        if state.step % config.steps_per_epoch and state.step != config.num_steps:
            self._end_epoch(clock, history)
        self._finish(clock.elapsed_s)

    @cached_property
    def with_objects(self) -> list[int]:
        """Numbers of the training examples that hold an object; all of them are read once."""
        return [number for number in range(len(self.training)) if len(objects_of(self.training[number].target))]

    def _is_out_of_time(self, clock: Clock) -> bool:
        return self.config.time_limit_s is not None and clock.elapsed_s >= self.config.time_limit_s

    def _step(self, number: int) -> float:
        config = self.config
        batch = self._batch(number)
        torch.manual_seed(config.seed * 1_000_003 + number)
        self._prepare(number * config.batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        target = _to(batch.target, self.device)
        with autocast_for(self.device, config.validation.model_copy(update={"precision": config.precision})):
            (loss,) = self.model.losses(batch.images.to(self.device), [target], batch.present.to(self.device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigurationError(
                f"{self.folder}: the loss of step {number} is {value}; lower learning_rate ({config.learning_rate}) or "
                "max_gradient_norm, and look at the examples. The weights of the last good epoch are kept"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm)
        self.optimizer.step()
        return value

    def _batch(self, number: int) -> Batch:
        config = self.config
        rng = np.random.default_rng([config.seed, 31, number])
        most = (config.max_crop_px or config.crop_px) // CROP_MULTIPLE_PX
        size_px = CROP_MULTIPLE_PX * int(rng.integers(config.crop_px // CROP_MULTIPLE_PX, most + 1))
        samples: list[Example] = []
        for _ in range(_MAX_DRAWS):
            is_centered = bool(rng.random() < config.centered_share) and len(self.with_objects) > 0
            drawn = self.with_objects if is_centered else range(len(self.training))
            example = self.training[drawn[int(rng.integers(len(drawn)))]]
            crop = random_crop(example, size_px, is_centered, config.min_present, rng)
            if crop is not None:
                samples.append(vary(crop, config.light_spread, rng) if config.light_spread else crop)
            if len(samples) == config.batch_size:
                return collate(samples, config.model.num_images, config.model.num_channels)
        raise ConfigurationError(
            f"of {_MAX_DRAWS} crops {_MAX_DRAWS - len(samples)} show no image over {config.min_present:.0%} of "
            f"{config.crop_px} px; lower crop_px or min_present, or leave examples without images out"
        )

    def _prepare(self, num_seen: int) -> None:
        """Freezes what is frozen at this point, and sets the learning rate."""
        config = self.config
        is_frozen = num_seen < config.freeze_examples
        self.model.train()
        for part in (self.model.backbone, self.model.intermediates):
            part.requires_grad_(not is_frozen)
            if is_frozen:
                part.eval()
        warm = self._warmth(num_seen + config.batch_size)
        rate = self.plateau.learning_rate
        if config.schedule == "cosine":
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * num_seen / config.num_examples))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * warm

    def _warmth(self, num_seen: int) -> float:
        """What the learning rate is multiplied by."""
        config = self.config
        if num_seen <= config.warmup_delay_examples or not config.warmup_examples:
            return 1.0
        return min(1.0, (num_seen - config.warmup_delay_examples) / config.warmup_examples)

    def _end_epoch(self, clock: Clock, history: History) -> None:
        config, state = self.config, self.state
        steps = (state.step - 1) % config.steps_per_epoch + 1
        self.model.eval()
        scores = score_examples(self.model, self.validation, config.validation, config.match_distance_m)
        metric, loss = scores.metric, state.epoch_loss / steps
        history.add({
            "epoch": -(-state.step // config.steps_per_epoch),
            "step": state.step,
            "train_loss": loss,
            "val_metric": metric,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **clock.read(state.step),
        })  # fmt: skip
        state.epoch_loss = 0.0
        state.rows = history.rows
        if state.step * config.batch_size > config.warmup_delay_examples + config.warmup_examples:
            self.plateau.step(loss)
        if self._is_better(metric):
            state.best_metric, state.best_epoch = metric, int(history.rows[-1]["epoch"])
            state.score_thresholds = self._score_thresholds(scores)
            weights = self.model.state_dict()
            write_whole(self.folder / WEIGHTS_NAME, lambda handle: torch.save(weights, handle))
            write_curves(self.folder, scores.curves)

    def _score_thresholds(self, scores: Scores) -> dict[str, float]:
        """Scores from which points are published; the pixels of other heads have a threshold of inference."""
        if self.config.model.heads[0].kind != "detection":
            return {}
        found = {name: curve.separating_threshold for name, curve in scores.curves.items()}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def _is_better(self, metric: float) -> bool:
        best = self.state.best_metric
        sign = -1.0 if METRICS[self.config.model.heads[0].kind] == "error" else 1.0
        return not math.isnan(metric) and (best is None or sign * metric > sign * best)

    def _finish(self, seconds: float) -> None:
        state = self.state
        if state.best_metric is None:
            raise ConfigurationError(
                f"{self.folder}: no epoch has a score, because no validation example shows a category; choose others"
            )
        write_json(self.folder / CONFIG_NAME, self.config.model.model_dump(mode="json"))
        write_json(
            self.folder / TRAINING_RECORD_NAME,
            {
                **self.record,
                "metrics": {METRICS[self.config.model.heads[0].kind]: state.best_metric, "best": state.best_metric},
                "best_epoch": state.best_epoch,
                THRESHOLDS_NAME: state.score_thresholds,
                "num_steps": state.step,
                "seconds": seconds,
                "weights_sha256": file_sha256(self.folder / WEIGHTS_NAME),
            },
        )
        (self.folder / STATE_NAME).unlink(missing_ok=True)
        logger.info("satlas model trained in %.0f s, best %.3f: %s", seconds, state.best_metric, self.folder)

    def _write_state(self, path: Path) -> None:
        state = self.state
        state.plateau = self.plateau.state_dict()
        numbers = {name: getattr(state, name) for name in _State.__dataclass_fields__}
        content = {
            "parents": json.dumps(_parents(self.record), sort_keys=True),
            "numbers": json.dumps(numbers),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_whole(path, lambda handle: torch.save(content, handle))

    def _read_state(self, path: Path) -> None:
        try:
            content = read_archive(path)
            found = json.loads(content["parents"])
            if found != json.loads(json.dumps(_parents(self.record))):
                raise ArtefactError(
                    f"{path}: the state of a training with other examples or settings; give it what it began with, or "
                    "remove the file to train from the beginning"
                )
            self.state = _State(**json.loads(content["numbers"]))
            self.model.load_state_dict(content["weights"])
            self.optimizer.load_state_dict(content["optimizer"])
        except (CheckpointError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
            raise ArtefactError(
                f"{path}: not the state of a Satlas training ({error}); remove the file to train from the beginning"
            ) from error
        self.plateau.load_state_dict(self.state.plateau)


def _describe(
    config: SatlasTrainingConfig,
    parents: Mapping[str, Any],
    training: ExampleSource,
    validation: ExampleSource,
    *,
    pretrained: bool,
) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    return {
        "config": settings,
        "config_sha256": content_hash(settings),
        "parents": dict(parents),
        "pretrained": pretrained,
        "num_training": len(training),
        "num_validation": len(validation),
        "packages": package_versions(),
        "commit": git_commit(),
    }


def _parents(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("config", "parents", "pretrained", "num_training", "num_validation")}


def _is_finished(folder: Path, record: Mapping[str, Any]) -> bool:
    path = folder / TRAINING_RECORD_NAME
    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    return all(found.get(name) == json.loads(json.dumps(value)) for name, value in _parents(record).items())


def _to(target: Any, device: torch.device) -> Any:  # noqa: ANN401
    if isinstance(target, list):
        return [_to(each, device) for each in target]
    return {name: each.to(device) for name, each in target.items()}
