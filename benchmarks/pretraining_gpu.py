"""Pre-training at full size on one GPU: a view bank of 100,000 patches with ViT-S/16, and 500 epochs on it.

Pixels and features are synthesised on the spot, so that nothing needs to be carried to the machine. Each part runs
alone, in minutes, and tells its seconds; what is measured on fewer patches or epochs is scaled up in proportion and
says so. Without a GPU, ``project`` computes what the parts would take from FLOPs, bytes and operations that PyTorch
counts here and from the figures of a device in `ASSUMED`: a projection, not a measurement.

    python benchmarks/pretraining_gpu.py bank [--patches N] [--views V] [--device cuda|cpu] [--folder PATH]
    python benchmarks/pretraining_gpu.py train [--epochs N] [--patches N] [--views V] [--device cuda|cpu]
    python benchmarks/pretraining_gpu.py project

Prints a table, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import datetime
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import choose_device
from pipelines.features.view_bank import build_image_features, open_image_features
from pipelines.features.views import augment, reflectance_tensor
from pipelines.training.config import TrainingConfig
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors, TrainingBatches
from pipelines.training.fitting import fit
from pipelines.training.named_configs import read_training_plan
from pipelines.training.ranks import ALONE
from pipelines.training.towers import build_module
from satclip_model.config import MoCoConfig
from satclip_model.satclip import build_satclip

PATCHES, EPOCHS, VIEWS = 100_000, 500, 8
SHARD_SIZE, SIZE_PX, NUM_BANDS = 256, 256, 12
MAXIMUM_MINUTES = 15.0
BACKBONE = ImageBackboneSettings(kind="moco_vit16", seed=0)
BACKBONE_DIM = 384
PLAN = "vit16-l40"

ASSUMED: Final = {
    "device": "H200 (data sheet: 67 TFLOP/s float32, 4.8 TB/s, PCIe 5 x16 64 GB/s), 16 cores",
    "flops_per_s": 67e12 * 0.5,
    "memory_bytes_per_s": 4.8e12 * 0.5,
    "copy_bytes_per_s": 64e9 * 0.4,
    "seconds_per_operation": 10e-6,
    "decoded_patches_per_s": 16 * 400.0,
}
"""Half the peak of arithmetic and memory, 10 us for each operation that is launched, 400 patches per second and core
decoded (benchmarks/loader.py measures that rate). Parts are added up, although most overlap."""


class SyntheticPatches:
    """Patches of noise, another pattern in every shard; see `pipelines.features.view_bank.PatchSource`."""

    version = "synthetic"
    shard_size = SHARD_SIZE

    def __init__(self, number: int) -> None:
        self.num_places = number
        self.num_shards = -(-number // SHARD_SIZE)
        rng = np.random.default_rng(0)
        self._noise = rng.integers(0, 4096, (min(number, SHARD_SIZE), NUM_BANDS, SIZE_PX, SIZE_PX), dtype=np.uint16)
        self.places = pd.DataFrame(
            {
                "place_id": np.arange(number),
                "valid": True,
                "boa_add_offset": 0,
                "sha256": [f"{index:064x}" for index in range(number)],
            }
        )

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard."""
        rows = min(SHARD_SIZE, self.num_places - shard * SHARD_SIZE)
        return self._noise[:rows] ^ np.uint16(shard % 4096)


def measure_bank(options: argparse.Namespace) -> float:
    """Seconds to make the bank, writing included."""
    backbone = open_backbone(BACKBONE)
    patches = SyntheticPatches(options.patches)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        started = time.perf_counter()
        path = Path(name) / "bank.zarr"
        views = ViewsConfig(num_views=options.views)
        record = build_image_features(patches, backbone, path, views, device=options.device)
        seconds = time.perf_counter() - started
        features = open_image_features(path, patches.version, record["fingerprint"])
        assert np.isfinite(features.features).all()
    return seconds


