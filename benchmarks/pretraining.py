"""Cost of pre-training from the view bank beside training from pixels, with a frozen image encoder.

An untrained ResNet18 of MoCo's shape, harmonics of degree 0 to 9, patches of 12 x 256 x 256 pixels: those of the
workspace named by ``SATCLIP_ROOT`` or --root if it has enough, else ones with the texture of real patches. Measured:

- every part of both routes alone, in samples per second;
- the loss of each step over two epochs, without augmentation, in the same order from the same weights;
- both routes as they run: the bank's making with V views and 20 epochs on it, and epochs of the pixel route, to which
  the measured cost of one augmentation per sample is added.

The last lines are a projection, not a measurement, to ViT-S/16, 100,000 patches, 500 epochs and 8 views, from FLOPs
that PyTorch counts; decoding, copies and memory traffic are left out of it, on both sides.

    python benchmarks/pretraining.py [--check] [--patches N] [--views V] [--batch-size N] [--workers N] [--threads N]
        [--root PATH] [--folder PATH]

Prints tables, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import copy
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from sample_patches import publish_patches, sample_patches
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines.errors import SatclipError
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import choose_device
from pipelines.features.view_bank import build_image_features, open_image_features
from pipelines.features.views import augment, reflectance_tensor
from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors, TrainingBatches
from pipelines.training.fitting import fit
from pipelines.training.part_sampling import PartSampler
from pipelines.training.pixel_datamodule import PixelDataModule
from pipelines.training.pixel_reading import PatchStream
from pipelines.training.pixels import open_shard_reader, pixel_places
from pipelines.training.ranks import ALONE
from pipelines.training.splits import split_pixel_places, split_places
from pipelines.training.towers import build_module, build_towers
from satclip_model.config import MoCoConfig
from satclip_model.loss import contrastive_loss
from satclip_model.satclip import SatCLIP, build_satclip

EPOCHS, COMPARED_EPOCHS = 20, 2
MAXIMUM_COST_RATIO = 1 / 8
MAXIMUM_LOSS_DIFFERENCE = 1e-3
BACKBONE = ImageBackboneSettings(kind="moco_resnet18", seed=0)
PROJECTED = {"patches": 100_000, "epochs": 500, "views": 8, "batch_size": 512, "num_degrees": 40}
MAXIMUM_PROJECTED_RATIO = 1 / 50
PART_SAMPLES = 64
DECODE, REFLECTANCE, AUGMENT = "decode, all workers", "reflectance on the device", "augment"
FORWARD, READ, STEP = "image encoder, forward", "bank, read", "head and location encoder, step"


class Losses(lightning.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.step = self.epoch = 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keeps the loss."""
        del trainer, pl_module, batch, batch_idx
        self.values.append(float(outputs["loss"]))


def open_dataset(root: Path | None, folder: Path, number: int) -> tuple[PatchDataset, str]:
    if root is not None:
        try:
            dataset = open_patch_dataset(root)
        except SatclipError as error:
            print(f"{root}: no dataset to use ({error})")
        else:
            if dataset.record.num_valid >= number and dataset.patch_size == 256:
                return dataset, f"dataset {dataset.version} of the workspace"
            print(f"{root}: dataset {dataset.version} has {dataset.record.num_valid} patches, {number} are wanted")
    patches, kind = sample_patches(number)
    return publish_patches(folder, patches(), number), kind


def run(data: PlaceDataModule | PixelDataModule, towers: SatCLIP, config: TrainingConfig) -> tuple[list[float], float]:
    """Losses of all steps, and seconds."""
    jitter = torch.Generator(next(towers.parameters()).device).manual_seed(config.seed)
    module = build_module(towers, config, config.epochs * data.steps_per_epoch, jitter)
    losses = Losses()
    started = time.perf_counter()
    fit(module, data, losses, config, Path(tempfile.gettempdir()) / "no_state.ckpt", ALONE)
    return losses.values, time.perf_counter() - started


def rate(work: Callable[[], int], minimum_s: float = 2.0) -> float:
    """Samples per second of ``work``, which tells how many it did; the first call is not counted."""
    work()
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < minimum_s or not done:
        done += work()
    return done / elapsed


def synchronized(work: Callable[[], Any], number: int, device: torch.device) -> Callable[[], int]:
    """Work on ``number`` samples that is over when it returns."""

    def call() -> int:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return number

    return call


