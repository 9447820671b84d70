"""What every rank does in test_rank_training.py.

Called as a module with the name of a function, a configuration and a folder.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

import torch

from pipelines.patches.dataset import open_patch_dataset
from pipelines.training import run
from pipelines.training.config import TrainingConfig
from pipelines.training.run import train, train_from_pixels
from satclip_model.config import VisionTransformerConfig
from satclip_model.image_encoder import ModifiedResNet, VisionTransformer
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.pipelines.training.pixel_trainings import PARALLEL, SMALL, tiny_backbone
from tests.pipelines.training.synthetic_places import SMALL as FEATURES
from tests.pipelines.training.synthetic_places import synthetic

EXACT = FEATURES.model_copy(update={"image_dropout": 0.0, "feature_dropout": 0.0, "coordinate_jitter_m": 0.0})
PIXELS = SMALL.model_copy(update={"location_dropout": 0.0, "image_dropout": 0.0, "coordinate_jitter_m": 0.0})


def pixel_backbones() -> dict[str, ModifiedResNet | VisionTransformer]:
    """A frozen backbone, one with batch normalisation that is trained, and one without that is trained.

    The frozen one is no untrained ModifiedResNet: its features vary by 1e-4 of their size, so that standardising them
    magnifies roundings, which differ between batches of 8 and 16 on some processors.
    """
    config = VisionTransformerConfig(image_size=32, patch_size=16, width=64, num_layers=1, output_dim=8)
    torch.manual_seed(5)
    frozen = VisionTransformer(config.model_copy(update={"trainable": False}))
    return {"frozen": frozen, "batch_norm": tiny_backbone(), "transformer": VisionTransformer(config)}


def train_once(config: TrainingConfig, folder: Path) -> None:
    result = train(*synthetic(150), config, folder / "run")
    told = {"metrics": result.metrics, "checkpoint": str(result.checkpoint_path)}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))


def train_and_be_killed(config: TrainingConfig, folder: Path) -> None:
    """Trains to the end, and again until the first rank kills itself in its seventh step."""
    train(*synthetic(150, num_views=2), config, folder / "whole")
    step, steps = SatCLIPLightningModule.training_step, []

    def fatal_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        if len(steps) == 7 and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    SatCLIPLightningModule.training_step = fatal_step
    train(*synthetic(150, num_views=2), config, folder / "run")


def go_on_and_train_more(config: TrainingConfig, folder: Path) -> None:
    """Goes on with the training that was killed; trains on features without noise, and backbones from pixels."""
    train_once(EXACT, folder / "exact")
    train(*synthetic(150, num_views=2), config, folder / "run")
    dataset = open_patch_dataset(folder)
    trained = {}
    take_steps = run.fit

    def fit(module: SatCLIPLightningModule, *others: object) -> None:
        take_steps(module, *others)
        trained[name] = module.model.image_backbone.state_dict()

    run.fit = fit
    for name, backbone in pixel_backbones().items():
        train_from_pixels(dataset, backbone, PIXELS, folder / name, loader=PARALLEL)
    torch.save(trained, folder / f"rank{os.environ['RANK']}.pt")


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    destroy = torch.distributed.destroy_process_group
    torch.distributed.destroy_process_group = lambda: None  # torchrun's store has room for one group, so all share it
    globals()[sys.argv[1]](TrainingConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
    destroy()


if __name__ == "__main__":
    main()
