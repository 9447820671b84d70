from pathlib import Path

import pytest
import torch
import torchgeo.models
from torch import nn

from satclip_model.config import MoCoConfig
from satclip_model.errors import CheckpointError
from satclip_model.image_encoder import MOCO_WEIGHTS, MoCoBackbone, load_moco_weights
from satclip_model.image_encoder.image_input import insert_cirrus_band

KINDS = ("moco_resnet18", "moco_resnet50", "moco_vit16")
NUM_CONVOLUTIONS = {"moco_resnet18": 20, "moco_resnet50": 53, "moco_vit16": 1}


def build_published(kind: str, num_classes: int) -> nn.Module:
    build = {
        "moco_resnet18": torchgeo.models.resnet18,
        "moco_resnet50": torchgeo.models.resnet50,
        "moco_vit16": torchgeo.models.vit_small_patch16_224,
    }[kind]
    with torch.device("meta"):
        network: nn.Module = build(in_chans=13, num_classes=num_classes)
    return network.eval()


def build_backbone(config: MoCoConfig) -> MoCoBackbone:
    with torch.device("meta"):
        return MoCoBackbone(config)


def fill[NetworkT: nn.Module](network: NetworkT) -> NetworkT:
    """Gives weights to a network without any, at a fraction of the cost of its own initial ones."""
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(2)
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.05, 0.05, generator=generator)
        else:
            tensor.zero_()
    return network


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_shapes_are_those_of_the_published_networks(kind: str) -> None:
    backbone = build_backbone(MoCoConfig(kind=kind))
    published = build_published(kind, num_classes=0).state_dict()
    shapes = {name: tensor.shape for name, tensor in backbone.network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published.items()}
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == NUM_CONVOLUTIONS[kind]


def test_published_weights_load_and_give_the_features_before_the_classifier(kind: str, tmp_path: Path) -> None:
    published = fill(build_published(kind, num_classes=5))
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(MoCoConfig(kind=kind)).to_empty(device="cpu")
    load_moco_weights(backbone, tmp_path / "weights.pth")
    size = 224 if kind == "moco_vit16" else 64
    images = torch.rand(2, 13, size, size)
    features = backbone(images)
    assert features.shape == (2, backbone.feature_dim)
    with torch.no_grad():
        classifier = published.get_submodule("head" if kind == "moco_vit16" else "fc")
        torch.testing.assert_close(classifier(features), published(images), rtol=1e-5, atol=1e-5)


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(fill(build_published("moco_resnet50", num_classes=0)).state_dict(), tmp_path / "resnet50.pth")
    backbone = fill(build_backbone(MoCoConfig(kind="moco_resnet18")))
    before = backbone.fingerprint
    with pytest.raises(
        CheckpointError, match=r"unexpected: .*layer1\.0\.bn3\.bias.*layer1\.0\.conv1\.weight has shape"
    ):
        load_moco_weights(backbone, tmp_path / "resnet50.pth")
    assert backbone.fingerprint == before
    torch.save({"conv1.weight": torch.zeros(64, 13, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing: bn1\.bias, bn1\.num_batches_tracked"):
        load_moco_weights(backbone, tmp_path / "part.pth")


def test_weights_of_other_channels_are_named(tmp_path: Path) -> None:
    torch.save(fill(build_published("moco_resnet18", num_classes=0)).state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(MoCoConfig(kind="moco_resnet18", in_channels=12))
    with pytest.raises(CheckpointError, match=r"conv1\.weight has shape \(64, 13, 7, 7\), expected \(64, 12, 7, 7\)"):
        load_moco_weights(backbone, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "state_dict": {}}, "a dictionary of epoch, state_dict; expected a state_dict"),
        ([1, 2], "holds a list; expected a state_dict"),
    ],
)
def test_files_of_other_content_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load_moco_weights(build_backbone(MoCoConfig(kind="moco_resnet18")), tmp_path / "weights.pth")


def test_published_names_are_those_of_torchgeo() -> None:
    enums = {
        "moco_resnet18": torchgeo.models.ResNet18_Weights,
        "moco_resnet50": torchgeo.models.ResNet50_Weights,
        "moco_vit16": torchgeo.models.ViTSmall16_Weights,
    }
    for kind, weights in enums.items():
        place, _, file = MOCO_WEIGHTS[kind].partition(":")
        repo, _, commit = place.partition("@")
        assert weights.SENTINEL2_ALL_MOCO.url.endswith(f"/{repo}/resolve/{commit}/{file}")
        assert weights.SENTINEL2_ALL_MOCO.meta["in_chans"] == 13
    assert set(MOCO_WEIGHTS) == set(KINDS)


def test_frozen_network_never_moves() -> None:
    backbone = MoCoBackbone(MoCoConfig(kind="moco_resnet18")).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    features = backbone(torch.rand(2, 12, 64, 64))
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_trainable_network_learns_and_moves_its_statistics() -> None:
    backbone = MoCoBackbone(MoCoConfig(kind="moco_resnet18", trainable=True)).train()
    before = backbone.state_dict()["network.bn1.running_mean"].clone()
    backbone(torch.rand(2, 12, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not torch.equal(before, backbone.state_dict()["network.bn1.running_mean"])


def test_cirrus_band_may_be_left_out_of_thirteen_channels_only() -> None:
    images = torch.rand(2, 12, 64, 96)
    backbone = MoCoBackbone(MoCoConfig(kind="moco_resnet18"))
    torch.testing.assert_close(backbone(images), backbone(insert_cirrus_band(images)))
    assert MoCoBackbone(MoCoConfig(kind="moco_resnet18", in_channels=12))(images).shape == (2, 512)
    with pytest.raises(ValueError, match="has 13 bands; this encoder takes 12"):
        MoCoBackbone(MoCoConfig(kind="moco_resnet18", in_channels=12))(insert_cirrus_band(images))


def test_transformer_sees_the_middle_of_larger_images() -> None:
    backbone, images = fill(build_backbone(MoCoConfig(kind="moco_vit16"))), torch.rand(1, 13, 256, 256)
    torch.testing.assert_close(backbone(images), backbone(images[..., 16:240, 16:240]))
    with pytest.raises(ValueError, match="128 x 128 pixels; this encoder takes 224 x 224 or larger"):
        backbone(torch.rand(1, 13, 128, 128))
