"""The steps of a training of images and ground-cover classes.

Everything random in a step follows from (seed, step), so that a training goes on at any step as if nothing happened.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ConfigurationError
from pipelines.ground_cover.examples import BankImages, Examples, balanced_order
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig
from pipelines.training.fitting import choose_accelerator
from pipelines.training.history import Clock, Row
from pipelines.training.standardisation import fit_standardisation
from pipelines.training.threads import limited_threads
from satclip_model.ground_cover.model import ClassSource, GroundCoverCLIP, build_ground_cover_clip
from satclip_model.ground_cover.text_encoder import TextEncoder
from satclip_model.image_encoder import ImageBackbone
from satclip_model.image_tower import ImageTower
from satclip_model.lightning_module import learning_rate_factor, parameter_groups

_SEED_STRIDE: Final = 1_000_003
_PLAIN_BATCH: Final = 512
_PLAIN_PIXEL_BATCH: Final = 32


@dataclass
class FitState:
    """A training after some steps, weights apart.

    Attributes:
        step: Steps done.
        seconds: Wall-clock seconds that they took.
        epoch_loss: Sum of the losses of the epoch at hand.
        rows: Rows of the log.
        optimizer: State of the optimiser; empty before the first step.
    """

    step: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    rows: list[Row] = field(default_factory=list)
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def build_towers(
    examples: Examples,
    config: GroundCoverTrainingConfig,
    backbone: ImageBackbone,
    text_encoder: TextEncoder | None = None,
) -> GroundCoverCLIP:
    """Untrained towers with the weights of a backbone and a head that standardises by the plain images of examples.

    Args:
        examples: The patches of training; their classes are those of the model.
        config: All settings.
        backbone: The image backbone, whose weights are copied; frozen where its settings say so.
        text_encoder: Reads the classes' texts; None opens that of the settings.
    """
    settings = config.model_settings(examples.classes, backbone.config)
    model = build_ground_cover_clip(settings, config.seed, text_encoder)
    assert isinstance(backbone, torch.nn.Module)
    model.image_backbone.load_state_dict(backbone.state_dict())
    if not getattr(backbone.config, "trainable", False):
        model.image_backbone.requires_grad_(False)
    with limited_threads(config.num_threads):
        fit_standardisation(model, ((each, each) for each in _plain_batches(examples)))
    return model


def steps_per_epoch(examples: Examples, config: GroundCoverTrainingConfig) -> int:
    """Steps of an epoch; a last, smaller batch is left out."""
    return max(1, len(examples) // min(config.batch_size, len(examples)))


def fit(
    model: GroundCoverCLIP,
    examples: Examples,
    config: GroundCoverTrainingConfig,
    state: FitState | None = None,
    *,
    after_step: Callable[[FitState, torch.optim.Optimizer], None] | None = None,
    validate: Callable[[GroundCoverCLIP], Mapping[str, float]] | None = None,
    add_row: Callable[[Row], None] | None = None,
) -> FitState:
    """Takes all steps of a training that are left; the model ends in evaluation mode.

    Args:
        model: Changed in place.
        examples: The patches of training.
        config: All settings.
        state: Where an earlier call stopped; None begins.
        after_step: Called after each step; what it raises ends the training.
        validate: Measures of the model, taken every ``validation_interval_epochs``.
        add_row: Takes the row of such an epoch.

    Raises:
        ConfigurationError: A GPU was asked for and none is there, or the loss is not finite.
    """
    state = state or FitState()
    device = torch.device("cuda" if choose_accelerator(config.accelerator) == "gpu" else "cpu")
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    if state.optimizer:
        optimizer.load_state_dict(dict(state.optimizer))
    per_epoch = steps_per_epoch(examples, config)
    num_steps = config.epochs * per_epoch
    clock = Clock(num_steps, min(config.batch_size, len(examples)), state.step, state.seconds)
    targets = _targets(examples, config)
    order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    drawn_epoch = -1
    with limited_threads(config.num_threads), torch.random.fork_rng(devices=[]):
        while state.step < num_steps:
            epoch, number = divmod(state.step, per_epoch)
            if epoch != drawn_epoch:
                order, drawn_epoch = balanced_order(examples.dominant, config.class_balance, config.seed, epoch), epoch
            rows = order[number * config.batch_size : (number + 1) * config.batch_size]
            images, wanted = examples.batch(rows, epoch).to(device), targets[torch.from_numpy(rows)].to(device)
            state.epoch_loss += _step(model, optimizer, images, wanted, config, state.step, num_steps)
            state.step += 1
            if state.step % per_epoch == 0:
                _end_epoch(model, optimizer, config, state, clock, per_epoch, validate, add_row)
            state.seconds = clock.elapsed_s
            if after_step is not None:
                after_step(state, optimizer)
    model.eval()
    return state


def _step(
    model: GroundCoverCLIP,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    config: GroundCoverTrainingConfig,
    step: int,
    num_steps: int,
) -> float:
    """One step; its loss."""
    generator = torch.Generator().manual_seed(config.seed * _SEED_STRIDE + step)
    torch.manual_seed(config.seed * _SEED_STRIDE + step)
    factor = learning_rate_factor(step, round(config.warmup_fraction * num_steps), num_steps)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * factor
    loss = model.loss(images, targets, model.draw_prompts(generator).to(images.device))
    value = float(loss.detach())
    if not np.isfinite(value):
        raise ConfigurationError(
            f"training diverged in step {step + 1}: the loss is {value}. Lower learning_rate (now "
            f"{config.learning_rate:g}) or raise warmup_fraction (now {config.warmup_fraction:g})"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.gradient_clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip_norm)
    optimizer.step()
    return value


def _end_epoch(
    model: GroundCoverCLIP,
    optimizer: torch.optim.Optimizer,
    config: GroundCoverTrainingConfig,
    state: FitState,
    clock: Clock,
    per_epoch: int,
    validate: Callable[[GroundCoverCLIP], Mapping[str, float]] | None,
    add_row: Callable[[Row], None] | None,
) -> None:
    """The row of an epoch, where one is due."""
    mean_loss, state.epoch_loss = state.epoch_loss / per_epoch, 0.0
    epoch = state.step // per_epoch
    if add_row is None or (epoch % config.validation_interval_epochs and epoch != config.epochs):
        return
    measures: Mapping[str, float] = {}
    if validate is not None:
        model.eval()
        measures = validate(model)
        model.train()
    add_row(
        {
            "epoch": epoch,
            "step": state.step,
            "train_loss": mean_loss,
            **measures,
            "temperature": float(torch.exp(-model.clamped_logit_scale.detach())),
            "learning_rate": float(optimizer.param_groups[0]["lr"]),
            **clock.read(state.step),
        }
    )


@torch.no_grad()
def class_scores(model: GroundCoverCLIP, examples: Examples, source: ClassSource = "learned") -> NDArray[np.float32]:
    """Probabilities of the classes of training for examples, shape (n, classes)."""
    classes = model.class_embeddings(source)
    device = model.logit_scale.device
    parts = [model.probabilities(each.to(device), classes).cpu() for each in _plain_batches(examples)]
    return torch.cat(parts).numpy() if parts else np.empty((0, len(classes)), dtype=np.float32)


@torch.no_grad()
def image_embeddings(model: ImageTower, examples: Examples) -> NDArray[np.float32]:
    """Unit-length embeddings of examples, shape (n, e)."""
    device = next(model.parameters()).device
    parts = [model.encode_image_batch(each.to(device)).cpu() for each in _plain_batches(examples)]
    return torch.cat(parts).numpy()


def _plain_batches(examples: Examples) -> Iterator[Tensor]:
    size = _PLAIN_BATCH if isinstance(examples.images, BankImages) else _PLAIN_PIXEL_BATCH
    rows = np.arange(len(examples))
    return (examples.batch(rows[start : start + size]) for start in range(0, len(rows), size))


def _targets(examples: Examples, config: GroundCoverTrainingConfig) -> Tensor:
    if config.targets == "fractions":
        return torch.from_numpy(examples.fractions)
    return torch.nn.functional.one_hot(torch.from_numpy(examples.dominant), len(examples.classes)).float()
