"""Small trainings from pixels, and what tests do to them."""

import csv
from pathlib import Path

import pytest
import torch

from pipelines.features.config import ViewsConfig
from pipelines.patches.dataset import PatchDataset
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.history import HISTORY_NAME
from pipelines.training.run import TrainingResult, train_from_pixels
from pipelines.training.state import STATE_NAME
from satclip_model.config import ModifiedResNetConfig
from satclip_model.image_encoder import ModifiedResNet
from satclip_model.lightning_module import SatCLIPLightningModule

SMALL = TrainingConfig(
    num_degrees=4, embedding_dim=8, location_hidden_dim=16, location_dropout=0.1, image_hidden_dim=8, image_dropout=0.1,
    batch_size=8, epochs=4, learning_rate=5e-3, coordinate_jitter_m=5_000, validation_interval_epochs=1,
    checkpoint_interval_steps=3, accelerator="cpu", num_threads=1,
)  # fmt: skip
PARALLEL = PixelLoaderConfig(num_workers=2, part_size=3, prefetch_parts=1)
SERIAL = PixelLoaderConfig(num_workers=0, part_size=5)
VIEWS = ViewsConfig(num_views=2)
TIMES = {"samples_per_s", "elapsed_s", "left_s"}


class CrashError(Exception):
    pass


def tiny_backbone(trainable: bool = True, seed: int = 3) -> ModifiedResNet:
    config = ModifiedResNetConfig(image_size=32, width=4, num_blocks=(1, 1, 1, 1), output_dim=8, trainable=trainable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ModifiedResNet(config)


def train(
    dataset: PatchDataset,
    folder: Path,
    config: TrainingConfig = SMALL,
    loader: PixelLoaderConfig = SERIAL,
    trainable: bool = True,
) -> TrainingResult:
    return train_from_pixels(dataset, tiny_backbone(trainable), config, folder, views=VIEWS, loader=loader)


def log_without_times(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_NAME).open() as handle:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(handle)]


def at_step(number: int, act: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen inside the step of this number, counted from 1."""
    step, steps = SatCLIPLightningModule.training_step, []

    def training_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        if len(steps) == number:
            act()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SatCLIPLightningModule, "training_step", training_step)


def crash() -> None:
    raise CrashError


def require_same(folder: Path, undisturbed: TrainingResult) -> None:
    assert (folder / "satclip.ckpt").read_bytes() == undisturbed.checkpoint_path.read_bytes()
    assert log_without_times(folder) == log_without_times(undisturbed.checkpoint_path.parent)
    assert not (folder / STATE_NAME).exists()
