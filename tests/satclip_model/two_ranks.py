"""What each of two processes does in test_distributed.py; here, so that a spawned process can import it."""

import os
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    MoCoConfig,
    RandomFeaturesConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.distributed import all_gather_with_gradient, joint_contrastive_loss
from satclip_model.errors import DivergenceError
from satclip_model.lightning_module import OptimizationSettings, SatCLIPLightningModule
from satclip_model.satclip import SatCLIP, SatCLIPConfig, build_satclip

NUM_RANKS = 2
SHARE = 5
SETTINGS = OptimizationSettings(learning_rate=0.01, weight_decay=0.5, warmup_steps=4, total_steps=20)


class Towers(nn.Module):
    """Loss of a batch of (features or images, lonlat_deg) in the type of the weights."""

    def __init__(self, model: SatCLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, lonlat_deg: Tensor) -> Tensor:
        features = self.model.image_backbone(images) if images.ndim == 4 else images
        return joint_contrastive_loss(
            functional.normalize(self.model.image_projection(features), dim=1),
            functional.normalize(self.model.location_encoder(lonlat_deg), dim=1),
            self.model.clamped_logit_scale,
        )


class TrainingStep(nn.Module):
    """The training step of the Lightning module, which logs nowhere."""

    def __init__(self, model: SatCLIP) -> None:
        super().__init__()
        self.lightning = SatCLIPLightningModule(model, SETTINGS)
        self.lightning.log = lambda *args, **kwargs: None

    def forward(self, features: Tensor, lonlat_deg: Tensor) -> Tensor:
        return self.lightning.training_step((features, lonlat_deg), 3)


def build_case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A module, and the joint batch of all ranks."""
    generator = torch.Generator().manual_seed(7)
    is_image = name == "trainable images, float64"
    backbone = MoCoConfig(kind="moco_resnet18", trainable=True) if is_image else RandomFeaturesConfig(num_filters=2)
    model = build_satclip(
        SatCLIPConfig(
            location=LocationEncoderConfig(
                positional_encoding=SphericalHarmonicsConfig(num_degrees=6),
                network=SirenConfig(hidden_dim=12),
                embedding_dim=8,
            ),
            image_backbone=backbone,
            image_head=ImageHeadConfig(hidden_dim=10),
        ),
        seed=1,
    )
    model.image_backbone.eval()
    dtype = torch.float64 if "float64" in name else torch.float32
    shape = (13, 32, 32) if is_image else (backbone.feature_dim,)
    images = torch.rand(NUM_RANKS * SHARE, *shape, generator=generator, dtype=dtype)
    lonlat_deg = torch.rand(NUM_RANKS * SHARE, 2, generator=generator, dtype=torch.float64) * 160 - 80
    module = TrainingStep(model) if name == "training step, float32" else Towers(model)
    return module.to(dtype), images, lonlat_deg


CASES = ("frozen images, float64", "trainable images, float64", "frozen images, float32", "training step, float32")


def loss_and_gradients(module: nn.Module, images: Tensor, lonlat_deg: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = module(images, lonlat_deg)
    loss.backward()
    gradients = {
        name.removeprefix("module."): each.grad for name, each in module.named_parameters() if each.requires_grad
    }
    assert all(gradient is not None for gradient in gradients.values())
    return loss.detach(), gradients


def run_rank(rank: int, folder: Path) -> None:
    """Writes what this rank found to ``folder``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=NUM_RANKS
    )
    rows = slice(rank * SHARE, (rank + 1) * SHARE)
    found = {"process": os.getpid()}
    for name in CASES:
        module, images, lonlat_deg = build_case(name)
        found[name] = loss_and_gradients(DistributedDataParallel(module), images[rows], lonlat_deg[rows])
    found["gathered"] = gather_and_weigh(rank)
    found["refusal"] = refusal_of_unequal_batches(rank)
    found["divergence"] = divergence_of_one_rank(rank)
    torch.save(found, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def gather_and_weigh(rank: int) -> tuple[Tensor, Tensor]:
    """All rows, and the gradient of sum_k (k + 1)(rank + 1) gathered_k with respect to this rank's."""
    own = (torch.arange(3.0).reshape(3, 1) + 10 * rank).requires_grad_()
    gathered = all_gather_with_gradient(own)
    weights = torch.arange(1.0, 1.0 + len(gathered)).reshape(-1, 1)
    ((rank + 1) * weights * gathered).sum().backward()
    return gathered.detach(), own.grad


def refusal_of_unequal_batches(rank: int) -> str:
    try:
        all_gather_with_gradient(torch.ones(4 - rank, 2))
    except ValueError as error:
        return str(error)
    return ""


def divergence_of_one_rank(rank: int) -> str:
    module, features, lonlat_deg = build_case("training step, float32")
    if rank == 1:
        features[0] = torch.nan
    try:
        module(features[:SHARE], lonlat_deg[:SHARE])
    except DivergenceError as error:
        return str(error)
    return ""
