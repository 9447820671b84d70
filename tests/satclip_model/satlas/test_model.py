from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from satclip_model.errors import CheckpointError
from satclip_model.satlas import (
    EXPLORER_CONFIGS,
    PRETRAINED,
    ClassificationConfig,
    DetectionConfig,
    RegressionConfig,
    SatlasConfig,
    SatlasModel,
    SegmentationConfig,
    build_satlas,
    load_pretrained,
    load_satlas_weights,
)
from satclip_model.satlas.weights import describe_config

HEADS = (
    SegmentationConfig(categories=("farm", "pond")),
    SegmentationConfig(kind="segmentation", categories=("land", "water", "ice")),
    RegressionConfig(),
    DetectionConfig(categories=("turbine", "platform")),
    ClassificationConfig(categories=("city", "field", "forest")),
    ClassificationConfig(kind="multilabel_classification", categories=("road", "river")),
)
CONFIG = SatlasConfig(backbone="resnet50", num_channels=5, num_images=3, pyramid_dim=16, heads=HEADS)


@pytest.fixture(scope="module")
def model() -> SatlasModel:
    return build_satlas(CONFIG, seed=0).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand((2, 3, 5, 64, 96), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_every_head_gives_what_it_says(model: SatlasModel, images: torch.Tensor) -> None:
    farms, lands, cover, boxes, kind, labels = model(images)
    assert farms.shape == (2, 2, 64, 96)
    assert lands.shape == (2, 3, 64, 96)
    torch.testing.assert_close(lands.sum(1), torch.ones(2, 64, 96))
    assert cover.shape == (2, 64, 96)
    assert [set(each) for each in boxes] == [{"boxes", "labels", "scores"}] * 2
    assert kind.shape == (2, 3)
    torch.testing.assert_close(kind.sum(1), torch.ones(2))
    assert labels.shape == (2, 2)
    assert bool(((labels > 0) & (labels < 1)).all())


@torch.no_grad()
def test_maps_halve_from_full_resolution(model: SatlasModel, images: torch.Tensor) -> None:
    shapes = [tuple(each.shape) for each in model.encode(images)]
    assert shapes == [(2, 16, 64 // step, 96 // step) for step in (1, 4, 8, 16, 32)]


@torch.no_grad()
def test_order_of_images_does_not_matter(model: SatlasModel, images: torch.Tensor) -> None:
    for flipped, straight in zip(model.encode(images.flip(1)), model.encode(images), strict=True):
        torch.testing.assert_close(flipped, straight, rtol=1e-3, atol=1e-3 * float(straight.abs().max()))


@torch.no_grad()
def test_absent_images_count_for_nothing(model: SatlasModel, images: torch.Tensor) -> None:
    present = torch.tensor([[True, False, True], [False, True, False]])
    spoiled = torch.where(present[..., None, None, None], images, torch.nan)
    maps = model.encode(spoiled, present)
    first, second = model.encode(images[:1, [0, 2]]), model.encode(images[1:, 1:2])
    for whole, one, other in zip(maps, first, second, strict=True):
        torch.testing.assert_close(whole, torch.cat([one, other]), rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_losses_reach_every_trainable_weight(images: torch.Tensor) -> None:
    model = build_satlas(CONFIG, seed=1)
    box = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    targets = (
        {"classes": torch.zeros(2, 2, 64, 96)},
        {"classes": torch.zeros(2, 64, 96, dtype=torch.int64)},
        {"values": torch.full((2, 64, 96), 51)},
        [box, box],
        {"classes": torch.tensor([0, 2])},
        {"classes": torch.tensor([[0, 1], [1, 1]])},
    )
    losses = model.losses(images, targets)
    torch.stack(losses).sum().backward()
    without = {name for name, each in model.named_parameters() if each.grad is None}
    assert without == {"backbone.backbone.resnet.fc.weight", "backbone.backbone.resnet.fc.bias"}
    assert all(bool(torch.isfinite(each)) for each in losses)


@torch.no_grad()
def test_pixels_that_are_not_valid_count_for_nothing(model: SatlasModel, images: torch.Tensor) -> None:
    maps, head = model.encode(images), model.heads[2]
    valid = torch.zeros(2, 64, 96, dtype=torch.bool)
    valid[:, :10] = True
    values = torch.where(valid, 30.0, 255.0)
    expected = (head(images[:, 0], maps)[:, :10] - 30.0).abs().mean() / 255
    torch.testing.assert_close(head.loss(images[:, 0], maps, {"values": values, "valid": valid}), expected)


@pytest.mark.parametrize(
    ("shape", "told"),
    [((1, 4, 5, 64, 64), "1 to 3 images"), ((1, 3, 9, 64, 64), "5 channels"), ((1, 3, 5, 60, 64), "multiples of 32")],
)
def test_images_that_do_not_fit_are_refused(model: SatlasModel, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model(torch.zeros(shape))


def test_a_sample_without_an_image_is_refused(model: SatlasModel, images: torch.Tensor) -> None:
    present = torch.tensor([[True, False, True], [False, False, False]])
    with pytest.raises(ValueError, match="1 samples without an image"):
        model(images, present)


def test_several_images_need_pooling() -> None:
    with pytest.raises(ValidationError, match="set temporal to true"):
        SatlasConfig(num_images=2, temporal=False, heads=HEADS[:1])


def test_weights_go_through_a_file(tmp_path: Path, model: SatlasModel) -> None:
    path = tmp_path / "model.pth"
    torch.save({f"module.{name}": each for name, each in model.state_dict().items()}, path)
    other = build_satlas(CONFIG, seed=5)
    load_satlas_weights(other, path)
    for name, each in other.state_dict().items():
        assert torch.equal(each, model.state_dict()[name])


def test_weights_of_another_task_are_named(tmp_path: Path, model: SatlasModel) -> None:
    path = tmp_path / "solar_farm.pth"
    torch.save(model.state_dict(), path)
    other = build_satlas(CONFIG.model_copy(update={"heads": HEADS[3:4]}))
    with pytest.raises(CheckpointError, match=r"maps of 2 outputs.* asks for .*, detection of 2"):
        load_satlas_weights(other, path)


def test_pretrained_weights_leave_the_heads_new(tmp_path: Path) -> None:
    name, path = "Sentinel2_Resnet50_MI_RGB", tmp_path / "pretrained.pth"
    whole = build_satlas(SatlasConfig(backbone="resnet50", num_channels=3, num_images=8, heads=HEADS[:1]), seed=3)
    state = {key: each for key, each in whole.state_dict().items() if not key.startswith("heads.")}
    torch.save(state, path)
    loaded = load_pretrained(name, HEADS[2:3], path=path, num_images=2, seed=4)
    assert all(torch.equal(loaded.state_dict()[key], each) for key, each in state.items())
    fresh = build_satlas(loaded.config, seed=4)
    assert torch.equal(loaded.state_dict()["heads.0.layers.1.weight"], fresh.state_dict()["heads.0.layers.1.weight"])
    with pytest.raises(CheckpointError, match=r"3 channels, several images, but .* 9 channels, one image"):
        load_pretrained("Sentinel2_Resnet50_SI_MS", HEADS[:1], path=path)


def test_nothing_is_fetched_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"allenai/satlas-pretrain@main:sentinel2_swinb_si_rgb.pth: not in the"):
        load_pretrained("Sentinel2_SwinB_SI_RGB", HEADS[:1])
    with pytest.raises(ValueError, match="expected one of Sentinel2_SwinB_SI_RGB"):
        load_pretrained("Sentinel2", HEADS[:1])


def test_every_configuration_builds() -> None:
    told = {name: describe_config(config) for name, config in EXPLORER_CONFIGS.items()}
    assert told["marine_infrastructure"] == "Swin of width 128, 3 channels, several images, detection of 3 categories"
    assert told["tree_cover"] == "Swin of width 128, 9 channels, several images, maps of 1 outputs"
    for backbone, num_channels, temporal in PRETRAINED.values():
        config = SatlasConfig(
            backbone=backbone, num_channels=num_channels, num_images=1, temporal=temporal, heads=HEADS[:1]
        )
        assert f"{num_channels} channels" in describe_config(config)
