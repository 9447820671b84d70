"""Training from pixels and from the view bank are the same mathematics."""

import copy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.view_bank import ImageFeatures, build_image_features, open_image_features
from pipelines.patches.dataset import PatchDataset
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors
from pipelines.training.fitting import fit
from pipelines.training.pixel_datamodule import PixelDataModule
from pipelines.training.pixels import PixelBatches, open_shard_reader
from pipelines.training.ranks import ALONE, Ranks
from pipelines.training.splits import split_pixel_places, split_places
from pipelines.training.towers import build_module, build_towers
from pipelines.training.validation import validate
from satclip_model.config import MoCoConfig
from satclip_model.image_encoder import MoCoBackbone
from satclip_model.satclip import SatCLIP
from tests.pipelines.training.pixel_dataset import publish_small_dataset

CONFIG = TrainingConfig(
    num_degrees=6, embedding_dim=16, location_hidden_dim=32, image_hidden_dim=32, batch_size=16, epochs=2,
    learning_rate=1e-4, validation_fraction=0.2, coordinate_jitter_m=5_000, accelerator="cpu", num_threads=1,
)  # fmt: skip
SERIAL = PixelLoaderConfig(num_workers=0, part_size=5)
CPU = torch.device("cpu")
BACKBONE = ImageBackboneSettings(kind="moco_resnet18", seed=4)


class Losses(lightning.Callback):
    """Every loss of a training, and what a supervisor tells of it."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.step = self.epoch = 0

    def on_train_batch_end(
        self, trainer: object, pl_module: object, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    return publish_small_dataset(tmp_path_factory.mktemp("route"), 80)


@pytest.fixture(scope="module")
def image_features(dataset: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> ImageFeatures:
    path = tmp_path_factory.mktemp("bank") / "bank.zarr"
    record = build_image_features(
        dataset, open_backbone(BACKBONE), path, ViewsConfig(num_views=1), settings=BACKBONE, device="cpu"
    )
    return open_image_features(path, dataset.version, record["fingerprint"])


def train_losses(towers: SatCLIP, data: PixelDataModule | PlaceDataModule, folder: Path) -> list[float]:
    jitter = torch.Generator().manual_seed(CONFIG.seed)
    module = build_module(towers, CONFIG, CONFIG.epochs * data.steps_per_epoch, jitter)
    losses = Losses()
    fit(module, data, losses, CONFIG, folder / "state.ckpt", ALONE)
    return losses.values


def open_pixels(dataset: PatchDataset, loader: PixelLoaderConfig = SERIAL, **options: Any) -> PixelDataModule:
    places = split_pixel_places(dataset, CONFIG)
    return PixelDataModule(*places, open_shard_reader(dataset), CONFIG, loader, CPU, **options)


@pytest.mark.parametrize(("rounded", "tolerance"), [(True, 1e-3), (False, 1e-5)])
def test_losses_of_every_step_are_those_of_the_bank(
    dataset: PatchDataset, image_features: ImageFeatures, tmp_path: Path, rounded: bool, tolerance: float
) -> None:
    training, validation = split_places(dataset, image_features, CONFIG)
    pixels = open_pixels(dataset)
    assert pixels.training.place_ids.tolist() == training.place_ids.tolist()
    assert pixels.validation.place_ids.tolist() == validation.place_ids.tolist()
    if not rounded:
        training = unrounded(training, pixels.plain_dataloader("train"))
        validation = unrounded(validation, pixels.plain_dataloader("val"))
    towers = build_towers(image_features, CONFIG, training, open_backbone(BACKBONE))
    by_pixels = copy.deepcopy(towers)
    bank = PlaceDataModule(training, validation, CONFIG.batch_size, CONFIG.seed, CONFIG.epochs)
    expected = train_losses(towers, bank, tmp_path)
    found = train_losses(by_pixels, pixels, tmp_path)
    assert len(expected) == 2 * (len(training) // 16) >= 6
    assert found == pytest.approx(expected, abs=tolerance, rel=0)
    assert expected[-1] < expected[0] - 0.05
    measured, wanted = (
        validate(model, data.val_dataloader(), 0, 16) for model, data in ((by_pixels, pixels), (towers, bank))
    )
    assert measured["val_loss"] == pytest.approx(wanted["val_loss"], abs=tolerance, rel=0)
    torch.testing.assert_close(by_pixels.image_backbone.state_dict(), towers.image_backbone.state_dict())


def unrounded(places: PlaceTensors, batches: PixelBatches) -> PlaceTensors:
    """The features of a bank as they are before they become float16."""
    backbone = open_backbone(BACKBONE)
    features = torch.cat([backbone(reflectance) for reflectance, _ in batches])
    return PlaceTensors(features[:, None], places.lonlat_deg, places.place_ids)


def test_a_trainable_backbone_is_trained(dataset: PatchDataset, image_features: ImageFeatures, tmp_path: Path) -> None:
    training, _ = split_places(dataset, image_features, CONFIG)
    towers = build_towers(image_features, CONFIG, training, open_backbone(BACKBONE))
    backbone = MoCoBackbone(MoCoConfig(kind="moco_resnet18", trainable=True))
    backbone.load_state_dict(towers.image_backbone.state_dict())
    towers.image_backbone = backbone
    before = copy.deepcopy(backbone.state_dict())
    losses = train_losses(towers, open_pixels(dataset, views=ViewsConfig(num_views=2)), tmp_path)
    assert len(losses) == 6
    moved = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    assert {"network.conv1.weight", "network.bn1.running_mean"} <= set(moved)


def test_training_goes_on_at_any_step(dataset: PatchDataset) -> None:
    whole = [lonlat_deg for _, lonlat_deg in open_pixels(dataset).train_dataloader()]
    steps = open_pixels(dataset).steps_per_epoch
    assert len(whole) == 2 * steps
    for first_step in (1, steps, steps + 1):
        batches = open_pixels(dataset, first_step=first_step).train_dataloader()
        assert len(batches) == len(whole) - first_step
        rest = [lonlat_deg for _, lonlat_deg in batches]
        torch.testing.assert_close(rest, whole[first_step:], rtol=0, atol=0)


def test_the_shares_of_the_ranks_are_the_joint_batch(dataset: PatchDataset) -> None:
    joint = [lonlat_deg for _, lonlat_deg in open_pixels(dataset).train_dataloader()]
    first, second = (
        [lonlat_deg for _, lonlat_deg in open_pixels(dataset, ranks=Ranks(rank, 2, rank, 2)).train_dataloader()]
        for rank in (0, 1)
    )
    torch.testing.assert_close([torch.cat(each) for each in zip(first, second, strict=True)], joint, rtol=0, atol=0)
