from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from satclip_model.checkpoint.official_names import from_official, to_official
from satclip_model.config import (
    ImageBackboneConfig,
    ImageHeadConfig,
    LocationEncoderConfig,
    MoCoConfig,
    ModifiedResNetConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
    VisionTransformerConfig,
)
from satclip_model.satclip import SatCLIP, build_satclip
from tests.satclip_model.name_seeding import draw_uniform, seed_by_name

REFERENCE = Path(__file__).parents[1] / "data" / "satclip_reference"
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0]], dtype=torch.float64)
IDENTITY = ImageHeadConfig(kind="identity")
TOWERS = [
    pytest.param(RandomFeaturesConfig(num_filters=4), ImageHeadConfig(), 64, id="random_convolutional"),
    pytest.param(MoCoConfig(kind="moco_resnet18", in_channels=12), ImageHeadConfig(), 64, id="moco_resnet18"),
    pytest.param(
        VisionTransformerConfig(image_size=64, width=64, num_layers=1, output_dim=16), IDENTITY, 64, id="clip_vit"
    ),
    pytest.param(
        ModifiedResNetConfig(image_size=64, width=4, num_blocks=(1, 1, 1, 1)), ImageHeadConfig(), 64, id="clip_resnet"
    ),
]


def settings(
    backbone: ImageBackboneConfig, head: ImageHeadConfig, num_degrees: int, hidden_dim: int, embedding_dim: int
) -> SatCLIPConfig:
    return SatCLIPConfig(
        location=LocationEncoderConfig(
            positional_encoding=SphericalHarmonicsConfig(num_degrees=num_degrees, convention="analytic"),
            network=SirenConfig(hidden_dim=hidden_dim),
            embedding_dim=embedding_dim,
        ),
        image_backbone=backbone,
        image_head=head,
        min_temperature=0.0,
    )


def require_reference(model: SatCLIP, images: Tensor, reference: "np.lib.npyio.NpzFile", name: str) -> None:
    model.eval()
    lonlat_deg = torch.tensor(reference[f"{name}_lonlat_deg"])
    with torch.no_grad():
        features = model.image_backbone(images)
        found = {
            "image_features": model.image_projection(features),
            "location_features": model.location_encoder(lonlat_deg),
            "logits_per_image": model(features, lonlat_deg)[0],
        }
    for key, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), reference[f"{name}_{key}"], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("kind", ["moco_resnet18", "moco_vit16"])
def test_full_size_models_equal_the_original(kind: str) -> None:
    config = settings(MoCoConfig(kind=kind), ImageHeadConfig(hidden_dim=0), 10, 512, 256)
    model = SatCLIP(config)
    model.location_encoder.double()
    official = to_official(config, model.state_dict())
    with np.load(REFERENCE / "towers.npz") as reference:
        assert sorted(official) == reference[f"{kind}_keys"].tolist()
        model.load_state_dict(from_official(config, seed_by_name(official)))
        images = draw_uniform(f"{reference[f'{kind}_tag']}image", tuple(reference[f"{kind}_image_shape"]))
        require_reference(model, images, reference, kind)


def test_small_model_with_a_trained_transformer_equals_the_original() -> None:
    backbone = VisionTransformerConfig(image_size=64, patch_size=16, width=64, num_layers=2, output_dim=64)
    config = settings(backbone, IDENTITY, 10, 64, 64)
    model = SatCLIP(config)
    model.location_encoder.double()
    official = torch.load(REFERENCE / "small_clip_vit_l10.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict(from_official(config, official))
    with np.load(REFERENCE / "towers.npz") as reference:
        rng = np.random.default_rng(int(reference["clip_vit_image_seed"]))
        images = torch.tensor(rng.random((4, 13, 64, 64)).astype(np.float16).astype(np.float32))
        require_reference(model, images, reference, "clip_vit")


@pytest.mark.parametrize(("backbone", "head", "size"), TOWERS)
def test_both_towers_work_with_every_family_of_image_backbones(
    backbone: ImageBackboneConfig, head: ImageHeadConfig, size: int
) -> None:
    model = build_satclip(settings(backbone, head, 4, 8, 16 if head.kind == "identity" else 6), seed=0).eval()
    images = torch.rand(2, 12, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.image_backbone(images)
        per_image, per_location = model(features, LONLAT_DEG)
        embeddings = model.encode_image(images)
        torch.testing.assert_close(embeddings, model.encode_image_features(features))
        expected = model.logit_scale.exp() * embeddings @ model.encode_location(LONLAT_DEG).T
    assert features.shape == (2, model.image_backbone.feature_dim) == (2, backbone.feature_dim)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(per_image, expected)
    torch.testing.assert_close(per_location, expected.T)


@pytest.mark.parametrize("part", ["location_encoder", "whole"])
def test_float64_towers_give_the_same_logits(part: str) -> None:
    backbone = VisionTransformerConfig(image_size=64, width=64, num_layers=1, output_dim=6)
    model = build_satclip(settings(backbone, IDENTITY, 4, 8, 6), seed=0).eval()
    images = torch.rand(2, 12, 64, 64)
    expected = model(model.image_backbone(images), LONLAT_DEG)[0]
    (model if part == "whole" else model.location_encoder).double()
    logits = model(model.image_backbone(images), LONLAT_DEG)[0]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