def measure_training(options: argparse.Namespace) -> float:
    """Seconds of all steps."""
    device = choose_device(options.device)
    config = _training_config(options.epochs, options.batch_size, "gpu" if device.type == "cuda" else "cpu")
    towers = build_satclip(config.model_settings(MoCoConfig(kind="moco_vit16")), config.seed)
    towers.image_backbone.requires_grad_(False)
    places = _synthetic_places(options.patches, options.views, BACKBONE_DIM, device)
    held_out = places.rows(np.arange(options.patches) < options.patches // 10)
    data = PlaceDataModule(places, held_out, config.batch_size, config.seed, config.epochs)
    jitter = torch.Generator(device).manual_seed(config.seed)
    module = build_module(towers, config, config.epochs * data.steps_per_epoch, jitter)
    started = time.perf_counter()
    fit(module, data, lightning_callback(), config, Path(tempfile.gettempdir()) / "no_state.ckpt", ALONE)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def lightning_callback() -> Any:  # noqa: ANN401
    """A callback that counts steps as `fit` expects of the supervisor."""

    class Counter(lightning.Callback):
        step = epoch = 0

    return Counter()


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations that compute, and the bytes of the tensors that they take and give; views compute nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        del types
        given = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        if not any(each.alias_info is not None and not each.alias_info.is_write for each in returned):
            self.operations += 1
            tensors = [each for each in tree_leaves((args, kwargs, given)) if isinstance(each, torch.Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return given


def project(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each part by what PyTorch counts and `ASSUMED`."""
    assumed: dict[str, Any] = ASSUMED
    config = _training_config(EPOCHS, options.batch_size, "cpu")
    towers = build_satclip(config.model_settings(MoCoConfig(kind="moco_vit16")), config.seed)
    towers.image_backbone.requires_grad_(False)
    dn = torch.zeros((1, NUM_BANDS, SIZE_PX, SIZE_PX), dtype=torch.uint16)
    with FlopCounterMode(display=False) as forward, OperationCounter() as viewed, torch.no_grad():
        reflectance = reflectance_tensor(dn, torch.zeros(1, dtype=torch.int64))
        towers.image_backbone(augment(reflectance, np.zeros(1, dtype=np.int64), 1, ViewsConfig(num_views=2)))
    places = _synthetic_places(config.batch_size, 1, BACKBONE_DIM, torch.device("cpu"))
    batch = next(iter(TrainingBatches(places, config.batch_size, 0, 1)))
    module = build_module(towers, config, 1_000, torch.Generator())
    optimizer = torch.optim.AdamW(module.configure_optimizers()["optimizer"].param_groups, foreach=True)
    module.log = _log_nothing  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as stepped, OperationCounter() as launched:
        module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    patch_bytes = NUM_BANDS * SIZE_PX * SIZE_PX * 2
    steps = EPOCHS * (PATCHES // config.batch_size)
    step_flops, view_flops = stepped.get_total_flops(), forward.get_total_flops()
    print(
        f"counted: {view_flops / 1e9:.2f} GFLOP and {viewed.bytes / 1e6:.0f} MB of tensors per view, "
        f"{step_flops / 1e9:.2f} GFLOP and {launched.operations} operations per step of {config.batch_size}"
    )
    return {
        "decode": PATCHES / assumed["decoded_patches_per_s"],
        "copy to the GPU": PATCHES * patch_bytes / assumed["copy_bytes_per_s"],
        "views and encoder, memory traffic": PATCHES * VIEWS * viewed.bytes / assumed["memory_bytes_per_s"],
        "encoder, arithmetic": PATCHES * VIEWS * view_flops / assumed["flops_per_s"],
        "training, arithmetic": steps * step_flops / assumed["flops_per_s"],
        "training, launching operations": steps * launched.operations * assumed["seconds_per_operation"],
    }


def _log_nothing(*values: object, **options: object) -> None:
    del values, options


def _training_config(epochs: int, batch_size: int, accelerator: str) -> TrainingConfig:
    published = read_training_plan(PLAN).training
    changes = {"epochs": epochs, "batch_size": batch_size, "accelerator": accelerator}
    return TrainingConfig(**{**published.model_dump(), **changes})


def _synthetic_places(number: int, views: int, feature_dim: int, device: torch.device) -> PlaceTensors:
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn((number, views, feature_dim), generator=generator, device=device).half()
    draws = torch.rand((number, 2), generator=generator, device=device, dtype=torch.float64)
    lonlat_deg = torch.stack([360 * draws[:, 0] - 180, torch.rad2deg(torch.arcsin(2 * draws[:, 1] - 1))], dim=1)
    return PlaceTensors(features, lonlat_deg, np.arange(number))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("bank", "train", "project"))
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument("--views", type=int, default=VIEWS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--folder", type=Path, default=None, help="where the bank goes; default the temporary folder")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.part == "project":
        seconds = project(options)
        print(f"projection of {datetime.date.today()} for {ASSUMED['device']}, not a measurement")
    else:
        print(f"on {torch.cuda.get_device_name() if options.device == 'cuda' else 'the CPU'}")
        measured = measure_bank(options) if options.part == "bank" else measure_training(options)
        share = options.patches * options.views / (PATCHES * VIEWS)
        if options.part == "train":
            share = options.patches * options.epochs / (PATCHES * EPOCHS)
        print(f"measured: {options.patches} patches, {options.views} views, {options.epochs} epochs: {measured:.1f} s")
        seconds = {f"{options.part}, scaled from {share:.2%} of the work": measured / share}
    print(f"{'part':<48}{'seconds':>10}")
    for name, found in seconds.items():
        print(f"{name:<48}{found:>10.1f}")
    minutes = sum(seconds.values()) / 60
    holds = minutes < MAXIMUM_MINUTES
    metric = f"pretraining_gpu.{options.part}_minutes"
    print(json.dumps({"metric": metric, "value": round(minutes, 3), "target": MAXIMUM_MINUTES, "holds": holds}))
    return 0 if holds or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