def training_step(towers: SatCLIP, images: Tensor, lonlat_deg: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    contrastive_loss(
        towers.encode_image_batch(images), towers.encode_location(lonlat_deg), towers.clamped_logit_scale
    ).backward()
    optimizer.step()


def measure_parts(
    dataset: PatchDataset, bank: PlaceTensors, towers: SatCLIP, config: TrainingConfig, workers: int, views: ViewsConfig
) -> dict[str, float]:
    """Samples per second of every part, alone."""
    device = bank.features.device
    towers = copy.deepcopy(towers).to(device)
    places, loader = pixel_places(dataset), PixelLoaderConfig(num_workers=workers)
    sampler = PartSampler(places.shards, len(places), loader, 0)
    stream = PatchStream(open_shard_reader(dataset), places.rows, sampler, loader)
    dn = torch.from_numpy(dataset.read_shard_dn(0)[:PART_SAMPLES]).to(device)
    offsets = torch.tensor(dataset.places["boa_add_offset"].to_numpy()[:PART_SAMPLES], device=device)
    place_ids = dataset.places["place_id"].to_numpy()[:PART_SAMPLES]
    reflectance = reflectance_tensor(dn, offsets)
    batches = TrainingBatches(bank, config.batch_size, config.seed, 1)
    batch = next(iter(batches))
    optimizer = build_module(towers, config, 1_000_000, torch.Generator(device)).configure_optimizers()["optimizer"]
    work: dict[str, tuple[Callable[[], Any], int]] = {
        REFLECTANCE: (lambda: reflectance_tensor(dn, offsets), len(dn)),
        AUGMENT: (lambda: augment(reflectance, place_ids, 1, views), len(dn)),
        FORWARD: (torch.no_grad()(lambda: towers.image_backbone(reflectance)), len(dn)),
        READ: (lambda: [features.sum() for features, _ in batches], len(batches) * config.batch_size),
        STEP: (lambda: training_step(towers, *batch, optimizer), config.batch_size),
    }
    rates = {DECODE: rate(lambda: sum(len(positions) for _, positions in stream))}
    return rates | {name: rate(synchronized(call, number, device)) for name, (call, number) in work.items()}


def cost_by_parts(rates: dict[str, float], views: int, epochs: int) -> tuple[float, float]:
    """Seconds per patch of the bank route and of the pixel route, one part after the other."""
    seconds = {name: 1.0 / found for name, found in rates.items()}
    view = seconds[AUGMENT] + seconds[FORWARD]
    plain = seconds[DECODE] + seconds[REFLECTANCE]
    bank = plain + views * view - seconds[AUGMENT] + epochs * (seconds[READ] + seconds[STEP])
    return bank, epochs * (plain + view + seconds[STEP])


def projected_flops() -> tuple[float, float, float]:
    """FLOPs per sample of ViT-S/16 forward and of a training step, and the ratio of the routes' costs."""
    config = TrainingConfig(num_degrees=int(PROJECTED["num_degrees"]), batch_size=int(PROJECTED["batch_size"]))
    towers = build_satclip(config.model_settings(MoCoConfig(kind="moco_vit16")), 0)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        towers.image_backbone(torch.rand(1, 12, 256, 256))
    features = torch.rand(config.batch_size, towers.image_backbone.feature_dim)
    lonlat_deg = torch.rand(config.batch_size, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(towers.parameters())
    with FlopCounterMode(display=False) as step:
        training_step(towers, features, lonlat_deg, optimizer)
    per_view, per_step = forward.get_total_flops(), step.get_total_flops() / config.batch_size
    views, epochs = PROJECTED["views"], PROJECTED["epochs"]
    return per_view, per_step, (views * per_view + epochs * per_step) / (epochs * (per_view + per_step))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1024)
    parser.add_argument("--views", type=int, default=2, help="views of the bank, the plain one among them")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument("--root", type=Path, default=os.environ.get("SATCLIP_ROOT"), help="workspace with a dataset")
    parser.add_argument("--folder", type=Path, default=None, help="where files go; default the system's temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    views, device = ViewsConfig(num_views=options.views), choose_device("auto")
    config = TrainingConfig(
        num_degrees=10, batch_size=options.batch_size, epochs=EPOCHS, validation_fraction=0, learning_rate=1e-4
    )
    compared = config.model_copy(update={"epochs": COMPARED_EPOCHS})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        dataset, kind = open_dataset(options.root and Path(options.root), Path(name), options.patches)
        backbone = open_backbone(BACKBONE)
        started = time.perf_counter()
        path = Path(name) / "bank.zarr"
        record = build_image_features(dataset, backbone, path, views, settings=BACKBONE, device=device.type)
        features = open_image_features(path, dataset.version, record["fingerprint"])
        making_s = time.perf_counter() - started
        training, validation = split_places(dataset, features, config)
        towers = build_towers(features, config, training, backbone)
        training, validation = training.to(device), validation.to(device)
        data = PlaceDataModule(training, validation, config.batch_size, config.seed, EPOCHS)
        _, bank_s = run(data, copy.deepcopy(towers), config)
        plain = PlaceTensors(training.features[:, :1], training.lonlat_deg, training.place_ids)
        data = PlaceDataModule(plain, validation, config.batch_size, config.seed, COMPARED_EPOCHS)
        bank_losses, _ = run(data, copy.deepcopy(towers), compared)
        loader = PixelLoaderConfig(num_workers=options.workers)
        pixels = PixelDataModule(
            *split_pixel_places(dataset, compared), open_shard_reader(dataset), compared, loader, device
        )
        pixel_losses, pixel_s = run(pixels, copy.deepcopy(towers), compared)
        rates = measure_parts(dataset, training, towers, config, options.workers, views)
    return report(
        options, f"{len(training)} patches ({kind})", rates, (making_s, bank_s, pixel_s), bank_losses, pixel_losses
    )


def report(
    options: argparse.Namespace,
    patches: str,
    rates: dict[str, float],
    seconds: tuple[float, float, float],
    bank_losses: list[float],
    pixel_losses: list[float],
) -> int:
    making_s, bank_s, pixel_s = seconds
    samples = len(pixel_losses) // COMPARED_EPOCHS * options.batch_size
    augment_s = samples / rates[AUGMENT] if options.views > 1 else 0.0
    pixel_epoch_s = pixel_s / COMPARED_EPOCHS + augment_s
    cost_ratio = (making_s + bank_s) / (EPOCHS * pixel_epoch_s)
    bank_parts, pixel_parts = cost_by_parts(rates, options.views, EPOCHS)
    difference = max(abs(one - other) for one, other in zip(bank_losses, pixel_losses, strict=True))
    per_view, per_step, projected = projected_flops()
    print(f"{patches}, V = {options.views}, batches of {options.batch_size}, {torch.get_num_threads()} threads")
    print(f"{'part':<36}{'samples/s':>12}")
    for name, found in rates.items():
        print(f"{name:<36}{found:>12.0f}")
    print(f"bank route, {EPOCHS} epochs: {making_s:.1f} s to make the bank, {bank_s:.1f} s to train on it")
    print(f"pixel route: {pixel_epoch_s:.1f} s per epoch, of which {augment_s:.1f} s augmentation measured alone")
    print(f"cost at {EPOCHS} epochs: 1 / {1 / cost_ratio:.1f} as run, 1 / {pixel_parts / bank_parts:.1f} by its parts")
    print(
        f"projection from FLOPs to ViT-S/16, {PROJECTED}: {per_view / 1e9:.2f} GFLOP per view, "
        f"{per_step / 1e6:.1f} MFLOP per sample and step, 1 / {1 / projected:.1f}"
    )
    measures: list[tuple[str, float, float | None, bool]] = [
        ("pretraining.loss_difference", difference, MAXIMUM_LOSS_DIFFERENCE, difference <= MAXIMUM_LOSS_DIFFERENCE),
        ("pretraining.cost_ratio", cost_ratio, MAXIMUM_COST_RATIO, cost_ratio <= MAXIMUM_COST_RATIO),
        ("pretraining.cost_ratio_by_parts", bank_parts / pixel_parts, None, True),
        ("pretraining.projected_cost_ratio", projected, MAXIMUM_PROJECTED_RATIO, projected <= MAXIMUM_PROJECTED_RATIO),
    ]
    for metric, value, target, holds in measures:
        print(json.dumps({"metric": metric, "value": round(value, 6), "target": target, "holds": bool(holds)}))
    return 0 if all(holds for *_, holds in measures) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
