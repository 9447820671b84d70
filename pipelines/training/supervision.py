"""What happens between two steps of a training: its log, validation, checkpoints, early stopping and cancellation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor

from pipelines.training.config import TrainingConfig
from pipelines.training.data import TrainingData
from pipelines.training.history import BestEpoch, Clock, History, Row
from pipelines.training.interruption import Interruption
from pipelines.training.state import (
    Progress,
    TrainingState,
    gather_random_states,
    read_random_state,
    restore_random_state,
)
from pipelines.training.validation import validate
from satclip_model.lightning_module import SatCLIPLightningModule
from satclip_model.satclip import SatCLIP


class TrainingStopped(Exception):  # noqa: N818
    """A training that was asked to stop, between two steps, after its state was written."""


@dataclass(frozen=True)
class Run:
    """What a training is made of, beside its network.

    Attributes:
        config: All settings.
        data: The batches.
        history: The log.
        jitter: Generator of the displacements of coordinates.
        interruption: A request to stop.
        save: Writes the state of a model.
        resumed: Where an earlier process stopped.
    """

    config: TrainingConfig
    data: TrainingData
    history: History
    jitter: torch.Generator
    interruption: Interruption
    save: Callable[[SatCLIP, TrainingState], None]
    resumed: TrainingState | None


class Supervisor(lightning.Callback):
    """Counts steps over all processes of a training and does what is due after each.

    Args:
        run: The training.

    Attributes:
        step: Steps done.
        best: The best epoch, of which ``best_weights`` are, where early stopping is on.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._num_steps = run.config.epochs * run.data.steps_per_epoch
        progress = run.resumed.progress if run.resumed else None
        self.step = progress.step if progress else 0
        self._epoch_loss = progress.epoch_loss if progress else 0.0
        self.best = BestEpoch(run.config.early_stopping_metric, progress.best if progress else None)
        self.best_weights = run.resumed.best_weights if run.resumed else {}
        self._clock = Clock(self._num_steps, run.data.batch_size, self.step, progress.seconds if progress else 0.0)
        self._is_fresh = True

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1."""
        return (max(self.step, 1) - 1) // self._run.data.steps_per_epoch + 1

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far."""
        return self._clock.elapsed_s

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Puts optimiser and schedule where an earlier process left them, and takes the signals from Lightning.

        Lightning 2.6 answers SIGTERM by a broadcast inside the handler, in which ranks wait for each other forever.
        """
        del pl_module
        self._run.interruption.install()
        if self._run.resumed is not None:
            trainer.optimizers[0].load_state_dict(self._run.resumed.optimizer)
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self._run.resumed.schedule)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Before the first step of this process, puts the random states where an earlier one left them."""
        del pl_module, batch, batch_idx
        if self._run.resumed is not None and self._is_fresh:
            restore_random_state(self._run.resumed.random[trainer.global_rank], self._run.jitter)
        self._is_fresh = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: object,
        batch_idx: int,
    ) -> None:
        """Ends the epoch, writes the state and stops, each where it is due.

        Raises:
            DivergenceError: A weight is not finite where the state is due.
            TrainingStopped: A stop was requested.
        """
        del batch, batch_idx
        self.step += 1
        self._epoch_loss += float(outputs["loss"])
        assert isinstance(pl_module, SatCLIPLightningModule)
        model = pl_module.model
        if self.step % self._run.data.steps_per_epoch == 0:
            self._end_epoch(trainer, model)
        if self.step == self._num_steps or trainer.should_stop:
            return
        stopping = trainer.strategy.reduce_boolean_decision(self._run.interruption.is_requested, all=False)
        interval = self._run.config.checkpoint_interval_steps
        if stopping or (interval and self.step % interval == 0):
            self._save(trainer, model)
        if stopping:
            raise TrainingStopped

    def _end_epoch(self, trainer: lightning.Trainer, model: SatCLIP) -> None:
        config, epoch = self._run.config, self.epoch
        mean_loss, self._epoch_loss = self._epoch_loss / self._run.data.steps_per_epoch, 0.0
        if epoch % config.validation_interval_epochs and epoch not in {1, config.epochs}:
            return
        row: Row = {
            "epoch": epoch,
            "step": self.step,
            "train_loss": float(trainer.strategy.reduce(torch.tensor(mean_loss, device=model.logit_scale.device))),
            **self._validate(trainer, model),
            "temperature": float(torch.exp(-model.clamped_logit_scale.detach())),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **self._clock.read(self.step),
        }
        self._run.history.add(row)
        if config.early_stopping_patience:
            if self.best.is_improved_by(row):
                self.best_weights = _trained_weights(model)
            trainer.should_stop = self.best.num_since >= config.early_stopping_patience

    def _validate(self, trainer: lightning.Trainer, model: SatCLIP) -> dict[str, float]:
        batches = self._run.data.val_dataloader()
        if not len(batches):
            return {}
        measures: dict[str, float] = {}
        if trainer.is_global_zero:
            with trainer.precision_plugin.val_step_context():
                measures = validate(model, batches, self._run.config.seed, self._run.data.batch_size)
        return trainer.strategy.broadcast(measures)

    def _save(self, trainer: lightning.Trainer, model: SatCLIP) -> None:
        progress = Progress(
            step=self.step,
            seconds=self._clock.elapsed_s,
            epoch_loss=self._epoch_loss,
            rows=self._run.history.rows,
            best=self.best.state,
        )
        state = TrainingState(
            progress=progress,
            optimizer=trainer.optimizers[0].state_dict(),
            schedule=trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            random=gather_random_states(read_random_state(self._run.jitter)),
            best_weights=self.best_weights,
        )
        if trainer.is_global_zero:
            self._run.save(model, state)


def _trained_weights(model: SatCLIP) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if model.trains_backbone or not name.startswith("image_backbone.")
    }
