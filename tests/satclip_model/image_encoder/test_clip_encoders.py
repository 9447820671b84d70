import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from satclip_model.config import ModifiedResNetConfig, VisionTransformerConfig
from satclip_model.image_encoder import ModifiedResNet, VisionTransformer, build_image_backbone
from satclip_model.image_encoder.image_input import insert_cirrus_band
from tests.satclip_model.name_seeding import draw_uniform, seed_by_name

REFERENCE = Path(__file__).parents[2] / "data" / "satclip_reference" / "clip_encoders.npz"
TRANSFORMER = VisionTransformerConfig(image_size=60, patch_size=16, width=128, num_layers=3, output_dim=24)
RESNET = ModifiedResNetConfig(image_size=96, width=16, num_blocks=(1, 2, 1, 2), output_dim=24)
Backbone = VisionTransformer | ModifiedResNet
CONFIGS = [pytest.param(TRANSFORMER, id="transformer"), pytest.param(RESNET, id="resnet")]


def build(config: VisionTransformerConfig | ModifiedResNetConfig) -> Backbone:
    torch.manual_seed(0)
    backbone = build_image_backbone(config)
    assert isinstance(backbone, Backbone)
    return backbone


@pytest.mark.parametrize("config", CONFIGS)
def test_features_equal_the_original(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    backbone = build(config).eval()
    official = {f"model.visual.{name}": tensor for name, tensor in backbone.state_dict().items()}
    with np.load(REFERENCE) as reference:
        keys, expected = reference[f"{config.kind}_keys"], reference[f"{config.kind}_features"]
    assert sorted(official) == keys.tolist()
    seeded = {name.removeprefix("model.visual."): tensor for name, tensor in seed_by_name(official).items()}
    backbone.load_state_dict(seeded)
    cells = draw_uniform(f"{config.kind}image", (3, 13, 6, 6), -100, 100)
    images = cells.repeat_interleave(config.image_size // 6, 2).repeat_interleave(config.image_size // 6, 3)
    with torch.no_grad():
        np.testing.assert_allclose(backbone(images).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_cirrus_band_may_be_left_out(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    backbone, images = build(config).eval(), torch.rand(2, 12, config.image_size, config.image_size)
    features = backbone(images)
    assert features.shape == (2, backbone.feature_dim) == (2, 24)
    torch.testing.assert_close(features, backbone(insert_cirrus_band(images)))


@pytest.mark.parametrize("config", CONFIGS)
def test_images_of_another_size_are_refused(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    size = config.image_size
    with pytest.raises(ValueError, match=f"{size} x {size + 32} pixels; this encoder takes {size} x {size}"):
        build(config)(torch.rand(1, 13, size, size + 32))


@pytest.mark.parametrize("config", CONFIGS)
def test_weights_learn_unless_frozen(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    images = torch.rand(2, 13, config.image_size, config.image_size)
    trainable = build(config).train()
    trainable(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())

    frozen = build(config.model_copy(update={"trainable": False})).train()
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    assert not frozen(images).requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())


@pytest.mark.parametrize("config", CONFIGS)
def test_fingerprint_follows_the_weights(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    first, again = build(config), build(config)
    assert first.fingerprint == again.fingerprint
    with torch.no_grad():
        again.conv1.weight[0, 0, 0, 0] += 1e-4
    assert first.fingerprint != again.fingerprint


def test_float64_images_and_weights_mix() -> None:
    images = torch.rand(2, 13, 60, 60, dtype=torch.float64)
    backbone = build(TRANSFORMER).eval()
    single = backbone(images)
    assert single.dtype == torch.float32
    torch.testing.assert_close(backbone.double()(images), single.double(), rtol=1e-4, atol=1e-5)


def test_attention_pooling_starts_normal_with_the_inverse_root_of_the_width() -> None:
    state = build(RESNET).state_dict()
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        weight = state[f"attnpool.{name}.weight"]
        assert float(weight.std()) == pytest.approx(1 / math.sqrt(512), rel=0.03)
        assert float(weight.abs().max()) > 2 / math.sqrt(512)


def test_every_residual_block_starts_as_its_skip() -> None:
    state = build(RESNET).state_dict()
    last = [name for name in state if name.startswith("layer") and name.endswith("bn3.weight")]
    assert len(last) == 6
    assert all(not state[name].any() for name in last)
    assert bool(state["bn3.weight"].all())


def test_transformer_starts_as_the_original() -> None:
    state = build(TRANSFORMER.model_copy(update={"num_layers": 1})).state_dict()
    for name in ("class_embedding", "positional_embedding", "proj"):
        assert float(state[name].std()) == pytest.approx(1 / math.sqrt(128), rel=0.2)
    assert state["positional_embedding"].shape == (3 * 3 + 1, 128)


def test_an_image_smaller_than_a_token_is_refused() -> None:
    with pytest.raises(ValidationError, match="image_size 16 must be at least patch_size 32"):
        VisionTransformerConfig(image_size=16, patch_size=32)


@pytest.mark.parametrize(
    "config",
    [
        VisionTransformerConfig(image_size=32, patch_size=16, width=96, num_layers=1, output_dim=5),
        ModifiedResNetConfig(image_size=48, width=8, num_blocks=(1, 1, 1, 1), output_dim=5),
        ModifiedResNetConfig(image_size=65, width=9, num_blocks=(1, 1, 1, 1), output_dim=5),
    ],
    ids=["width 96", "image size 48", "image size 65"],
)
def test_sizes_that_the_original_takes_are_taken(config: VisionTransformerConfig | ModifiedResNetConfig) -> None:
    features = build(config).eval()(torch.rand(2, 13, config.image_size, config.image_size))
    assert features.shape == (2, 5)
    assert bool(torch.isfinite(features).all())


def test_sizes_that_no_attention_takes_are_told() -> None:
    with pytest.raises(ValidationError, match="width 200 is not divisible by its 3 attention heads"):
        VisionTransformerConfig(width=200)
    with pytest.raises(ValidationError, match="32 width is 352, not divisible by 5 attention heads"):
        ModifiedResNetConfig(width=11)
    with pytest.raises(ValidationError, match="image_size 63 is one less than a multiple of 32"):
        ModifiedResNetConfig(image_size=63)
